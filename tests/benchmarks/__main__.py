"""`make bench`: measure, and print a table. Each figure is one side of a ratio that was taken in one run."""

import argparse
import sys

from tests.benchmarks import stalled_new


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--turns", type=int, default=7, help="turns each way (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of a turn (default: %(default)s)")
    options = parser.parse_args()
    sys.stdout.write(stalled_new.table(stalled_new.run(options.turns, options.seconds)) + "\n")


if __name__ == "__main__":
    main()
