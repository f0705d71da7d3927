"""The rollout as a LaunchDarkly flag says it, live.

The SDK is not imported here: it comes with the client that the application made.
"""

from __future__ import annotations

import contextvars
import inspect
import math
import reprlib
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Literal, Self

from zddm_flags import _fork
from zddm_flags.errors import InvalidRollout, NotForked
from zddm_flags.rollout import CLOSED, Evaluation, Rollout, change_of
from zddm_telemetry import report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from ldclient.client import LDClient
    from ldclient.context import Context
    from ldclient.evaluation import EvaluationDetail
    from ldclient.interfaces import DataSourceStatus, FlagChange

__all__ = ["LaunchDarklySource"]

CONNECTED = "valid"
"""The state of the SDK's data source in which it receives changes."""

FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.01, 1.0
"""How long to wait before looking again whether the client is ready; doubled from one look to the next."""

JOIN_SECONDS = 5.0
"""How long `close` waits for a thread: one may be inside of the application's logging."""

REMEMBERED_TEXTS = 100
"""How many refused values and failures are remembered, so that each is logged once."""

NEXT_TEXT_SECONDS = 10.0
"""How often a further one is logged: a failure whose text is another one each time must not flood the log."""

SERVED_ITS_OFF_VARIATION = ("OFF", "PREREQUISITE_FAILED")
"""The SDK's reasons for a value that is the flag's off variation: somebody, or another flag, turned it off."""

REFUSED = "flag_value_refused"
"""The log event and the error of a value that is no rollout."""

REASONS = {
    "ERROR": "error",
    "OFF": "disabled",
    "RULE_MATCH": "targeting_match",
    "TARGET_MATCH": "targeting_match",
}
"""The SDK's reasons that OpenTelemetry has a word for."""

EVENTS_KEPT = 1000
"""How many log events may wait for their thread; beyond that the oldest are dropped."""

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = _shortened.maxlong = 100
_shortened.maxlevel = 2  # at the default of 6, nested lists come to megabytes

_Level = Literal["info", "warning", "error"]


