"""How long to wait after failures in a row; everything that is tried again uses it."""

FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0


def backoff_s(failures: int, jitter: float) -> float:
    """1, 2, 4 … 60 s after so many failures in a row, half of it by chance."""
    full = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 10))
    return full * (0.5 + 0.5 * jitter)
