"""`zddm demo`: real data moves between two real stores, under live traffic, while somebody watches."""

from zddm_flags.cli.demo.show import Options, run_demo

__all__ = ["Options", "run_demo"]
