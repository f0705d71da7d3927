"""`python -m zddm_flags` and `zddm`: the command line."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line. Exits with 2 where what it needs is not installed, with 130 where interrupted."""
    try:
        try:
            from zddm_flags.cli import run
        except ModuleNotFoundError as error:
            if error.name not in {"click", "rich"}:
                raise
            sys.exit(_missing(error.name))
        sys.exit(run())
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)  # noqa: T201 - click may not be there yet to speak
        sys.exit(130)


def _missing(module: str) -> int:
    print(  # noqa: T201 - click is not there to speak
        f'zddm: the command line needs {module}: pip install "zddm-flags[cli]" (for the demo "zddm-flags[demo]")',
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    main()
