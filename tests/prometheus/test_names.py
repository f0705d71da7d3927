"""examples/prometheus: what its files name is there, as far as can be seen without Prometheus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY
from sqlalchemy import create_engine

from tests.docs.test_operations import rows
from zddm_adapters import InMemoryAdapter
from zddm_adapters.sqlalchemy import SqlAlchemyLedger
from zddm_flags import Backfill, Proxy, Shadow, StaticSource, Telemetry, TrafficGate

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "prometheus"
ALERTS = (EXAMPLES / "alerts.yml").read_text(encoding="utf-8")
README = (EXAMPLES / "README.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"^```promql\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
EXPRESSIONS = re.findall(r"^ {8}expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", ALERTS, re.MULTILINE)
HISTOGRAM = re.compile(r"_(?:bucket|count|sum)$")


class Connected(StaticSource):
    """A source whose flag is connected."""

    flag_key = "users-rate"
    connected = True


@pytest.fixture
def exposed(tmp_path: Path) -> tuple[set[str], set[str]]:
    """The names of the metrics and of the labels that the exporter shows of a migration that did everything."""
    reader = PrometheusMetricReader(scope_info_enabled=False)
    provider = MeterProvider(metric_readers=[reader])
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}", isolation_level="AUTOCOMMIT")
    ledger = SqlAlchemyLedger(engine)
    ledger.create_tables()
    proxy = Proxy(
        TrafficGate(Connected(1.0)),
        InMemoryAdapter({"a": 1}),
        InMemoryAdapter[str, int](),
        name="users",
        ledger=ledger,
        shadow=Shadow(share=1.0),
        telemetry=Telemetry(meter_provider=provider, log=False),
    )
    Backfill(proxy).run()
    proxy.read("a")
    families = [each for each in REGISTRY.collect() if each.name.startswith("zddm_")]
    proxy.close()
    provider.shutdown()
    engine.dispose()
    samples = [sample for family in families for sample in family.samples]
    return {each.name for each in samples}, {label for each in samples for label in each.labels}


def test_every_name_is_exposed(exposed: tuple[set[str], set[str]]) -> None:
    """Each metric and label in a rule, a query or the table of names is one that the exporter shows."""
    metrics, labels = exposed
    assert len(EXPRESSIONS) == ALERTS.count("- alert: ") == 10
    assert len(QUERIES) == README.count("```promql") > 10
    for expression in [*("".join(each) for each in EXPRESSIONS), *QUERIES]:
        names = set(re.findall(r"\b(?:zddm|feature_flag)_\w+", re.sub(r'"[^"]*"', "", expression)))
        assert names <= metrics | labels
        assert names & metrics
    named = set(re.findall(r"\bzddm_\w+", README)) | set(re.findall(r"\bzddm_\w+", ALERTS))
    assert named <= metrics | labels
    assert metrics - named <= {each for each in metrics if HISTOGRAM.search(each)}
    assert set(re.findall(r"\$labels\.(\w+)", ALERTS)) <= labels | {"instance"}


def test_every_metric_has_a_name(exposed: tuple[set[str], set[str]]) -> None:
    """The table of names has each metric of the manual, with what the exporter calls it."""
    metrics, _ = exposed
    table = dict(re.findall(r"^\| `(zddm\.[\w.]+)` \| `(\w+)`", README, re.MULTILINE))
    assert set(table) == {row[0].strip("`") for row in rows("### Metrics")[1:]}
    assert set(table.values()) <= metrics
    assert {HISTOGRAM.sub("", each) for each in metrics} == {HISTOGRAM.sub("", each) for each in table.values()}


def test_every_alert_says_what_to_do() -> None:
    """Each alert has a summary, a description, and a section of the manual that is there."""
    for alert in ALERTS.split("- alert: ")[1:]:
        for each in ("severity: ", "summary: ", "description: ", "runbook: "):
            assert alert.count(each) == 1, (alert.split("\n", 1)[0], each)
        page, anchor = re.findall(r"runbook: (\S+)#(\S+)", alert)[0]
        titles = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
