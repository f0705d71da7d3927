"""What is installed, and what importing it brings along."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "zddm_flags": ROOT / "zddm_flags",
    "zddm_adapters": ROOT / "adapters" / "zddm_adapters",
    "zddm_telemetry": ROOT / "telemetry" / "zddm_telemetry",
}
DRIVERS = ["ldclient", "sqlalchemy", "redis", "psycopg", "pymysql", "aiosqlite"]
TOOLS = ["click", "rich", "opentelemetry.sdk", "pytest", "airportsdata"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_nothing_but_the_three_packages_lands_in_site_packages(wheel):
    """The wheel has the three packages and its own metadata."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_every_module_and_marker_is_in_the_wheel(wheel):
    """Each package brings all of its modules, its py.typed, and the vectors."""
    names = set(wheel.namelist())
    for package, folder in PACKAGES.items():
        assert f"{package}/py.typed" in names
        for module in folder.rglob("*.py"):
            assert f"{package}/{module.relative_to(folder).as_posix()}" in names
    assert "zddm_flags/vectors/vectors.json" in names


@pytest.mark.parametrize("module", ["zddm_flags", "zddm_adapters", "zddm_telemetry", "zddm_flags.testing"])
def test_importing_loads_no_driver_and_no_tool(module):
    """A bare import loads no driver, no LaunchDarkly SDK, no command line library and no OpenTelemetry SDK."""
    code = f"import sys, {module}; print([name for name in {DRIVERS + TOOLS!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def imports(path):
    """The first components of all that a module imports, wherever it does, but for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_imports_go_one_way():
    """Telemetry knows nothing of the core, and the core nothing of adapters, save the command line and the kit."""
    for path in PACKAGES["zddm_telemetry"].rglob("*.py"):
        assert not {"zddm_flags", "zddm_adapters"} & set(imports(path)), path
    for path in PACKAGES["zddm_flags"].rglob("*.py"):
        if not {"cli", "testing"} & set(path.relative_to(PACKAGES["zddm_flags"]).parts):
            assert "zddm_adapters" not in set(imports(path)), path


def test_the_logic_never_imports_asyncio():
    """What is generated into the blocking twin, and driven by hand, knows no event loop."""
    for package in PACKAGES.values():
        for path in (package / "_async").glob("*.py"):
            if not path.name.startswith("_world"):
                assert "asyncio" not in set(imports(path)), path
