"""How a device's process is told to end: by SIGTERM, between two bytecodes of whatever runs.

That may be the user's code, whose own errors end the job (`entrypoints.explained`): so the end has
a type of its own, which passes.
"""

import signal
from types import FrameType


class Stopped(SystemExit):
    """The process was told to end; no error."""


def stop_on_signals() -> None:
    """From now on SIGTERM and SIGINT raise `Stopped` in the main thread."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped(0)
