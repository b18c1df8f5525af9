"""What routes that take a body need beside it: its size, where it comes from, the status of a no.

Used by `hosting.bulk` and by the cloud pod's routes for edges.
"""

from collections.abc import Callable

from lockstep_api.sessions import Refusal
from lockstep_serving.receiving import EXTENSION
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.hosting.asgi import Scope
from lockstep_workers.hosting.reading import Messages, Receive, Source

Headers = dict[bytes, bytes]

_STATUS = {
    Refusal.UNKNOWN_CLIENT: 404,
    Refusal.NO_SESSION: 409,
    Refusal.NOT_IN_ROUND: 409,
    Refusal.WRONG_ROUND: 409,
    Refusal.DUPLICATE: 409,
    Refusal.CONTENT_TYPE: 415,
    Refusal.TOO_LARGE: 413,
    Refusal.TOO_SLOW: 408,
}


def status_of(error: RefusedUpdate) -> int:
    """The status of the answer to what is refused."""
    return _STATUS.get(error.reason, 422)


def source_of(scope: Scope, receive: Receive, *, size: int) -> Source:
    """The body of a request, past the server's own buffers where the server can do that."""
    past: Callable[[int], Source] | None = scope.get("extensions", {}).get(EXTENSION)
    return Messages(receive, size) if past is None else past(size)


def size_of_body(headers: Headers, limit: int) -> int:
    """Bytes of a body that is at most so long.

    Raises:
        RefusedUpdate: it is longer, empty, or does not say.
    """
    text = headers.get(b"content-length", b"")
    if not text.isdigit():
        raise RefusedUpdate(Refusal.TOO_LARGE, "content-length is needed")
    if int(text) == 0:
        raise RefusedUpdate(Refusal.MALFORMED, "the body is empty")
    if int(text) > limit:
        raise RefusedUpdate(Refusal.TOO_LARGE, f"{int(text)} bytes, at most {limit} are taken")
    return int(text)
