"""The one error of this package; `cli` prints it as one line. Its text says what to do next."""


class ClusterError(Exception):
    """Something the person at the terminal must know or change."""
