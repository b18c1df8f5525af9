"""Threads beside a main thread that alone hears SIGTERM.

Made for the probes of all roles, and for a device's session. A signal that the kernel hands to
another thread does not wake a main thread that waits for a lock: the process would go on until it
is killed.
"""

import signal
import threading
from collections.abc import Callable


def start_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Starts a thread that leaves SIGTERM to the main thread, as do those that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return thread
