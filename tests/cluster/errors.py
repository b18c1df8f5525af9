"""The errors of this package; `cli` prints them as one line. Their text says what to do next."""


class ClusterError(Exception):
    """Something the person at the terminal must know or change."""


class NoAnswerError(ClusterError):
    """Somebody did not answer this time, and may answer the next."""
