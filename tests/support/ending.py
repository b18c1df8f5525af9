"""How a runner that a person, make or a machine may end takes away what it has made."""

import signal


def end_in_order() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does: what is open is closed first."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
