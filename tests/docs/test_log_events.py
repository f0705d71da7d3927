"""The section of docs/operations.md on log events shows what is logged."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator

from zddm_adapters import InMemoryAdapter
from zddm_flags import Proxy, Telemetry, TrafficGate

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
SECTION = PAGE.read_text(encoding="utf-8").split("\n### Log events\n")[1].split("\n### ")[0]
TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+Z)?")


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
    return found


class IdsOfThePage(IdGenerator):
    def generate_trace_id(self) -> int:
        return 0x0AF7651916CD43DD8448EB211C80319C

    def generate_span_id(self) -> int:
        return 0xB7AD6B7169203331


class Down(InMemoryAdapter[str, int]):
    """A New that cannot be reached."""

    def read(self, key: str) -> int | None:
        raise ConnectionError


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """Structlog as it is before anybody configures it; afterwards it is as before."""
    before, was_configured = structlog.get_config(), structlog.is_configured()
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if was_configured:
        structlog.configure(**before)


def logged(log: Callable[[], object]) -> list[str]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        log()
    return output.getvalue().splitlines(keepends=True)


def fail() -> None:
    """A read of a New that is down."""
    telemetry = Telemetry(tracer_provider=TracerProvider(id_generator=IdsOfThePage()))
    with Proxy(TrafficGate(1.0), InMemoryAdapter(), Down(), name="users", telemetry=telemetry) as users:
        users.read("u1")


@pytest.mark.usefixtures("unconfigured")
def test_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configuration the line is the page's, but for the time."""
    monkeypatch.setenv("NO_COLOR", "1")
    structlog.reset_defaults()
    [line] = [line for line in logged(fail) if "new_failed" in line]
    assert TIME.sub("", line) == TIME.sub("", block("console"))


@pytest.mark.usefixtures("unconfigured")
def test_json() -> None:
    """The page's configuration makes the page's line of JSON, but for the time."""

    def configure_and_fail() -> None:
        exec(compile(block("python"), str(PAGE), "exec"), {})  # noqa: S102 - the page is ours
        fail()

    [line] = [line for line in logged(configure_and_fail) if "new_failed" in line]
    assert TIME.sub("", line) == TIME.sub("", block("json"))
