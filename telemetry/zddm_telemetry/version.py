"""The version that spans and metrics name as their instrumentation scope's."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["VERSION"]

try:
    VERSION = version("zddm-flags")
except PackageNotFoundError:  # pragma: no cover - a source tree that is not installed
    VERSION = "0"
