"""What a command in a pod prints, as it comes: `kubectl exec` without a terminal or input.

`volume` calls it. Invariant: an output that broke off is never taken for a whole one: it ends in a
CliError, as does a command that failed.
"""

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from lockstep_cli.channels import Entrance, opened
from lockstep_cli.cluster import Cluster
from lockstep_cli.errors import CliError, Unreachable

SILENCE_S = 60.0
_PROTOCOLS = "v5.channel.k8s.io,v4.channel.k8s.io"
_STDOUT, _STDERR, _STATUS = 1, 2, 3
_MOST_SAID = 500
"""Of what a command complains, in bytes."""


@dataclass(frozen=True, slots=True)
class Command:
    """What runs where."""

    namespace: str
    pod: str
    container: str
    words: tuple[str, ...]


class CommandFailed(CliError):
    """The command ran, and ended with another code than 0."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        """`exit_code` is the command's own."""
        super().__init__(message)
        self.exit_code = exit_code


class BrokenOff(Unreachable):
    """The connection ended before the command."""


def output_of(cluster: Cluster, command: Command) -> Generator[bytes, None, None]:
    """Its standard output in pieces.

    Raises:
        CommandFailed: it ended with another code than 0.
        BrokenOff: nobody knows how it ended.
        CliError: it was not started.
    """
    from websocket import WebSocketException  # noqa: PLC0415 - comes with the kubernetes package

    where = f"pod {command.namespace}/{command.pod}"
    try:
        socket = _opened(cluster, command)
        try:
            yield from _stdout(socket, where=where)
        finally:
            socket.close()
    except (WebSocketException, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenOff(f"the connection to {where} broke off: {reason}: try again") from error


def _opened(cluster: Cluster, command: Command) -> Any:
    """The websocket of a command that has been started."""
    said = [("container", command.container), ("stdout", "true"), ("stderr", "true")]
    query = (*said, *(("command", word) for word in command.words))
    entrance = Entrance(command.namespace, command.pod, "exec", query, _PROTOCOLS)
    return opened(cluster, entrance, timeout_s=SILENCE_S)


def _stdout(socket: Any, *, where: str) -> Iterator[bytes]:
    """The pieces of channel 1, until channel 3 says how the command ended."""
    complaints = b""
    while True:
        opcode, frame = socket.recv_data_frame(control_frame=True)
        if opcode == frame.OPCODE_CLOSE:
            raise BrokenOff(f"the connection to {where} was closed before the command ended")
        if opcode != frame.OPCODE_BINARY or not frame.data:
            continue
        channel, piece = frame.data[0], frame.data[1:]
        if channel == _STDOUT and piece:
            yield piece
        elif channel == _STDERR:
            complaints = (complaints + piece)[-_MOST_SAID:]
        elif channel == _STATUS:
            _check(json.loads(piece), complaints, where=where)
            return


def _check(status: dict[str, Any], complaints: bytes, *, where: str) -> None:
    """How the command ended, in the apiserver's words.

    Raises:
        CliError: not well.
    """
    if status.get("status") == "Success":
        return
    said = complaints.decode(errors="replace").strip()
    message = f"{where}: {status.get('message', 'the command failed')}{': ' if said else ''}{said}"
    causes = (status.get("details") or {}).get("causes") or ()
    codes = [one["message"] for one in causes if one.get("reason") == "ExitCode"]
    if not codes:
        raise CliError(message)
    raise CommandFailed(message, exit_code=int(codes[0]))
