"""An edge's way to the cloud pod: its session, its long-poll for orders, the results it sends.

Run by `edge.main`. Whatever breaks is begun anew; with the session end all orders, since the cloud
pod gives them to others. Invariant: whatever goes up after the session was opened shows its key,
and an outcome is sent until the cloud pod has answered it or the session is over.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import structlog

from lockstep_api import names
from lockstep_api.certificates import Certificate, CertificateRequest
from lockstep_api.orders import ClusterProgress, EdgeWork
from lockstep_api.sessions import Refusal, SessionOpened
from lockstep_api.tiers import EdgeRegistration
from lockstep_serving.tls import NoCertificate
from lockstep_workers.answers import read, said, text_of
from lockstep_workers.credentials import shown
from lockstep_workers.edge.running import ClusterOutcome, Running
from lockstep_workers.errors import NotAdmitted, RefusedUpdate
from lockstep_workers.jitter import jitter
from lockstep_workers.parcels import size_of, unwrap, wrap
from lockstep_workers.sockets import keep_alive
from lockstep_workers.trust import NOBODY, Trust
from lockstep_workers.trusting import TrustingTransport

_log = structlog.get_logger()
_CONNECT_S = 10.0
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 5.0
_MOST_TEXT = 1 << 28
_PIECE = 1 << 18
_NEVER = (403, 404, 422)
_NOT_WANTED = frozenset(
    {Refusal.NO_SESSION, Refusal.WRONG_ROUND, Refusal.NOT_IN_ROUND, Refusal.DUPLICATE}
)
"""Of a result that nobody waits for."""
_BROKEN = (httpx2.HTTPError, OSError, RefusedUpdate)
"""What a broken connection raises, or an answer that was cut off."""


@asynccontextmanager
async def http_client(trust: Trust = NOBODY) -> AsyncIterator[httpx2.AsyncClient]:
    """Waits for ever, on connections that notice a peer that vanishes."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *keep_alive()]
    transport = TrustingTransport(trust, socket_options=options)
    timeout = httpx2.Timeout(None, connect=_CONNECT_S)
    async with httpx2.AsyncClient(transport=transport, timeout=timeout) as client:
        yield client


class Upward:
    """The session of one edge."""

    def __init__(
        self,
        cloud_url: str,
        registration: EdgeRegistration,
        *,
        client: httpx2.AsyncClient,
        use: Callable[[bytes], None] | None = None,
        token_file: Path | None = None,
    ) -> None:
        """Nothing happens until `keep`; `use` takes the model's constants over, in each session.

        The token is read anew for every try to open one.
        """
        self._token_file = token_file
        self._use = use
        self._url, self._registration, self._http = cloud_url, registration, client
        self._is_open = self._is_over = False
        self._session: Session | None = None
        self._has_session = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    def is_ready(self) -> bool:
        """Whether the session is open now, or not needed any more because the job is over."""
        return self._is_open or self._is_over

    async def keep(self, running: Running, *, dropped: Callable[[], None]) -> None:
        """Returns when the job is over; `dropped` is told whenever all orders are void.

        Raises:
            NotAdmitted: the cloud pod will never take this edge, or this pod for it.
        """
        backoff_s = _FIRST_BACKOFF_S
        while not self._is_over:
            try:
                self._is_over = await self._hold(running)
                backoff_s = _FIRST_BACKOFF_S
            except _BROKEN as error:
                _log.info("no session", cloud=self._url, why=f"{type(error).__name__}: {error}")
            finally:
                self._is_open = False
                dropped()
            if not self._is_over:
                await asyncio.sleep(jitter(0.5, 1.0) * backoff_s)
                backoff_s = min(_MAX_BACKOFF_S, 2 * backoff_s)

    def tell(self, progress: ClusterProgress) -> None:
        """Says how far a cluster is, if there is a session; what is newer is told soon."""
        if self._session is not None:
            task = asyncio.create_task(self._session.tell(progress))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def certificate(self, csr: str) -> Certificate:
        """A certificate for a key of this edge's; waits for a session, then asks once.

        Raises:
            NoCertificate: there is none now; says why.
        """
        await self._has_session.wait()
        if self._session is None:
            raise NoCertificate("the session with the cloud pod has just ended")
        return await self._session.certificate(csr)

    async def _hold(self, running: Running) -> bool:
        """Opens the session and returns when it has ended: whether the job is over."""
        url = self._url + names.EDGE_SESSION_ROUTE.format(edge=self._registration.edge)
        spoken = {"content-type": "application/json", names.PROTOCOL_HEADER: names.PROTOCOL}
        headers = {**spoken, **shown(self._token_file)}
        body = self._registration.to_json()
        async with self._http.stream("POST", url, content=body, headers=headers) as response:
            if response.status_code != 200:
                raise await _refusal(response)
            lines = response.aiter_lines()
            session = Session(
                self._url,
                self._registration.edge,
                key=read(SessionOpened, await anext(lines, None)).key,
                client=self._http,
            )
            if self._use is not None:
                self._use(await session.constants())
            self._is_open, self._session = True, session
            self._has_session.set()
            _log.info("session open")
            polling = asyncio.create_task(session.poll(running))
            last = "{}"
            try:
                async for line in lines:
                    last = line or last
            finally:
                polling.cancel()
                self._session = None
                self._has_session.clear()
                running.drop_all()
                await asyncio.gather(polling, return_exceptions=True)
        _log.info("session closed", end=last)
        return "over" in said(last)


