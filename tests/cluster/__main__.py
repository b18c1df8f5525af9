"""Lets `python -m tests.cluster` run the command line of `cli`."""

from tests.cluster.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
