"""docs/exploring.md does what it says."""

import contextlib
import io
import re
from pathlib import Path

from zddm_flags.testing import scenario

PAGE = Path(__file__).parents[2] / "docs" / "exploring.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```python\n(?P<code>.*?)^```\n\n```text\n(?P<output>.*?)^```\n", re.DOTALL | re.MULTILINE)


def test_the_code_runs_and_prints_what_the_page_shows():
    """The shipped proxy keeps the promise of the page's scenario, and the cache breaks it as shown."""
    names = {}
    blocks = list(BLOCKS.finditer(TEXT))
    assert len(blocks) == TEXT.count("```python") == 2
    for block in blocks:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(block["code"], str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
        assert output.getvalue() == block["output"]


def test_every_kind_of_step_is_named():
    """The page names each operation and each event."""
    for kind in (*scenario.Operation.__subclasses__(), *scenario.Event.__subclasses__()):
        assert f"`{kind.__name__}`" in TEXT
