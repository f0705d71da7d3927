"""Run by an interpreter that has nothing but the wheel: it imports, and brings only its three packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import files

PACKAGES = {"zddm_flags", "zddm_adapters", "zddm_telemetry"}
UNWANTED = {"ldclient", "sqlalchemy", "redis", "click", "rich", "psycopg", "opentelemetry.sdk"}

import zddm_flags  # noqa: E402, F401 - what it loads is what is looked at

loaded = UNWANTED & set(sys.modules)
landed = {path.parts[0] for path in files("zddm-flags") or []}
strangers = {name for name in landed - PACKAGES if not name.endswith(".dist-info") and name != ".."}
helped = subprocess.run([sys.executable, "-m", "zddm_flags"], capture_output=True, text=True, check=False)

if loaded:
    sys.exit(f"import zddm_flags loads {sorted(loaded)}")
if strangers:
    sys.exit(f"the wheel installs {sorted(strangers)} beside its packages")
if helped.returncode != 2 or "zddm-flags[cli]" not in helped.stderr:
    sys.exit(f"without click the command line should name its extra, not: {helped.stdout}{helped.stderr}")
print(f"installed: {', '.join(sorted(PACKAGES))}; import zddm_flags loads no driver")
