# Generated from zddm_flags/testing/_async/rules.py by `make generate`. Do not edit.
"""How a rule of a contract becomes a test that pytest runs without a plugin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, Protocol, TypeVar

from zddm_flags.errors import NotApplied
from zddm_flags.testing._sync._world import Body, run

__all__ = ["Contract", "error_of", "rule", "until_applied", "until_it_answers"]

ATTEMPTS = 20


class Contract(Protocol):
    """What checks a body of a rule against what the user has."""

    def check_rule(self, body: Callable[[Any, Any], Body], needs: Sequence[str], /) -> None:
        """Run `body` with a store that is empty; skip it where the store lacks one of `needs`."""
        ...


C = TypeVar("C", bound=Contract)


def rule(*needs: str) -> Callable[[Callable[[C, Any], Body]], Callable[[C], None]]:
    """Make a plain test of a rule that takes what is checked, and needs these methods of it."""

    def decorate(body: Callable[[C, Any], Body]) -> Callable[[C], None]:
        @wraps(body)
        def test(self: C) -> None:
            __tracebackhide__ = True
            run(partial(self.check_rule, body, needs))

        vars(test).pop("__wrapped__")  # pytest would take the body's arguments for fixtures
        return test

    return decorate


def error_of(call: Callable[[], Any]) -> Exception | None:
    """What the call raises, or None where it returns."""
    try:
        call()
    except Exception as error:
        return error
    return None


def until_applied(call: Callable[[], Any]) -> Any:
    """Make a change again where it certainly took no effect, as a store may say under contention."""
    for _ in range(ATTEMPTS):
        try:
            return call()
        except NotApplied:
            continue
    return call()


def until_it_answers(call: Callable[[], Any]) -> Any:
    """The answer of a store that was away, to which connections may be broken."""
    for _ in range(ATTEMPTS):
        if error_of(call) is None:
            break
    return call()
