"""How long to wait before another try, so that many do not come back at the same moment.

Drawn from the system: the global generator belongs to the user's code, which may have seeded it.
"""

from random import SystemRandom

_SYSTEM = SystemRandom()


def jitter(low: float, high: float) -> float:
    """A number between both, of whatever unit they have."""
    return _SYSTEM.uniform(low, high)