class LaunchDarklySource:
    """Follows one LaunchDarkly flag: a `RolloutSource` for `TrafficGate`.

    ::

        context = Context.builder("users-service").kind("service").build()
        source = LaunchDarklySource(client, "users-migration-rate", context)
        gate = TrafficGate(source)

    Args:
        client: the application's `ldclient.LDClient`, ready or not. It stays the application's, to be closed
            after this source.
        flag_key: of a number flag (a rate from 0 to 1) or a JSON flag (`{"read": 0.1, "write": 0.5}`).
        context: the one context to evaluate the flag for: the service, not a user. The gate chooses the keys.
        default: the rollout where LaunchDarkly has no value for the flag: it is off and has no off variation,
            is deleted, unknown or malformed, or the client is not ready. A rate, a `Rollout`, or an object as
            `Rollout.parse` takes it; 0.0 closes the gate.
        refresh_seconds: from 0.01 to 86,400. How often the flag is evaluated besides when the SDK reports a
            change, because there are changes that the SDK does not report. It also tells LaunchDarkly that
            the flag is in use.
        max_staleness: seconds, above 0. After this long without a connection to LaunchDarkly, through which a
            kill could arrive, the gate closes until there is one again. The SDK can take 300 s to notice a
            connection that is silently broken; they come on top. None: the last rate stays. Not for clients
            that never connect: offline, daemon mode, TestData, files.

    A value that is no rollout is refused: the last good one stays, and the log says so once per value
    (`flag_value_refused`). Where that value is the off variation, the default is taken instead, for turning the
    flag off is a kill, whatever it serves then. Also logged are `rate_changed`, `launchdarkly_connection_changed`,
    `rollout_stale_closed`, `launchdarkly_source_failed` and `launchdarkly_forked`.

    One daemon thread does all but follow the changes that the SDK reports, another one logs. After a fork the
    child's gate is closed until `postfork`. Thread-safe.

    Raises:
        InvalidRollout: `default` is no rollout.
        ValueError: the flag key is empty, the context invalid, or a number of seconds out of range.
        TypeError: a number of seconds is no number, or the client is LaunchDarkly's asyncio client; the
            ordinary one serves asyncio programs as well.
    """

    def __init__(
        self,
        client: LDClient,
        flag_key: str,
        context: Context,
        *,
        default: object = 0.0,
        refresh_seconds: float = 30.0,
        max_staleness: float | None = None,
    ) -> None:
        # Before there is a thread that logs: an import that such a thread is in the middle of at a fork never ends
        # in the child, where every thread that logs would wait for it.
        import structlog  # noqa: F401, PLC0415 - not at the top: it loads rich where that is installed

        if inspect.iscoroutinefunction(client.variation_detail):
            raise TypeError("LaunchDarklySource takes an ldclient.LDClient, in an asyncio program too")
        if not flag_key:
            raise ValueError("the flag key is empty")
        if not context.valid:
            raise ValueError(f"the context is invalid: {context.error}")
        self.flag_key = flag_key
        self.alarm: Callable[[], None] | None = None
        self._client = client
        self._context = context
        self._default = default if isinstance(default, Rollout) else Rollout.parse(default)
        self._refresh_seconds = _checked("refresh_seconds", refresh_seconds, 0.01, 86_400)
        self._max_staleness = None if max_staleness is None else _checked("max_staleness", max_staleness)
        self._listeners: tuple[Callable[[Rollout], None], ...] = ()
        self._remembered: dict[str, None] = {}
        self._next_text_at = 0.0
        self._generation = 0
        self._evaluation = self._evaluated(CLOSED, "default")
        self._closed = False
        self._renew()
        self._follow_client()
        _fork.after_fork_in_child(self._close_in_forked_child)

    @property
    def rollout(self) -> Rollout:
        """The rollout wanted now. No I/O, no evaluation."""
        return self._evaluation.rollout

    @property
    def evaluation(self) -> Evaluation:
        """How the rollout wanted now came about. No I/O, no evaluation.

        It holds that rollout, and both change at once: `source.evaluation.rollout is source.rollout`.
        """
        return self._evaluation

    @property
    def connected(self) -> bool:
        """Whether a change of the flag can reach this process now. No I/O.

        False while the client has never connected or has lost its connection, in a forked child until `postfork`,
        and after `close`. The SDK notices a loss when the connection ends: one that hangs, after 5 minutes.
        """
        return self._connection == CONNECTED and not (self._forked or self._closed)

    def subscribe(self, listener: Callable[[Rollout], None]) -> Callable[[], None]:
        """See `RolloutSource.subscribe`. The listener runs on the SDK's thread, and in a forked child."""
        with self._lock:
            listener(self.rollout)
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                remaining = list(self._listeners)
                if listener in remaining:
                    remaining.remove(listener)
                self._listeners = tuple(remaining)

        return unsubscribe

    def postfork(self) -> None:
        """Follow the flag again in a forked child. Call it after the client's own `postfork()`.

        In a process that was not forked this evaluates the flag and does nothing else.

        Raises:
            NotForked: the client's `postfork()` was not called, so that it receives no changes here.
        """
        if self._closed:
            return
        if self._client.flag_tracker is self._flag_tracker:
            if self._forked:
                raise NotForked("call the LaunchDarkly client's postfork() in this process before the source's")
            self._evaluate()
            return
        if not self._forked:
            self._leave_client()
        self._follow_client()
        with self._lock:
            self._tell(self.rollout)  # whatever it is: the gates let go of the alarm

    def close(self) -> None:
        """Close the gate for good and follow the flag no more, since no kill could arrive. Idempotent.

        The client stays open. Close the source before the client.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.alarm = None
            by_listener = self._telling
            self._publish()
        if not self._forked:
            self._leave_client()
        self._wake.set()
        self._noted.set()
        # A listener that closes the source holds the lock, which a thread may be waiting for.
        for thread in () if by_listener else (self._thread, self._log_thread):
            if thread is not None:
                thread.join(JOIN_SECONDS)
        self._report_events()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # The life of the source

    def _renew(self) -> None:
        """Make what does not survive a fork: locks that a vanished thread may hold, and the threads."""
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._noted = threading.Event()
        self._events: deque[tuple[_Level, str, dict[str, Any]]] = deque(maxlen=EVENTS_KEPT)
        self._thread: threading.Thread | None = None
        self._log_thread: threading.Thread | None = None
        self._telling = False

    def _follow_client(self) -> None:
        """Listen to the client as it is now, then evaluate: in this order no change is lost in between."""
        with self._lock:
            self._forked = False
            self.alarm = None
            self._flag_evaluation = self._evaluated(self._default, "default")
            self._unread = True  # the flag has not been evaluated since it could last be
            self._stale = False
            self._connection = CONNECTED  # as it should be: anything else is a change to report
            self._disconnected_at: float | None = None
            self._refresh_at = time.monotonic() + self._refresh_seconds
            self._flag_tracker = self._client.flag_tracker
            self._status_provider = self._client.data_source_status_provider
        self._flag_tracker.add_listener(self._on_flag_change)
        self._status_provider.add_listener(self._on_status_change)
        self._look_at_connection()
        self._evaluate()
        with self._lock:
            self._publish()  # unless the evaluation has said otherwise
        if self._thread is None:
            name = f"zddm-launchdarkly-{self.flag_key}"
            self._thread = _started(self._run, name)
            self._log_thread = _started(self._run_log, f"{name}-log")

    def _leave_client(self) -> None:
        """Take the listeners off. Not after a fork: a thread that is gone may hold the client's locks."""
        self._flag_tracker.remove_listener(self._on_flag_change)
        self._status_provider.remove_listener(self._on_status_change)

    def _close_in_forked_child(self) -> None:
        """Runs inside of fork(): no lock from before it, no logging."""
        self._renew()
        if self._closed:
            return
        self._forked = True
        self.alarm = self._warn_of_fork
        self._evaluation = self._evaluated(CLOSED, "forked")
        self._tell(CLOSED)

    def _warn_of_fork(self) -> None:
        if self.alarm is None:
            return
        with self._lock:
            self.alarm = None
            self._tell(self.rollout)  # the gates let go of the alarm
        report(
            "error",
            "launchdarkly_forked",
            flag_key=self.flag_key,
            effect="the gate is closed in this process",
            remedy="after a fork call the client's postfork(), then the source's",
        )

    # On the SDK's threads: quick, and nothing is raised

    def _on_flag_change(self, change: FlagChange) -> None:
        if change.key == self.flag_key:
            self._guarded(self._evaluate)

    def _on_status_change(self, _: DataSourceStatus) -> None:
        self._guarded(self._look_at_connection)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:  # a SystemExit would end the SDK's thread and leave its status VALID
            self._note_failure(error)

    def _look_at_connection(self) -> None:
        """Follow the state of the client's data source, and read the flag when it is connected again."""
        with self._lock:
            # Read here rather than taken from the callback, which may be overtaken by the next one.
            state = self._status_provider.status.state.value
            if state == self._connection:
                return
            self._connection = state
            connected = state == CONNECTED
            if connected:
                self._disconnected_at = None
                self._unread = True
                self._generation += 1  # an evaluation from before must not open a stale gate
            elif self._disconnected_at is None:
                self._disconnected_at = time.monotonic()
            level: _Level = "info" if connected else "warning"
            self._note(level, "launchdarkly_connection_changed", state=state)
        if connected:
            self._evaluate()

    def _evaluate(self) -> None:
        """Evaluate the flag and follow it, unless a later evaluation has begun: that one knows more."""
        try:
            if not self._client.is_initialized():
                return  # where the SDK would log a warning for each evaluation
            with self._lock:
                self._generation += 1
                generation = self._generation
            detail = self._client.variation_detail(self.flag_key, self._context, None)
            with self._lock:
                if generation != self._generation:
                    return
                self._unread = False
                self._take(detail, detail.reason or {})
                if self._disconnected_at is None:
                    self._stale = False
                self._publish()
        except Exception as error:
            self._unread = True  # and evaluated again soon
            self._note_failure(error)

    def _take(self, detail: EvaluationDetail, reason: Mapping[str, Any]) -> None:
        kind, error = reason.get("kind"), reason.get("errorKind")
        word = "split" if reason.get("inExperiment") else REASONS.get(str(kind)) or str(kind or "unknown").lower()
        if detail.variation_index is None:  # the value is not the flag's but what the caller gave as the default
            error_word = None if error is None else str(error).lower()
            self._flag_evaluation = self._evaluated(self._default, word, error=error_word)
            return
        try:
            rollout = Rollout.parse(detail.value)
        except InvalidRollout as refusal:
            if kind in SERVED_ITS_OFF_VARIATION:  # a kill: the last good rate would go on
                self._flag_evaluation = self._evaluated(self._default, word, error=REFUSED)
            else:
                self._flag_evaluation = replace(self._flag_evaluation, reason="error", error=REFUSED)
            text = _shortened.repr(detail.value)
            self._note_once(text, "error", REFUSED, value=text, error=str(refusal)[:200])
        else:
            self._flag_evaluation = self._evaluated(rollout, word, variant=str(detail.variation_index))

    def _evaluated(
        self, rollout: Rollout, reason: str, *, variant: str | None = None, error: str | None = None
    ) -> Evaluation:
        context_id = self._context.fully_qualified_key
        return Evaluation(rollout, self.flag_key, "launchdarkly", variant, reason, error, context_id)

    # With the lock held

    def _publish(self) -> None:
        """Make the rollout what it has to be, and tell the listeners of a change."""
        closed = "closed" if self._closed else "stale" if self._stale else "forked" if self._forked else None
        evaluation = self._flag_evaluation if closed is None else self._evaluated(CLOSED, closed)
        old = self.rollout
        if evaluation.rollout == old:
            self._evaluation = replace(evaluation, rollout=old)  # the object that the listeners have
            return
        self._evaluation = evaluation
        self._tell(evaluation.rollout)
        about = {"reason": evaluation.reason}
        if evaluation.error is not None:
            about["error"] = evaluation.error
        self._note("info", "rate_changed", **change_of(old, evaluation.rollout), **about)

    def _tell(self, rollout: Rollout) -> None:
        self._telling = True
        for listener in self._listeners:
            if self.rollout is not rollout:
                break  # a listener closed the source, which has told everyone already
            try:
                listener(rollout)
            except BaseException as error:  # a kill reaches every gate, whatever another listener does
                self._note_failure(error)
        self._telling = False

    # Log events: written by a thread of their own, so that slow or blocked logging never delays a kill

    def _note(self, level: _Level, event: str, **fields: Any) -> None:
        self._events.append((level, event, {"flag_key": self.flag_key, **fields}))
        self._wake.set()
        self._noted.set()

    def _note_once(self, text: str, level: _Level, event: str, **fields: Any) -> None:
        if text in self._remembered:
            return
        if len(self._remembered) >= REMEMBERED_TEXTS:
            now = time.monotonic()
            if now < self._next_text_at:
                return
            self._next_text_at = now + NEXT_TEXT_SECONDS
            self._remembered.pop(next(iter(self._remembered)), None)
        self._remembered[text] = None
        self._note(level, event, **fields)

    def _note_failure(self, error: BaseException) -> None:
        """Say what failed and where; without the error's text, which may quote whatever a listener works on."""
        name, at = type(error).__name__, ""
        for frame, line in walk_tb(error.__traceback__):  # the last one is where it was raised
            at = f"{Path(frame.f_code.co_filename).name}:{line}"
        self._note_once(f"{name} {at}", "error", "launchdarkly_source_failed", error=name, at=at)

    def _report_events(self) -> None:
        while True:
            try:
                level, event, fields = self._events.popleft()
            except IndexError:
                return
            report(level, event, **fields)

    def _run_log(self) -> None:
        while not self._closed:
            self._noted.wait()
            self._noted.clear()
            with _fork.logging:
                self._guarded(self._report_events)

    # The thread

    def _run(self) -> None:
        pause = FIRST_LOOK_SECONDS
        while not self._closed:
            woken = self._wake.wait(self._seconds_to_wait(pause))
            self._wake.clear()
            if self._closed:
                return
            pause = FIRST_LOOK_SECONDS if woken else min(2 * pause, LAST_LOOK_SECONDS)
            self._guarded(self._step)

    def _seconds_to_wait(self, pause: float) -> float:
        now = time.monotonic()
        deadlines = [self._refresh_at]
        if self._unread:
            deadlines.append(now + pause)
        if self._max_staleness is not None and self._disconnected_at is not None and not self._stale:
            deadlines.append(self._disconnected_at + self._max_staleness)
        return max(0.0, min(deadlines) - now)

    def _step(self) -> None:
        now = time.monotonic()
        self._close_if_stale(now)
        if self._unread or now >= self._refresh_at:
            self._refresh_at = now + self._refresh_seconds
            self._evaluate()

    def _close_if_stale(self, now: float) -> None:
        with self._lock:
            if self._stale or self._closed or self._max_staleness is None or self._disconnected_at is None:
                return
            if now - self._disconnected_at >= self._max_staleness:
                self._stale = True
                self._publish()
                self._note("error", "rollout_stale_closed", max_staleness=self._max_staleness)


def _started(target: Callable[[], None], name: str) -> threading.Thread:
    """A daemon thread. What it logs is no part of the span that is current here, which threads may inherit."""
    thread = threading.Thread(target=contextvars.Context().run, args=(target,), name=name, daemon=True)
    thread.start()
    return thread


def _checked(name: str, seconds: object, least: float = 0.0, most: float = math.inf) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} is a number of seconds, not a {type(seconds).__name__}")
    if not (0 < seconds < math.inf and least <= seconds <= most):
        span = "above 0" if least == 0 else f"from {least:g} to {most:g}"
        raise ValueError(f"{name} is a number of seconds {span}, not {seconds!r}")
    return float(seconds)
