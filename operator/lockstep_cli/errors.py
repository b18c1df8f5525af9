"""What ends a command before its time: one line for people, an exit code for scripts.

Everything in the package raises these; `frame` shows them. Invariant: the message says what is
wrong and what to do, and has no line break.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the program; `lockstep --help` lists them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    DENIED = 4
    NOT_FOUND = 5
    TIMEOUT = 6
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS = {
    Exit.DONE: "done; of a job: it completed",
    Exit.FAILED: "it did not work out; of a job: it failed, was refused or was deleted",
    Exit.USAGE: "the command line is wrong",
    Exit.UNREACHABLE: "no kubeconfig, or no answer from the cluster",
    Exit.DENIED: "the cluster does not know you, or does not let you",
    Exit.NOT_FOUND: "there is no such job or file, or Lockstep is not installed there",
    Exit.TIMEOUT: "not within --timeout",
    Exit.INTERRUPTED: "Ctrl-C",
}


class CliError(Exception):
    """The command cannot go on."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        """`message` is one line: what is wrong, the value, and what to change."""
        super().__init__(" ".join(message.split()))
        self.code = code


class Unreachable(CliError):
    """The cluster, or a part of it, does not answer."""

    def __init__(self, message: str) -> None:
        """As of every error."""
        super().__init__(message, Exit.UNREACHABLE)


class Denied(CliError):
    """401 or 403."""

    def __init__(self, message: str) -> None:
        """As of every error."""
        super().__init__(message, Exit.DENIED)


class NotFound(CliError):
    """What was named is not there."""

    def __init__(self, message: str) -> None:
        """As of every error."""
        super().__init__(message, Exit.NOT_FOUND)


class Gone(CliError):
    """410: a watch or a list cannot go on from where it was."""
