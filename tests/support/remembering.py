"""The workers' program with a strategy whose clients remember, whatever the job asks for.

python -m tests.support.remembering cloud|device
"""

from lockstep_workers.learning import strategies
from tests.support.strategies import scaffold


def main() -> None:
    """Runs one role until it is told to stop."""
    # Before anybody has imported it by name.
    setattr(strategies, "build_strategy", lambda _spec, **_: scaffold())  # noqa: B010 - mypy
    from lockstep_workers.app import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
