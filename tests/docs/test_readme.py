"""The README does what it says."""

import contextlib
import io
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from zddm_adapters import InMemoryAdapter
from zddm_flags import Proxy, TrafficGate
from zddm_flags.cli import run
from zddm_flags.testing import FlagServer

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.compile(
    r"^```(?P<kind>python|console)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
COMMAND = re.compile(r"^\$ (zddm .*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@pytest.fixture
def readme_folder(tmp_path, monkeypatch):
    """Where the README's files go."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_code_runs_and_prints_what_the_page_shows(readme_folder, monkeypatch):
    """Every block runs, in order, and prints the text block that follows it."""
    # Executing strings needs a module for the dataclass machinery to find.
    module = type(sys)("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    monkeypatch.setitem(sys.modules, "app", type(sys)("app"))
    monkeypatch.setitem(sys.modules, "app.stores", module)  # what its commands point at
    with FlagServer({"users-migration-rate": 0}) as flags:
        monkeypatch.setenv("LAUNCHDARKLY_SDK_KEY", "sdk-local")
        monkeypatch.setattr("ldclient.LDClient", lambda config: flags.client(sdk_key=config.sdk_key))
        module.flags = flags
        checked = 0
        for block in BLOCKS.finditer(TEXT):
            line = TEXT.count("\n", 0, block.start("code"))
            if block["kind"] == "console":
                for command, shown in COMMAND.findall(block["code"]):
                    run_and_compare(command, shown, monkeypatch)
                assert dict(module.old.scan().items) == dict(module.new.scan().items)
                continue
            output = io.StringIO()
            with contextlib.redirect_stdout(output), _quiet_logs():
                exec(compile("\n" * line + block["code"], str(README), "exec"), vars(module))  # noqa: S102
            assert output.getvalue() == (block["output"] or ""), f"the block at line {line + 1}"
            checked += block["output"] is not None
        assert checked == TEXT.count("```text")
        module.source.close()
        for engine in (module.old_engine, module.new_engine, module.ledger_engine):
            engine.dispose()


def run_and_compare(command, shown, monkeypatch):
    """A command ends with 0 and prints what the page shows, where `...` stands for any lines."""
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), _quiet_logs():
        assert run() == 0, command + errors.getvalue()
    printed, shown = (re.sub(r"\bin [\d.]+ s\b", "in T", each) for each in (output.getvalue(), shown))
    first, cut, last = shown.partition("...\n")
    assert printed == shown if not cut else printed.startswith(first) and printed.endswith(last), command


@contextlib.contextmanager
def _quiet_logs():
    from structlog.testing import capture_logs

    with capture_logs():
        yield


def test_the_number_of_seeded_mistakes_is_the_real_one():
    """The README counts the mistakes that the tests seed."""
    said = re.search(r"(\d+) mistakes\s+seeded", TEXT)
    seeds = (ROOT / "tests" / "explorer" / "mistakes.py").read_text(encoding="utf-8").count("    Seed(")
    assert said is not None
    assert int(said[1]) == seeds


def test_every_extra_exists_and_is_explained():
    """The README explains each extra of the package but the developers', and names no other."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    table = re.search(r"^\| extra .*?\n\n", TEXT, re.DOTALL | re.MULTILINE)
    assert table is not None
    cells = [line.split("|")[1] for line in table[0].splitlines()[2:] if line]
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == set(extras) - {"dev"}


def test_the_store_in_ten_lines_is_a_store(readme_folder):
    """The JSON files of the README work as New."""
    code = next(block["code"] for block in BLOCKS.finditer(TEXT) if "class JsonFiles" in block["code"])
    names = {}
    exec(code, names)  # noqa: S102 - the page is ours
    new = names["JsonFiles"](readme_folder)
    proxy = Proxy(TrafficGate(1.0), InMemoryAdapter({"ada": {"born": 1815}}), new)
    assert proxy.read("ada") == {"born": 1815} == new.read("ada")
    assert proxy.stats().operations == {("read", "copied"): 1}


def test_links_lead_somewhere():
    """Each relative link of the README and the docs is a file, and a heading of it."""
    for page in [README, *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            file, _, heading = link.partition("#")
            if "://" in link:
                continue
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {link}"
            if heading:
                assert heading in _headings(target), f"{page.name}: {link}"


def _headings(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    return {
        re.sub(r"[^\w -]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
        for line in lines
        if line.startswith("#")
    }


def test_exactly_two_commands_set_up():
    """The README's first code block has make demo and make test, and nothing else to run."""
    first = re.search(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ndemo:" in targets
    assert "\ntest:" in targets
