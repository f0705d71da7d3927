"""docs/finishing.md does what it says."""

import contextlib
import importlib
import io
import re
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from zddm_adapters import InMemoryAdapter
from zddm_flags import Backfill, InMemoryLedger, NotApplied, Proxy, Repair, Rollout, TrafficGate, Verify
from zddm_flags.cli import command_line, run
from zddm_flags.jobs import Plan, Range
from zddm_flags.ledger import LedgerSummary
from zddm_flags.testing import FlagServer
from zddm_flags.verdict import reasons_not_to_cut_over

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "finishing.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^```(?P<kind>python|console)\n(?P<body>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
COMMAND = re.compile(
    r"^\$ (?P<command>zddm .*?)(?: +# exit code (?P<code>\d+))?\n(?P<shown>(?:(?!\$ ).*\n)*)", re.MULTILINE
)


@pytest.fixture
def application(tmp_path, monkeypatch):
    """The page's `app/stores.py`, in the current directory, and the flag that it follows."""
    stores = next(block["body"] for block in BLOCK.finditer(TEXT) if "def users_for_jobs" in block["body"])
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "stores.py").write_text(stores, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OLD_DATABASE_URL", f"sqlite:///{tmp_path}/old.db")
    monkeypatch.setenv("NEW_DATABASE_URL", f"sqlite:///{tmp_path}/new.db")
    monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", "sdk-local")
    with FlagServer({"users-migration-rate": 1}) as flags:
        monkeypatch.setattr("ldclient.LDClient", lambda config: flags.client(sdk_key=config.sdk_key))
        yield flags
    for name in [name for name in sys.modules if name.partition(".")[0] == "app"]:
        del sys.modules[name]


def test_the_page_is_what_happens(application, monkeypatch):
    """Each program runs and prints what it shows, each command too, with the exit code that stands beside it."""
    names, commands = {}, 0
    with capture_logs():
        stores = importlib.import_module("app.stores")
        for block in list(BLOCK.finditer(TEXT))[1:]:
            line = TEXT.count("\n", 0, block.start("body"))
            if block["kind"] == "python":
                if "DELETE FROM people" in block["body"]:  # the step before: turn the flag off
                    application.turn_off("users-migration-rate")
                    wait_for(stores.gate, 0)
                output = io.StringIO()
                with contextlib.redirect_stdout(output):
                    exec(compile("\n" * line + block["body"], str(PAGE), "exec"), names)  # noqa: S102
                assert output.getvalue() == (block["output"] or ""), f"the block at line {line + 1}"
            for command in COMMAND.finditer(block["body"] if block["kind"] == "console" else ""):
                run_and_compare(command, monkeypatch)
                commands += 1
        assert commands == TEXT.count("\n$ zddm")
        stores.source.close()
        for engine in (stores.old_engine, stores.new_engine, stores.ledger_engine):
            engine.dispose()


def wait_for(gate, rate):
    deadline = time.monotonic() + 5
    while gate.rate != rate:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def run_and_compare(command, monkeypatch):
    """Run it as the command line does. What is shown is stdout, or its beginning, or the error."""
    arguments = shlex.split(command["command"])
    monkeypatch.setattr(sys, "argv", arguments)
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = run()
    assert code == int(command["code"] or 0), command["command"] + errors.getvalue()
    printed = output.getvalue() or errors.getvalue()[errors.getvalue().index("Error:") :]
    shown = timeless(command["shown"])
    if arguments[1] == "verify":  # whose reports are long
        printed = printed[: len(command["shown"])]
    assert timeless(printed).splitlines() == shown.splitlines()


def timeless(text):
    """The text without how long something took."""
    return re.sub(r"\b(in|heard of) [\d.]+ s\b", r"\1 T", text)


def test_the_proxy_for_jobs_is_the_applications(application):
    """The page's second proxy, that a function makes, has the same ledger, and the commands close it."""
    with capture_logs():
        stores = importlib.import_module("app.stores")
        for engine, name in ((stores.old_engine, "users"), (stores.new_engine, "people")):
            stores.users_table(name).create(engine)
        stores.old.write_many({f"u{n}": stores.User("", 0.0, "") for n in range(5)})
        run = CliRunner().invoke(command_line, ["backfill", "app.stores:users_for_jobs"])
        assert "5 copied" in run.stdout
        status = stores.users.migration_status()
        assert status.backfill.counts["copied"] == 5
        stores.source.close()
        for engine in (stores.old_engine, stores.new_engine, stores.ledger_engine):
            engine.dispose()


# -- the tables ------------------------------------------------------------------------------------------------


def reasons():
    """Each reason that there is, once."""
    ranges = (Range(None, None),)
    counted = {"refused": 2, "changed": 2, "unsure": 2}
    backfill = Plan("a", ranges, {}, state="finished", result={"covered": 0.5, "counts": counted})
    verify = Plan("b", ranges, {}, state="finished", after=None, result={"counts": counted})
    nothing = LedgerSummary(0, 0, None, 1.0, 0)
    found = []
    for age in (5.0, 60.0):
        ledger = LedgerSummary(2, 1, age, 0.5, 0)
        found += reasons_not_to_cut_over(Rollout(0.5, 0.5), ledger, None, None, 34.0)
    for plans in ((backfill, verify), (Plan("a", ranges, {}), Plan("b", ranges, {}))):
        found += reasons_not_to_cut_over(Rollout(1.0, 1.0), nothing, *plans, 34.0)
    return set(found)


def test_every_reason_is_on_the_page():
    """The table of reasons has each that status gives, in its words, and no other."""
    table = TEXT.split("| reason (N stands for a number) | do |\n|---|---|\n")[1].split("\n\n")[0]
    shown = [row.split(" | ")[0].removeprefix("| ") for row in table.splitlines()]
    given = {re.sub(r"(?<! to )(?<!rate of )\b\d[\d.]*( %)?", "N", each) for each in reasons()}
    assert len(given) == 17
    assert sorted(shown) == sorted(given)


class Refusing(InMemoryAdapter):
    refuses = True

    def write(self, key, value):
        if self.refuses:
            raise NotApplied("a constraint") from ValueError()
        super().write(key, value)

    def write_many(self, items):
        for key, value in items.items():
            self.write(key, value)


def test_the_advice_for_keys_that_a_backfill_left_leads_to_the_end():
    """Whoever runs repair, then backfill and verify again, as status says, is told to cut over."""
    new = Refusing()
    with capture_logs():
        proxy = Proxy(TrafficGate(1.0), InMemoryAdapter({"k": 1}), new)
        assert Backfill(proxy).run().refused == 1
        new.refuses = False
        Repair(proxy).run()
        Verify(proxy).run()
        [reason] = proxy.migration_status().reasons
        assert reason.endswith("run repair, then backfill and verify again")
        Backfill(proxy).run()
        Verify(proxy).run()
        assert proxy.migration_status().ready


def test_what_it_says_while_it_waits_and_ends():
    """Messages that the page quotes are the program's."""
    sources = "".join(
        re.sub(r'"\s*\n\s*f?"', "", file.read_text(encoding="utf-8"))
        for folder in ("_async", "cli")
        for file in (ROOT / "zddm_flags" / folder).glob("*.py")
    )
    page = TEXT.replace("\n", " ")
    for quoted in (
        "operations on some keys are in progress, or were left by a crash",
        ", and goes on from the last page that was saved",
        "refused by New",
        "left, for operations went on for too long, or New failed",
        "too long for a ledger",
    ):
        assert quoted in sources
        assert quoted in page


def test_the_options_are_the_commands():
    """Each option that the page names is one of a command's; it names each command, and each option of verify."""
    options = {
        name: {option for each in command.params for option in each.opts if option.startswith("--")}
        for name, command in command_line.commands.items()
    }
    named = set(re.findall(r"`(?:zddm \w+ |verify |repair )?(--[a-z-]+)", TEXT.replace("\n", " ")))
    assert len(named) > 20
    assert named <= set().union(*options.values())
    for command in set(options) - {"demo"}:
        assert f"`zddm {command}" in TEXT
    told = set(re.findall(r"--[a-z-]+", TEXT))
    assert options["verify"] - told == set()


def test_tests_named_exist():
    """Each test that the page names is in the file that it names."""
    references = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(references) > 12
    for file, test in references:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


# -- what it costs ---------------------------------------------------------------------------------------------


class Counted:
    """Counts the calls of what it stands for."""

    def __init__(self, name, counted, calls):
        self._name, self._counted, self._calls = name, counted, calls

    def __getattr__(self, attribute):
        found = getattr(self._counted, attribute)
        if attribute in ("describe", "last_summary"):
            return found

        def call(*arguments):
            self._calls[f"{self._name} {attribute}"] += 1
            return found(*arguments)

        return call


def counted(name, store, calls) -> Any:
    return Counted(name, store, calls)


class CountedLedger(InMemoryLedger):
    def __init__(self, calls):
        super().__init__()
        self._calls = calls

    def migration(self, name, identity, token_seconds=0.0) -> Any:
        return counted("ledger", super().migration(name, identity, token_seconds), self._calls)


COSTS = {
    "backfill, keys that New lacks": (Backfill, {}),
    "backfill, keys that New has": (Backfill, {"copied": True}),
    "verify, both walked side by side": (Verify, {"copied": True}),
    "verify, for the suspected keys of a page": (Verify, {"copied": True, "wrong": True}),
}


@pytest.mark.parametrize("row", COSTS)
def test_calls_of_a_page(row):
    """Ten pages make ten times the calls that the page's table has, and no others but at the ends."""
    job, state = COSTS[row]
    calls = Counter()
    old, new = InMemoryAdapter({f"{number:04}": number for number in range(10_000)}), InMemoryAdapter()
    proxy = Proxy(
        TrafficGate(1.0),
        counted("old", old, calls),
        counted("new", new, calls),
        name="n",
        ledger=CountedLedger(calls),
        guard=None,
    )
    if state.get("copied"):
        assert Backfill(proxy).run().complete
    if state.get("wrong"):
        new.write_many({f"{number:04}": -1 for number in range(0, 10_000, 500)})
    calls.clear()
    assert job(proxy).run().finished
    lines = [line.split(" | ") for line in TEXT.splitlines() if line.startswith("| ") and line.count(" | ") == 3]
    shown = {line[0].removeprefix("| "): [cell.strip(" |") for cell in line[1:]] for line in lines}
    wanted = set()
    for look in [row, "verify, both walked side by side"] if "suspected" in row else [row]:
        for store, cell in zip(("old", "new", "ledger"), shown[look], strict=True):
            wanted |= {f"{store} {call}" for call in cell.split(", ")}
    names = {"ledger checkpoint": "ledger save_checkpoint"}
    if "suspected" in row:
        names |= {"old read": "old read_many", "new read": "new read_many"}
    assert {name for name, number in calls.items() if number >= 10} == {names.get(each, each) for each in wanted}
    assert max(calls.values()) <= 14
