"""Testing kit: what a test of a migration needs, without an account and without another machine."""

from zddm_flags.testing.flag_server import FlagServer

__all__ = ["FlagServer"]
