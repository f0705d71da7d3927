"""What all tests share."""

from pathlib import Path

import pytest

pytest_plugins = ["tests.explorer.explored", "tests.servers"]

ROOT = Path(__file__).parent
WITHOUT_SERVERS = {"core", "explorer", "launchdarkly", "packaging", "telemetry", "typing"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Divide the tests between two processes, about equally, so that one of them alone starts servers."""
    for item in items:
        folder = item.path.relative_to(ROOT).parts[0]
        item.add_marker(pytest.mark.xdist_group("alone" if folder in WITHOUT_SERVERS else "servers"))
