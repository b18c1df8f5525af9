"""The bodies of calls to the planner: read within bounds, and made messages of; `routes` calls it.

Nobody's body is read before it is known whose job it is about: what it may hold comes from that
job's spec. Invariant: memory for bodies is bounded, of one job, of one namespace and in all, and a
body ends in time.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from lockstep_api.base import problems_of
from lockstep_api.certificates import MOST_REQUEST_BYTES, CertificateRequest
from lockstep_api.request_size import most_bytes, most_values
from lockstep_api.spec import Mode
from lockstep_api.wire_types import MOST_LABELS
from lockstep_operator.beside import Beside
from lockstep_operator.core.model import JobView
from lockstep_operator.errors import BodyTooLarge, BodyTooSlow, TooManyCalls, UnfitRequest
from lockstep_operator.fair import FairLock

BODY_S = 8.0
"""Seconds for a whole body: what its sender waits for an answer is not much more."""
MOST_HELD = 32 << 20
"""Bytes of all bodies that are being read or parsed; a namespace has half of what the others leave
of them, so that nobody has them all."""
MOST_TOGETHER = 4 << 20
"""Bytes of all bodies of one namespace but its largest."""
LARGE = 256 << 10
"""Bytes of a body of some hundred clients."""
MOST_OF_A_JOB = 3
"""Calls of one job at once: one is served, one waits, and one takes its place."""
MOST_POLICY_BYTES = 1 << 20
"""No ConfigMap holds more."""
MOST_CERTIFICATE_BYTES = 2 * MOST_REQUEST_BYTES
"""The request's lines end in two characters, in JSON."""

Message = TypeVar("Message", bound=BaseModel)


@dataclass(slots=True)
class _Share:
    """What a namespace has."""

    bodies: list[bytearray] = field(default_factory=list)
    size: int = 0
    """Bytes of all of them."""


@dataclass(slots=True)
class Bodies:
    """Those that are held now."""

    body_s: float = BODY_S
    most_held: int = MOST_HELD
    _of_job: Counter[str] = field(default_factory=Counter)
    _held: dict[str, _Share] = field(default_factory=dict)
    """By namespace."""
    _size: int = 0
    _parsing: FairLock = field(default_factory=FairLock)
    _beside: Beside = field(default_factory=Beside)

    async def message(self, request: Request, job: JobView, *, kind: type[Message]) -> Message:
        """The message in a body.

        Raises:
            BodyTooLarge, BodyTooSlow, TooManyCalls: it is not read to its end.
            UnfitRequest: it is no such message.
        """
        clients = 0 if job.spec is None else job.spec.clients()
        labels = _labels(job)
        edges = 0 if job.spec is None else sum(one.replicas for one in job.spec.edge_groups())
        most = most_bytes(clients, labels=labels, edges=edges)
        async with (
            self._whole(request, job, most=most) as content,
            self._room(job, content),
        ):
            # The rest of the process goes on meanwhile.
            return await self._beside.run(
                job.key.namespace, _parsed, kind, content, clients=clients, labels=labels
            )

    def _room(self, job: JobView, content: bytearray) -> AbstractAsyncContextManager[None]:
        """Large ones are parsed one after another: that takes 16 times their bytes."""
        is_large = len(content) > LARGE
        return self._parsing.of(job.key.namespace) if is_large else nullcontext()

    async def certificate(self, request: Request, job: JobView) -> CertificateRequest:
        """A server's request for a certificate.

        Raises:
            BodyTooLarge, BodyTooSlow, TooManyCalls: it is not read to its end.
            UnfitRequest: it is none.
        """
        async with self._whole(request, job, most=MOST_CERTIFICATE_BYTES) as content:
            return _parsed(CertificateRequest, content, clients=0)

    async def policy(self, request: Request, job: JobView) -> bytes:
        """The file in a body.

        Raises:
            BodyTooLarge, BodyTooSlow, TooManyCalls: it is not read to its end.
        """
        async with self._whole(request, job, most=MOST_POLICY_BYTES) as content:
            return bytes(content)

    @asynccontextmanager
    async def call(self, job: JobView) -> AsyncIterator[None]:
        """A call of a job, from its body to its answer: so long is there what was made of it.

        Raises:
            TooManyCalls: the job has as many as it may have.
        """
        if self._of_job[job.uid] >= MOST_OF_A_JOB:
            raise TooManyCalls(f"the job has {MOST_OF_A_JOB} calls under way: wait for an answer")
        self._of_job[job.uid] += 1
        try:
            yield
        finally:
            self._of_job[job.uid] -= 1
            self._of_job += Counter()  # keeps those above 0

    @asynccontextmanager
    async def _whole(
        self, request: Request, job: JobView, *, most: int
    ) -> AsyncIterator[bytearray]:
        content, namespace = bytearray(), job.key.namespace
        mine = self._held.setdefault(namespace, _Share())
        mine.bodies.append(content)
        try:
            await self._fill(content, request, mine=mine, most=most)
            yield content
        finally:
            mine.bodies = [one for one in mine.bodies if one is not content]
            mine.size -= len(content)
            self._size -= len(content)
            if not mine.bodies:
                del self._held[namespace]

    async def _fill(self, content: bytearray, request: Request, *, mine: _Share, most: int) -> None:
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            raise BodyTooLarge(f"a body of this job has at most {most} bytes, not {announced}")
        if announced.isdigit():
            self._check_room(mine, content, more=int(announced))  # before a byte of it is read
        try:
            async with asyncio.timeout(self.body_s):
                async for piece in request.stream():
                    self._hold(content, piece, mine=mine, most=most)
        except TimeoutError as error:
            raise BodyTooSlow(f"the body took longer than {self.body_s:g} s") from error
        except ClientDisconnect as error:
            raise BodyTooSlow("the caller has gone") from error

    def _hold(self, content: bytearray, piece: bytes, *, mine: _Share, most: int) -> None:
        if len(content) + len(piece) > most:
            raise BodyTooLarge(f"a body of this job has at most {most} bytes")
        self._check_room(mine, content, more=len(piece))
        mine.size += len(piece)
        self._size += len(piece)
        content += piece

    def _check_room(self, mine: _Share, content: bytearray, *, more: int) -> None:
        """Whether a body may have so many more bytes, beside all others of its namespace."""
        size, room = mine.size + more, (self.most_held - self._size + mine.size) / 2
        if size <= min(room, MOST_TOGETHER):
            return
        others = [len(one) for one in mine.bodies if one is not content]
        if size > room or size - max([*others, len(content) + more]) > MOST_TOGETHER:
            raise TooManyCalls("the planner reads too much of this namespace already: try again")


def _labels(job: JobView) -> int:
    """Counts of a label histogram, which devices tell in modes that make clusters of them."""
    return 0 if job.spec is None or job.spec.mode is Mode.FEDERATED else MOST_LABELS


def _parsed(kind: type[Message], content: bytearray, *, clients: int, labels: int = 0) -> Message:
    """Counts first: a byte of a body may become a hundred bytes of values."""
    most = most_values(clients, labels=labels)
    if content.count(b",") + content.count(b"[") + content.count(b"{") > most:
        raise UnfitRequest(f"the body has more values than a job of {clients} clients can tell")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise UnfitRequest(problems_of(error)) from None
