"""docs/writing-an-adapter.md does what it says."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "writing-an-adapter.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n", TEXT, re.DOTALL | re.MULTILINE)


def run(folder, *options):
    """The page's code as a test module of a project without plugins, and what pytest says of it."""
    (folder / "test_page.py").write_text("\n\n".join(BLOCKS), encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    path = f"import sys; sys.path[:0] = {[str(ROOT / part) for part in ('', 'adapters', 'telemetry')]!r}; "
    command = [sys.executable, "-c", f"{path}import pytest; sys.exit(pytest.main(sys.argv[1:]))"]
    arguments = ["-q", "-rfs", "-p", "no:cacheprovider", "-p", "no:asyncio", *options]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_classes_of_the_page_pass_and_fail_as_it_says(tmp_path):
    """All of the page's classes pass but the one that it says fails, in a project without pytest-asyncio."""
    said = run(tmp_path)
    failed = re.findall(r"^FAILED \S+::(\w+)::(\w+)", said, re.MULTILINE)
    assert failed == [("TestJsonFilesInAFolder", "test_an_outage_raises")], said
    assert "read() returned while the store could not be reached" in said
    assert re.search(r"1 failed, \d{2,} passed, \d+ skipped", said), said


def test_the_sentence_of_the_page_is_the_real_one(tmp_path, monkeypatch):
    """An adapter that lowers its keys fails with the sentence that the page quotes."""
    monkeypatch.setitem(globals(), "BLOCKS", [BLOCKS[0].replace("quote(key,", "quote(key.lower(),"), *BLOCKS[1:]])
    said = run(tmp_path, "-k", "TestJsonFiles and not Folder and not Careful and stay_apart")
    assert "after different values were written to each of" in said
    assert (
        "read('a') gave {'number': 1}, which is not {'number': 0}. Your store takes two of these keys for" in said
    )
    assert "1 failed" in said
