"""docs/launchdarkly.md does what it says."""

import contextlib
import io
import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from zddm_flags import LaunchDarklySource, Rollout, TrafficGate, launchdarkly
from zddm_flags.testing import FlagServer

PAGE = Path(__file__).parents[2] / "docs" / "launchdarkly.md"
FAILURES = Path(__file__).with_name("test_failures.py")
TEXT = PAGE.read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)


FLAG = "users-migration-rate"


def section(heading):
    return TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def made(variations, *, on=True, serves=0):
    """The flag as the page has it made: its off variation and its default rule serve the one with rate 0."""
    return {
        "on": on,
        "variations": variations,
        "offVariation": 0,
        "fallthrough": {"variation": serves},
        "salt": "salt",
    }


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_the_code_runs_and_prints_what_the_page_shows(monkeypatch):
    """Each block runs, in order, on the flag that the page has made, and prints the text that follows it."""
    with FlagServer({}) as server:
        server.set_flag(FLAG, made([0, 0.01, 0.1, 0.5, 1]))
        monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", "sdk-local")
        monkeypatch.setattr("ldclient.LDClient", lambda config: server.client(sdk_key=config.sdk_key))
        names = {}
        shown = 0
        for block in BLOCK.finditer(TEXT):
            line = TEXT.count("\n", 0, block.start("code"))
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile("\n" * line + block["code"], str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
            assert output.getvalue() == (block["output"] or ""), f"the block at line {line + 1}"
            shown += block["output"] is not None
            if "source.close()" in block["code"]:
                assert names["gate"].rate == 0
                assert names["source"].evaluation.reason == "closed"
        assert shown == TEXT.count("```text") == 2
        names["post_fork"](None, None)
        server.set_flag(FLAG, made([0, 0.01, 0.1, 0.5, 1], serves=3))
        names["wait_for"](names["source"], 0.5)
        assert names["gate"].rate == 0.5
        names["source"].close()


@pytest.mark.parametrize("kind", ["Number", "JSON"])
def test_the_steps_to_make_and_ramp_a_flag(kind, context, reaches):
    """The page's variations, stepped through by the default rule, are the rates; turning the flag off is 0."""
    steps = section("Make the flag").partition("Add the variations")[2].partition("\n3. ")[0]
    numbers, objects = steps.partition("Number:")[2].partition("JSON:")[::2]
    text = numbers.partition(", and others")[0] if kind == "Number" else objects.partition(" and so on")[0]
    variations = [json.loads(each) for each in re.findall(r"`([^`]+)`", text)]
    assert len(variations) >= 3
    with FlagServer({}) as server:
        server.set_flag(FLAG, made(variations))
        with LaunchDarklySource(server.client(), FLAG, context) as source:
            for number, variation in enumerate(variations):
                server.set_flag(FLAG, made(variations, serves=number))
                assert reaches(source, Rollout.parse(variation))
                assert number == 0 or source.evaluation.variant == str(number)
            server.set_flag(FLAG, made(variations, serves=len(variations) - 1, on=False))
            assert reaches(source, 0.0)
            assert (source.evaluation.reason, source.evaluation.variant) == ("disabled", "0")


def test_what_an_evaluation_says(context):
    """A flag that serves, is off, is no rate or is not there, and who does not answer, are in the page's table."""
    rows = {
        (reason, row[1])
        for row in re.findall(r"^\| (`.*?) \| `(\w+)` \|", section("Follow it"), re.MULTILINE)
        for reason in re.findall(r"\w+", row[0])
    }
    with FlagServer({FLAG: 0.5, "other": "fast"}) as server:
        with LaunchDarklySource(server.client(), FLAG, context) as source:
            serving = source.evaluation
        closed = source.evaluation
        with LaunchDarklySource(server.client(), "other", context) as source:
            refused = source.evaluation
        with LaunchDarklySource(server.client(), "user-migration-rate", context) as source:
            wrong = source.evaluation
        server.turn_off(FLAG)
        with LaunchDarklySource(server.client(), FLAG, context) as source:
            off = source.evaluation
        server.refuse(503)
        with LaunchDarklySource(server.client(start_wait=0), FLAG, context) as source:
            unanswered = source.evaluation
    assert (wrong.variant, wrong.reason, wrong.error) == (None, "error", "flag_not_found")
    assert (unanswered.variant, unanswered.reason) == (None, "default")
    for each in (serving, off, refused, wrong, unanswered, closed):
        assert (each.reason, str(each.error)) in rows
    assert len({(each.reason, each.error) for each in (serving, off, refused, wrong, unanswered, closed)}) == 6


def test_each_call_of_the_table_works():
    """What the page says to call for a ramp, a kill and each outage is what the server takes."""
    table = section("Test ramps and kills").partition("| to test | call |")[2]
    calls = re.findall(r"`((?:server\.|FlagServer\()[^`]*)`", table.partition("\n\n")[0])
    assert len(calls) >= 12
    with FlagServer({FLAG: 0.25}) as server, ExitStack() as stack:
        for call in calls:
            code = call.replace("{...}", "{'on': False}").replace("8030", "0")
            names = {"server": server, "FlagServer": FlagServer, "key": FLAG, "flags": {FLAG: 0.5}}
            if call.startswith("server.turn") or "delete" in call:
                server.set(FLAG, 0.25)
            made = eval(compile(code, str(PAGE), "eval"), names)  # noqa: S307 - the page is ours
            if isinstance(made, FlagServer):
                stack.callback(made.close)


def test_every_log_event_is_on_the_page():
    """Each log event of the source is explained, but the one for failures that nobody foresaw."""
    source = Path(launchdarkly.__file__).read_text(encoding="utf-8")
    logged = set(re.findall(r'"((?:launchdarkly|rollout|rate|flag)_\w+)"', source)) - {
        "flag_key",
        "flag_value",
    }
    assert logged - {"launchdarkly_source_failed"} == {event for event in logged if f"`{event}`" in TEXT}


def test_every_method_of_the_server_that_is_named_exists():
    """What the page calls on server, source, gate and client is there."""
    for owner, kind in (("server", FlagServer), ("source", LaunchDarklySource), ("gate", TrafficGate)):
        for name in re.findall(rf"(?<![\w.]){owner}\.(\w+)", TEXT):
            assert hasattr(kind, name), name


def test_each_row_has_its_test_and_each_test_its_row():
    """The table of what happens when names a test in each row, and every test of the file once."""
    section = TEXT.partition("## What happens when")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "| test |" not in line]
    named = [re.findall(r"`(test_\w+)` \|$", row) for row in rows]
    written = re.findall(r"^(?:async )?def (test_\w+)", FAILURES.read_text(encoding="utf-8"), re.MULTILINE)
    assert f"`tests/launchdarkly/{FAILURES.name}`" in section
    assert len(written) > 20
    assert sorted(named) == sorted([test] for test in written)
