"""The port of probes and metrics answers whatever its peers, the data port and the loop do."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from lockstep_serving.pace import Rate
from lockstep_serving.probes import Answer, Bounds, Pages, ProbeServer
from lockstep_workers.hosting.asgi import no_such_route
from lockstep_workers.hosting.front import Front
from tests.support.patience import PATIENCE_S
from tests.support.probing import Always, asked

GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
PATIENT = Bounds(head_s=PATIENCE_S, answer_s=PATIENCE_S, rest_s=PATIENCE_S)
ONE, OTHER = "127.0.0.1", "127.0.0.2"


@contextmanager
def probes(told: Always = Always(), within: Bounds = PATIENT) -> Iterator[ProbeServer]:  # noqa: B008 - frozen
    """A server."""
    with closing(ProbeServer(ONE, 0, told=told, within=within)) as server:
        yield server


@contextmanager
def connected(server: ProbeServer, source: str = ONE) -> Iterator[socket.socket]:
    """A connection from an address of the loopback."""
    address = (ONE, server.port)
    with socket.create_connection(address, PATIENCE_S, source_address=(source, 0)) as sock:
        yield sock


def said(sock: socket.socket, request: bytes = GET) -> bytes:
    """A whole answer, or what came before the connection closed."""
    whole, body = b"", b""
    with suppress(ConnectionResetError, BrokenPipeError):
        sock.sendall(request)
        while not body.endswith(b"\n") and (piece := sock.recv(1 << 16)):
            whole += piece
            body = whole.partition(b"\r\n\r\n")[2]
    return whole


def test_a_connection_may_ask_again() -> None:
    with probes() as server, connected(server) as sock:
        for _ in range(3):
            assert said(sock).startswith(b"HTTP/1.1 200 OK\r\n")


def test_who_says_so_is_left_after_the_answer() -> None:
    with probes() as server:
        for request in (GET.replace(b"1.1", b"1.0"), GET[:-2] + b"connection: close\r\n\r\n"):
            with connected(server) as sock:
                assert said(sock, request).startswith(b"HTTP/1.1 200 OK\r\n")
                assert sock.recv(1) == b""


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_what_is_wrong_is_told(path: str) -> None:
    answer = await asked(Always("the disk is full"), path)
    assert (answer.status_code, answer.text) == (503, "the disk is full\n")


async def test_the_metrics_are_a_page() -> None:
    answer = await asked(Always(), "/metrics?a=b")
    assert (answer.status_code, answer.text) == (200, "series 1\n")
    assert answer.headers["content-type"].startswith("text/plain; version=")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /v1/clients/d-0/work HTTP/1.1\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\ncontent-length: 1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET /healthz HTTP/2.0\r\n\r\n", 400),
        (b"GET  /healthz HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (GET + GET, 400),
        (b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 2000 + b"\r\n", 431),
        (b"x" * 9000, 431),
    ],
)
def test_nothing_else_is_answered_but_in_one_word(request_: bytes, status: int) -> None:
    with probes() as server, connected(server) as sock:
        whole = said(sock, request_)
        assert not whole or int(whole.split(b" ")[1]) == status, "or reset, with bytes unread"
        assert len(whole) < 200


def test_a_source_that_holds_connections_keeps_no_other_out_and_gives_way_itself() -> None:
    few = replace(PATIENT, connections=4)
    with probes(within=few) as server, connected(server) as mine:
        assert said(mine)
        held = [socket.create_connection((ONE, server.port), PATIENCE_S, (OTHER, 0))
                for _ in range(3)]  # fmt: skip
        for sock in held:
            assert said(sock)
        with connected(server) as kubelet:
            assert said(kubelet).startswith(b"HTTP/1.1 200 OK\r\n")
        with suppress(ConnectionResetError):
            assert held[0].recv(1) == b"", "the oldest of who holds most"
        assert said(mine), "older, and the only one of its source"
        assert said(held[1]), "one was enough"
        for sock in held:
            sock.close()


def test_a_source_that_asks_too_often_is_left_alone_and_no_other() -> None:
    few = replace(PATIENT, rate=Rate(burst=4, per_s=0.0))
    with probes(within=few) as server:
        with connected(server, OTHER) as sock:
            assert [bool(said(sock)) for _ in range(4)] == [True, True, True, False]
        with connected(server, OTHER) as sock:
            assert said(sock) == b""
        with connected(server) as sock:
            assert said(sock)


@pytest.mark.parametrize("begun", [b"", b"GET /hea"])
def test_a_head_that_does_not_come_ends_the_connection(begun: bytes) -> None:
    with probes(within=replace(PATIENT, head_s=0.2)) as server, connected(server) as sock:
        assert said(sock, begun) == b""


def test_a_connection_that_rests_too_long_is_closed() -> None:
    with probes(within=replace(PATIENT, rest_s=0.2)) as server, connected(server) as sock:
        assert said(sock)
        with suppress(ConnectionResetError):
            assert sock.recv(1) == b""


def test_an_answer_that_is_not_taken_is_dropped() -> None:
    large = Always(metrics=bytes(50 << 20))
    with probes(large, replace(PATIENT, answer_s=0.2)) as server, connected(server) as sock:
        sock.sendall(GET.replace(b"/healthz", b"/metrics"))
        for count in (1, 0):
            while server._held.connections.count(ONE) != count:
                time.sleep(0.01)  # another thread gives no event
        whole = 0
        with suppress(ConnectionResetError):
            while piece := sock.recv(1 << 20):
                whole += len(piece)
        assert whole < 50 << 20


def test_making_pages_takes_a_share_of_a_core_however_often_they_are_asked_for() -> None:
    now_s, cpu_s, made = [0.0], [0.0], [0]

    def make() -> Answer:
        made[0] += 1
        cpu_s[0] += 0.02
        return Answer(200, b"%d" % made[0])

    pages = Pages(make, clock=lambda: now_s[0], cpu_clock=lambda: cpu_s[0])
    told = []
    for tick in range(1000):
        now_s[0] = tick / 1000
        told.append(pages.get().body)
    assert made == [5], "20 ms each, a tenth of a second of a core"
    assert [told[0], told[199], told[201], told[999]] == [b"1", b"1", b"2", b"5"]


async def test_probes_answer_while_the_loop_is_busy() -> None:
    front = Front(CollectorRegistry())
    front.begin()
    front.listens = True
    front.open(no_such_route)
    with closing(ProbeServer(ONE, 0, told=front)) as server:
        for path in ("/healthz", "/readyz", "/metrics"):
            with urlopen(f"http://{ONE}:{server.port}{path}") as answer:  # noqa: ASYNC210 - on purpose
                assert answer.status == 200


async def test_a_pod_is_not_ready_before_it_serves() -> None:
    front = Front(CollectorRegistry(), ready=lambda: False)
    front.listens = True
    assert (await asked(front, "/readyz")).status_code == 503
    assert (await asked(front, "/healthz")).status_code == 200
    front.open(no_such_route)
    assert (await asked(front, "/readyz")).status_code == 503
    ready = Front(CollectorRegistry())
    assert (await asked(ready, "/readyz")).text == "no certificate yet\n"
    ready.listens = True
    assert (await asked(ready, "/readyz")).text == "loading\n"
    ready.open(no_such_route)
    assert (await asked(ready, "/readyz")).status_code == 200


async def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    with probes() as server, pytest.raises(OSError, match="in use"):
        ProbeServer(ONE, server.port, told=Always())
    await asyncio.sleep(0)
