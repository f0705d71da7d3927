"""A KeyboardInterrupt anywhere inside the in-memory ledger leaves nothing clean that may be wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from zddm_flags import ledger
from zddm_flags.ledger import LedgerTable


def interrupted(step: Callable[[], object], line: int) -> bool:
    """Run `step` and raise KeyboardInterrupt before the `line`-th line of the ledger; False: it has fewer."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != ledger.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        step()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("line", range(1, 40))
@pytest.mark.parametrize("what", ["begin", "begin_copy", "end", "reap"])
def test_interrupted(what: str, line: int) -> None:
    """After the interrupt every pending token can be reaped, and a key that was not ended as ok stays dirty."""
    table = LedgerTable()
    if what == "begin":
        was = interrupted(lambda: table.begin([b"k"], b"token", 0.0), line)
    elif what == "begin_copy":
        was = interrupted(lambda: table.begin_copy([b"k"], b"token", 0.0), line)
    else:
        table.begin([b"k"], b"token", 0.0)
        if what == "end":
            was = interrupted(lambda: table.end({b"k": False}, b"token"), line)
        else:
            was = interrupted(lambda: table.reap(1.0, 10), line)
        assert table.dirty([b"k"])
    table.reap(1.0, 10)
    assert table.summary(1.0).pending == 0
    if what in ("end", "reap"):
        assert table.dirty([b"k"])
    assert table.begin([b"k"], b"next", 2.0).contended <= (frozenset({b"k"}) if was else frozenset())
    table.end({b"k": True}, b"next")
    table.begin([b"k"], b"last", 3.0)
    table.end({b"k": True}, b"last")
    assert not table.dirty([b"k"])


def test_the_lines_are_enough() -> None:
    """Every line of each step was interrupted above: none has as many as were tried."""
    table = LedgerTable()
    assert not interrupted(lambda: table.begin([b"k"], b"token", 0.0), 39)
    assert not interrupted(lambda: table.reap(1.0, 10), 39)
