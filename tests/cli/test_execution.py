"""What a command in a pod prints: whole, with how it ended, or an error."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websocket import ABNF, WebSocketConnectionClosedException, WebSocketTimeoutException

from lockstep_cli import execution
from lockstep_cli.cluster import Cluster, Where, connect
from lockstep_cli.errors import CliError, Denied
from lockstep_cli.execution import BrokenOff, Command, CommandFailed, output_of
from tests.support.apiserver import FakeApi, forbidden

ECHO = Command("lab", "digits-cloud-0", "worker", ("echo", "hi"))
WELL = {"status": "Success"}


def frame(channel: int, content: bytes) -> tuple[int, ABNF]:
    """A piece of a channel."""
    return ABNF.OPCODE_BINARY, ABNF(1, 0, 0, 0, ABNF.OPCODE_BINARY, 0, bytes([channel]) + content)


def ended(status: dict[str, Any]) -> tuple[int, ABNF]:
    return frame(3, json.dumps(status).encode())


CLOSED = (ABNF.OPCODE_CLOSE, ABNF(1, 0, 0, 0, ABNF.OPCODE_CLOSE, 0, b""))
PING = (ABNF.OPCODE_PING, ABNF(1, 0, 0, 0, ABNF.OPCODE_PING, 0, b""))


@dataclass
class Socket:
    """A websocket on which all has come already."""

    frames: list[tuple[int, ABNF] | Exception]
    closed: bool = False
    asked: Iterator[tuple[int, ABNF] | Exception] = field(init=False)

    def __post_init__(self) -> None:
        self.asked = iter(self.frames)

    def recv_data_frame(self, control_frame: bool) -> tuple[int, ABNF]:
        """The next frame."""
        found = next(self.asked)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Ends it."""
        self.closed = True


def output(monkeypatch: pytest.MonkeyPatch, *frames: tuple[int, ABNF] | Exception) -> list[bytes]:
    socket = Socket(list(frames))
    monkeypatch.setattr(execution, "_opened", lambda cluster, command: socket)
    try:
        return list(output_of(Cluster(None, "lab"), ECHO))
    finally:
        assert socket.closed


def test_what_is_printed_comes_in_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    found = output(monkeypatch, frame(1, b""), frame(1, b"a"), PING, frame(1, b"b\n"), ended(WELL))
    assert found == [b"a", b"b\n"]


def test_a_command_that_fails_tells_its_code_and_what_it_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status = {
        "status": "Failure",
        "message": "command terminated with exit code 44",
        "details": {"causes": [{"reason": "ExitCode", "message": "44"}]},
    }
    with pytest.raises(CommandFailed, match="exit code 44: no such thing") as found:
        output(monkeypatch, frame(2, b"no such"), frame(2, b" thing\n"), ended(status))
    assert found.value.exit_code == 44


def test_a_command_that_was_not_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CliError, match="container not found"):
        output(monkeypatch, ended({"status": "Failure", "message": "container not found"}))


@pytest.mark.parametrize(
    "last", [CLOSED, WebSocketConnectionClosedException("gone"), WebSocketTimeoutException("slow"),
             ConnectionResetError("reset")],
)  # fmt: skip
def test_what_breaks_off_is_never_taken_for_whole(
    monkeypatch: pytest.MonkeyPatch, last: tuple[int, ABNF] | Exception
) -> None:
    with pytest.raises(BrokenOff):
        output(monkeypatch, frame(1, b"half"), last)


def test_a_command_that_may_not_be_started_is_told_in_the_apiservers_words(
    api: FakeApi, tmp_path: Path
) -> None:
    api.refuse = lambda method, path: forbidden("jane cannot create pods/exec")
    cluster = connect(Where(kubeconfig=api.kubeconfig(tmp_path)))
    with pytest.raises(Denied, match="jane cannot create pods/exec"):
        list(output_of(cluster, ECHO))
    ((method, path, query),) = api.requests
    assert (method, path) == ("GET", "/api/v1/namespaces/lab/pods/digits-cloud-0/exec")
    assert query == {"container": "worker", "stdout": "true", "stderr": "true", "command": "hi"}
    assert api.tokens == ["Bearer secret"]
