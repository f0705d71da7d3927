"""LaunchDarkly in a process of its own, so that what loads the measured one does not slow the flag server down.

Each line of standard input is a rate; the answer is the moment just before it was given to the server.
`time.perf_counter` is the machine's on Linux and macOS, so that two processes can compare it.
"""

from __future__ import annotations

import sys
import time

from zddm_flags.testing import FlagServer

FLAG = "rate"


def main() -> None:
    """Serve until standard input ends."""
    with FlagServer({FLAG: 1.0}) as server:
        print(server.url, flush=True)  # noqa: T201 - the answer to who started this process
        for line in sys.stdin:
            began = time.perf_counter()
            server.set(FLAG, float(line))
            print(repr(began), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
