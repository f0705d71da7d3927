"""A store without an order may give a key twice in a scan, as Redis does."""

from __future__ import annotations

from zddm_adapters import InMemoryAdapter
from zddm_flags import InMemoryLedger, Page, Proxy, TrafficGate, Verify


class Repeating(InMemoryAdapter[int, str]):
    """Gives the last item of each page again, as the first of the next one."""

    def scan(self, cursor: str | None = None, limit: int = 1000, until: str | None = None) -> Page[int, str]:
        del until
        start = 0 if cursor is None else int(cursor)
        keys = sorted(super().read_many(range(100)))
        items = super().read_many(keys[start : start + limit])
        following = start + limit - 1
        return Page(list(items.items()), str(following) if following + 1 < len(keys) else None)


def test_a_key_that_a_scan_repeats_differs_once() -> None:
    """A differing key counts once, however often the scans of Old and New give it."""
    old = Repeating(dict.fromkeys(range(20), "same") | dict.fromkeys(range(20, 40), "old"))
    new = Repeating(dict.fromkeys(range(20), "same") | dict.fromkeys(range(30, 60), "new"))
    with Proxy(TrafficGate(1.0), old, new, name="repeats", ledger=InMemoryLedger(opened=1.0)) as proxy:
        result = Verify(proxy, page_size=3).run()
    assert (result.missing, result.changed, result.extra) == (10, 10, 20)
    assert len(result.differences) == 40
