"""docs/launchdarkly.md does what it says."""

import re
from pathlib import Path

import pytest

from zddm_flags import LaunchDarklySource, TrafficGate, launchdarkly
from zddm_flags.testing import FlagServer

PAGE = Path(__file__).parents[2] / "docs" / "launchdarkly.md"
FAILURES = Path(__file__).with_name("test_failures.py")
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_the_code_runs(monkeypatch):
    """The page's code runs from top to bottom, with a flag server in LaunchDarkly's place."""
    with FlagServer({"users-migration-rate": 0.25}) as server:
        monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", "sdk-local")
        monkeypatch.setattr("ldclient.LDClient", lambda config: server.client(sdk_key=config.sdk_key))
        names = {}
        blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
        rates = []
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
            rates.append(names["gate"].rate)
        names["post_fork"](None, None)
        assert rates == [0.25, 0.0, 0.25, 0.25, 0.25]
        names["source"].close()


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
        for name in re.findall(rf"\b{owner}\.(\w+)", TEXT):
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
