"""A device's connections to the cloud pod: `http.client`, since it reads into and sends from one
buffer without a copy. One connection stays open as the session, another carries work and updates.

Invariant: every connection is one that `connect` made. The cloud pod closes it after an update that
it refuses; nobody opens it again behind our back, with a read timeout and without keep-alive.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

import structlog

from lockstep_api import names
from lockstep_api.sessions import ClientFailure, FailureAnswer, Refusal, Registration, SessionOpened
from lockstep_api.wire import Task, UpdateReport
from lockstep_workers.addresses import addresses
from lockstep_workers.answers import Malformed, read, said, text_of
from lockstep_workers.device.link import UNLIMITED, Link
from lockstep_workers.errors import InvalidJob, NoSession, NotAdmitted
from lockstep_workers.sockets import watch_peer
from lockstep_workers.trust import NOBODY, Trust, Untrusted, impostor

CONNECT_TIMEOUT_S = 10.0
"""For each address of a name."""
_log = structlog.get_logger()
_NEVER = (403, 404, 422)
LOST = (OSError, http.client.HTTPException)
"""What a broken connection raises."""
NO_PROOF: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session: it lasts as long as its response."""

    response: http.client.HTTPResponse
    key: str = field(repr=False)
    """What every other request shows."""

    def close(self) -> None:
        """Lets go of the response."""
        self.response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Work:
    """A task and the model it starts from."""

    task: Task
    body: bytearray
    seconds: float
    """Seconds from the first to the last byte."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the cloud pod said of an update."""

    accepted: bool
    reason: str
    """Why not, a `Refusal`; empty when accepted."""
    message: str
    seconds: float
    """Seconds that the upload took, to the answer."""


def connect(url: str, trust: Trust = NOBODY) -> http.client.HTTPConnection:
    """A new connection without a read timeout: the kernel's keep-alive notices a dead peer.

    Where several answer by the name of the server, whoever is not the server is passed over.

    Raises:
        InvalidJob: the URL is neither of plain HTTP nor of HTTPS.
        Untrusted: nobody who answers is the server.
    """
    parts = urlsplit(url)
    host, context = parts.hostname or "", None
    if parts.scheme == "http":
        connection = http.client.HTTPConnection(host, parts.port or 80)
    elif parts.scheme == "https":
        context = trust.context()
        connection = http.client.HTTPSConnection(host, parts.port or 443, context=context)
    else:
        raise InvalidJob(f"{url} is neither http:// nor https://")
    connection.auto_open = 0
    connection.sock = _reached(host, connection.port, context=context)
    connection.sock.settimeout(None)
    watch_peer(connection.sock)
    return connection


def _reached(host: str, port: int, *, context: ssl.SSLContext | None) -> socket.socket:
    """A connection to the first of a name's addresses at which the server is."""
    failed: list[OSError] = []
    for address in addresses(host, port):
        try:
            return _opened((address, port), host, context=context)
        except OSError as error:
            _log.info("not the server", host=host, address=address, why=str(error))
            failed.append(error)
    raise next((one for one in failed if isinstance(one, Untrusted)), failed[-1])


def _opened(at: tuple[str, int], host: str, *, context: ssl.SSLContext | None) -> socket.socket:
    """A connection to an address, where over TLS whoever answers has proved to be the host."""
    sock = socket.create_connection(at, CONNECT_TIMEOUT_S)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if context is None else context.wrap_socket(sock, server_hostname=host)
    except BaseException as error:
        sock.close()
        if isinstance(error, ssl.SSLError):
            raise impostor(host, error) from error
        raise


def is_open(connection: http.client.HTTPConnection) -> bool:
    """Whether another request can be sent: the cloud pod's last answer has not closed it."""
    return connection.sock is not None


def open_session(
    connection: http.client.HTTPConnection,
    registration: Registration,
    *,
    key: str = "",
    proof: Mapping[str, str] = NO_PROOF,
) -> OpenSession:
    """Opens a session, with what proves who this is (`credentials`).

    `key` is that of the session before: it makes room at once.

    Raises:
        NotAdmitted: the job has no such client, or another pod is it, or takes no such
            registration, or the cloud pod is of another version.
        http.client.HTTPException: not now; says why.
    """
    path = names.SESSION_ROUTE.format(client=registration.client)
    spoken = {"content-type": "application/json", names.PROTOCOL_HEADER: names.PROTOCOL}
    headers = {**spoken, **proof}
    if key:
        headers[names.SESSION_HEADER] = key
    connection.request("POST", path, registration.to_json(), headers)
    response = connection.getresponse()
    if response.status in _NEVER:
        raise NotAdmitted(f"the cloud pod refuses the session: {_message(response.read())}")
    if response.status != 200:
        raise http.client.HTTPException(f"{response.status}: {_message(response.read())}")
    try:
        return OpenSession(response, _key_in(response.readline()))
    except BaseException:
        response.close()
        raise


def _key_in(line: bytes) -> str:
    """The key in a session's first line; a connection that broke meanwhile has none."""
    if not line.endswith(b"\n"):
        raise http.client.HTTPException("the session ended before it began")
    try:
        return read(SessionOpened, line).key
    except Malformed:
        raise NotAdmitted(
            "the cloud pod gives no session key: it is of another version than this device; give "
            "both the same image, or images of one version"
        ) from None