class Session:
    """What an edge asks for and sends within a session."""

    def __init__(self, cloud_url: str, edge: str, *, key: str, client: httpx2.AsyncClient) -> None:
        """`key` is shown with everything."""
        self._url, self._edge, self._http = cloud_url, edge, client
        self._headers = {names.SESSION_HEADER: key}

    async def poll(self, running: Running) -> None:
        """Hands on what the cloud pod says, until there will be nothing any more."""
        after = 0
        while True:
            try:
                work = await self._next(after, running)
            except _BROKEN as error:
                _log.info("poll broken", why=f"{type(error).__name__}: {error}")
                await asyncio.sleep(jitter(0.05, 0.5))
                continue
            if work is None:
                return
            after = work

    async def _next(self, after: int, running: Running) -> int | None:
        """Takes the answer after `after` in; its number, None: there is none any more."""
        url = self._url + names.EDGE_WORK_ROUTE.format(edge=self._edge)
        answer = await self._http.get(url, params={"after": str(after)}, headers=self._headers)
        if answer.status_code == 204:
            return None
        if answer.status_code != 200:
            raise await _refusal(answer)
        parcel = unwrap(answer.content, text=_MOST_TEXT)
        work = read(EdgeWork, parcel.text)
        running.take(work, parcel.tensors, send=self.send)
        return work.number

    async def send(self, outcome: ClusterOutcome) -> None:
        """Sends an outcome until it is answered."""
        result = outcome.result
        path = names.CLUSTER_RESULT_ROUTE.format(
            round=result.round, cluster=result.report.cluster, edge=self._edge
        )
        pieces = wrap(result.to_json(), outcome.tensors)
        headers = {
            **self._headers,
            "content-type": names.TENSORS,
            "content-length": str(size_of(pieces)),
        }
        while True:
            try:
                answer = await self._http.put(
                    self._url + path,
                    params={"turn": str(result.turn)},
                    content=_in_pieces(pieces),
                    headers=headers,
                )
            except _BROKEN as error:
                _log.info("result not sent yet", why=f"{type(error).__name__}: {error}")
            else:
                if answer.status_code < 500:
                    _tell(result.report.cluster, answer)
                    break
            await asyncio.sleep(jitter(0.05, 0.5))

        if result.failure is None and (why := _fault(answer)):
            await self.send(outcome.without_anything(why))

    async def tell(self, progress: ClusterProgress) -> None:
        """Says how far a cluster is."""
        url = self._url + names.EDGE_PROGRESS_ROUTE.format(edge=self._edge)
        try:
            await self._http.post(url, content=progress.to_json(), headers=self._headers)
        except _BROKEN as error:
            _log.info("progress not told", why=f"{type(error).__name__}: {error}")

    async def certificate(self, csr: str) -> Certificate:
        """What the cloud pod gets for this edge from the planner; errors as in `Upward`."""
        url = self._url + names.EDGE_CERTIFICATE_ROUTE.format(edge=self._edge)
        asked = CertificateRequest(server=self._edge, csr=csr)
        try:
            answer = await self._http.post(url, content=asked.to_json(), headers=self._headers)
            if answer.status_code == 200:
                return read(Certificate, answer.content)
        except _BROKEN as error:
            raise NoCertificate(f"{type(error).__name__}: {error}") from error
        raise NoCertificate(f"the cloud pod says {answer.status_code}: {answer.text[:500]}")

    async def constants(self) -> bytes:
        """What the model has beside its trained parameters (`learning.constants`).

        Raises:
            httpx2.HTTPError: they cannot be had now.
        """
        url = self._url + names.EDGE_CONSTANTS_ROUTE.format(edge=self._edge)
        answer = await self._http.get(url, headers=self._headers)
        answer.raise_for_status()
        return answer.content


async def _in_pieces(pieces: list[bytes | memoryview]) -> AsyncIterator[bytes]:
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _PIECE):
            yield bytes(view[start : start + _PIECE])


def _tell(cluster: str, answer: httpx2.Response) -> None:
    if answer.status_code == 200:
        _log.info("result taken", cluster=cluster)
    else:
        _log.warning("result refused", cluster=cluster, status=answer.status_code, why=answer.text)


def _fault(answer: httpx2.Response) -> str | None:
    """Why a result itself is bad, so that its cluster is waited for in vain; None: it is not."""
    if answer.status_code == 200:
        return None
    try:
        reason = Refusal(text_of(answer.content, "reason"))
    except ValueError:
        return None
    message = text_of(answer.content, "message")
    return None if reason in _NOT_WANTED else f"the result was refused ({reason}): {message}"


async def _refusal(answer: httpx2.Response) -> Exception:
    """What a refused request raises."""
    text = (await answer.aread())[:500].decode(errors="replace")
    if answer.status_code in _NEVER:
        return NotAdmitted(f"the cloud pod refuses the session: {text}")
    return httpx2.HTTPError(f"{answer.status_code}: {text}")