def session_end(session: OpenSession) -> Mapping[str, object]:
    """Waits for the end of a session; what the cloud pod says last, nothing if it just broke."""
    last = b""
    while line := session.response.readline():
        last = line
    return said(last)


def get_work(
    connection: http.client.HTTPConnection,
    client: str,
    *,
    key: str,
    after: int,
    link: Link = UNLIMITED,
    reuse: bytearray | None = None,
) -> Work | None:
    """Waits for work after turn `after`; None when the job is over. `link` paces the model.

    The model is read into `reuse`, the buffer of earlier work, when it has the right size.

    Raises:
        NoSession: the session has to be opened first.
    """
    path = f"{names.WORK_ROUTE.format(client=client)}?after={after}"
    connection.request("GET", path, headers={names.SESSION_HEADER: key})
    response = connection.getresponse()
    if response.status == 204:
        response.read()
        return None
    if response.status != 200:
        raise NoSession(_message(response.read()))
    task = read(Task, response.headers[names.TASK_HEADER])
    began = time.monotonic()
    body = _read_body(response, reuse, link=link)
    return Work(task, body, time.monotonic() - began)


def _read_body(
    response: http.client.HTTPResponse, reuse: bytearray | None, *, link: Link
) -> bytearray:
    """The body of a response over an emulated link, in the buffer `reuse` when that fits."""
    size = response.length or 0
    try:
        body = reuse if reuse is not None and len(reuse) == size else bytearray(size)
    except (MemoryError, OverflowError):
        raise Malformed(f"the answer says that it has {size} bytes, which is too much") from None
    view = memoryview(body)

    def move(start: int, count: int) -> int:
        read = response.readinto(view[start : start + count])
        if not read:
            raise http.client.IncompleteRead(b"", len(body) - start)
        return read

    link.carry(len(body), move)
    response.read()
    return body


def get_constants(
    connection: http.client.HTTPConnection, client: str, *, key: str, link: Link = UNLIMITED
) -> bytes:
    """What a client takes over of the model, packed (`learning.constants`).

    Raises:
        NoSession: the session has to be opened first.
    """
    path = names.CONSTANTS_ROUTE.format(client=client)
    connection.request("GET", path, headers={names.SESSION_HEADER: key})
    response = connection.getresponse()
    if response.status != 200:
        raise NoSession(_message(response.read()))
    return bytes(_read_body(response, None, link=link))


def report_failure(
    connection: http.client.HTTPConnection,
    failure: ClientFailure,
    *,
    key: str = "",
    proof: Mapping[str, str] = NO_PROOF,
) -> bool:
    """Says that the user's code failed here; whether this device may go on.

    Without a session, and so without a key, it has to prove who this is.

    Raises:
        NoSession: the session of this key has ended.
        NotAdmitted: the job has no such client, or another pod is it.
        http.client.HTTPException: the cloud pod cannot say that yet.
    """
    path = names.FAILURE_ROUTE.format(client=failure.client)
    shown = {names.SESSION_HEADER: key} if key else proof
    headers = {"content-type": "application/json", **shown}
    connection.request("POST", path, failure.to_json(), headers)
    response = connection.getresponse()
    text = response.read()
    if response.status == 410:
        return True
    if response.status in _NEVER:
        raise NotAdmitted(f"the cloud pod takes no failure: {_message(text)}")
    if key and response.status == 409:
        raise NoSession(_message(text))
    if response.status != 200:
        raise http.client.HTTPException(f"{response.status}: {_message(text)}")
    return read(FailureAnswer, text).again


def send_update(
    connection: http.client.HTTPConnection,
    report: UpdateReport,
    *,
    key: str,
    body: bytearray,
    link: Link = UNLIMITED,
) -> Answer:
    """Uploads an update over an emulated link.

    Raises:
        NoSession: the session of this key has ended, and with it the update's use.
        http.client.HTTPException: the cloud pod failed at it, which says nothing of the update.
    """
    path = names.UPDATE_ROUTE.format(client=report.client, round=report.round)
    headers: Mapping[str, str] = {
        "content-type": names.TENSORS,
        "content-length": str(len(body)),
        names.REPORT_HEADER: report.to_json(),
        names.SESSION_HEADER: key,
    }
    began = time.monotonic()
    connection.putrequest("PUT", path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    sock, view = connection.sock, memoryview(body)

    def move(start: int, count: int) -> int:
        sock.sendall(view[start : start + count])
        return count

    with suppress(OSError):  # refused in the middle, and closed: the answer is there all the same
        link.carry(len(body), move)
    response = connection.getresponse()
    text = response.read()
    if response.status >= 500:
        raise http.client.HTTPException(f"{response.status}: {_message(text)}")
    accepted = response.status == 200
    reason = "" if accepted else text_of(text, "reason")
    if reason == Refusal.NO_SESSION:
        raise NoSession(_message(text))
    return Answer(accepted, reason, _message(text), time.monotonic() - began)


def _message(body: bytes) -> str:
    return text_of(body, "message") or body[:500].decode(errors="replace")
