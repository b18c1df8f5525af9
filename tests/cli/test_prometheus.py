"""How Prometheus is reached: through a port-forward to its pod, or the proxy for Services."""

from pathlib import Path
from typing import Any

import pytest
from websocket import ABNF, WebSocketConnectionClosedException, WebSocketTimeoutException

from lockstep_cli import forwarding
from lockstep_cli.cluster import Cluster, Where, connect
from lockstep_cli.doctor.scraping import scraped
from lockstep_cli.errors import CliError, Denied
from lockstep_cli.forwarding import NotOpened, Port, answer_of
from lockstep_cli.prometheus import Curve, NoFigures, Prometheus, Sample, Span
from tests.support.apiserver import Answer, FakeApi, forbidden, running, status
from tests.support.certificates import certified, job_ca
from tests.support.cli import Lockstep, job, prometheus_pod, prometheus_service, vector

SPACED = 'up{job="a b"} + 1'
PORT = Port("lab", "p-0", 9090)
KEPT_OUT: Answer = (502, "dial tcp 10.0.0.7:9090: connect: no route to host")


def up(path: str, query: dict[str, str]) -> Answer:
    """One pod that answers."""
    return 200, vector(({"namespace": "lab", "job": "digits"}, 1.0))


@pytest.fixture
def walled(api: FakeApi) -> FakeApi:
    """A NetworkPolicy keeps the apiserver, and so its proxy, from Prometheus."""
    api.prometheus = up
    api.refuse = lambda method, path: KEPT_OUT if "/proxy/" in path else None
    api.put("services", prometheus_service())
    api.put("pods", prometheus_pod())
    return api


@pytest.fixture
def cluster(api: FakeApi, tmp_path: Path) -> Cluster:
    return connect(Where(kubeconfig=api.kubeconfig(tmp_path)))


def refusing(api: FakeApi, *refusals: tuple[str, Answer]) -> None:
    """Paths that end so, or have it within, are answered so."""
    api.refuse = lambda method, path: next(
        (answer for part, answer in refusals if f"{path}/".find(f"{part}/") >= 0), None
    )


def ways(api: FakeApi) -> list[str]:
    """By which Prometheus was asked."""
    asked = [path for _, path, _ in api.requests]
    return [way for path in asked for way in ("portforward", "proxy") if f"/{way}" in path]


def test_where_the_apiserver_is_kept_out_a_port_forward_gets_in(
    walled: FakeApi, cluster: Cluster
) -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    def answer(path: str, query: dict[str, str]) -> Answer:
        asked.append((path, query))
        return up(path, query)

    walled.prometheus = answer
    prometheus = Prometheus(cluster, "lab")
    assert prometheus.instant(SPACED) == [Sample({"namespace": "lab", "job": "digits"}, 1.0)]
    assert asked == [("/api/v1/query", {"query": SPACED})]
    assert prometheus.note == ""
    assert ways(walled) == ["portforward"]
    assert walled.tokens[-1] == "Bearer secret"


def test_a_long_answer_comes_whole(walled: FakeApi, cluster: Cluster) -> None:
    values = [[float(at), str(at)] for at in range(5_000)]
    found = {"metric": {}, "values": values}
    walled.prometheus = lambda path, query: (200, {"data": {"result": [found]}})
    (curve,) = Prometheus(cluster, "lab").curves("up", Span(0.0, 4_999.0, 1.0))
    assert curve == Curve({}, [(float(at), float(at)) for at in range(5_000)])


def test_of_several_pods_the_one_that_runs_is_asked(walled: FakeApi, cluster: Cluster) -> None:
    going = prometheus_pod("a-0")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    walled.put("pods", going)
    walled.put("pods", prometheus_pod("b-0", ready=False))
    assert Prometheus(cluster, "lab").instant("up")
    assert [path for _, path, _ in walled.requests if "portforward" in path] == [
        "/api/v1/namespaces/lab/pods/p-0/portforward"
    ]


def test_a_pod_that_is_not_ready_is_said_and_nobody_is_asked(
    walled: FakeApi, cluster: Cluster
) -> None:
    pulling = {"waiting": {"reason": "ImagePullBackOff"}}
    walled.put("pods", prometheus_pod(ready=False, state=pulling))
    said = "not ready: ImagePullBackOff: kubectl -n lab describe pod p-0"
    with pytest.raises(NoFigures, match=said):
        Prometheus(cluster, "lab").instant("up")
    assert ways(walled) == []


def test_a_service_of_somebody_else_is_asked_through_the_proxy(
    api: FakeApi, cluster: Cluster
) -> None:
    """It has the name, but no pod of the chart's."""
    api.prometheus = up
    prometheus = Prometheus(cluster, "lab")
    assert prometheus.instant("up")
    assert (ways(api), prometheus.note) == (["proxy"], "")


def test_without_a_pod_both_are_said(api: FakeApi, cluster: Cluster) -> None:
    with pytest.raises(NoFigures, match=r"no pod has the labels .*; and .* no endpoints available"):
        Prometheus(cluster, "lab").instant("up")


@pytest.mark.parametrize("refused", ["/pods", "/portforward"])
def test_who_may_not_forward_ports_gets_figures_by_the_proxy_and_hears_it(
    walled: FakeApi, cluster: Cluster, refused: str
) -> None:
    refusing(walled, (refused, forbidden(f"jane cannot do that to {refused}")))
    prometheus = Prometheus(cluster, "lab")
    assert prometheus.instant("up")
    assert ways(walled)[-1] == "proxy"
    assert "asked through the apiserver's proxy for Services" in prometheus.note
    assert f"jane cannot do that to {refused}" in prometheus.note
    rights = "list of pods, get and create of pods/portforward in namespace lab"
    assert rights in prometheus.note
    walled.refuse = lambda method, path: None
    assert prometheus.instant("up")
    assert prometheus.note == ""


def test_who_may_not_forward_ports_and_is_kept_out_hears_both(
    walled: FakeApi, cluster: Cluster
) -> None:
    refusing(walled, ("/portforward", forbidden("jane cannot")), ("/proxy", KEPT_OUT))
    with pytest.raises(NoFigures, match=r"jane cannot.*pods/portforward.*no route") as found:
        Prometheus(cluster, "lab").instant("up")
    assert isinstance(found.value.__cause__, Denied)


def test_the_note_is_shown_with_the_figures(walled: FakeApi, lockstep: Lockstep) -> None:
    refusing(walled, ("/portforward", forbidden("jane cannot")))
    walled.prometheus = lambda path, query: (200, vector())
    walled.put("federatedjobs", job())
    done = lockstep("devices", "digits")
    assert done.code == 0
    assert "note: Prometheus was asked through the apiserver's proxy" in done.err


def test_doctor_reads_what_is_scraped_by_the_same_way(walled: FakeApi, cluster: Cluster) -> None:
    found = scraped(cluster)
    assert found
    assert (found.where, found.up, found.note) == ("Prometheus in lab", 1, "")
    refusing(walled, ("/portforward", forbidden("jane cannot")))
    found = scraped(cluster)
    assert found
    assert "jane cannot" in found.note


def test_a_node_that_takes_no_port_forward_leaves_the_proxy(
    walled: FakeApi, cluster: Cluster
) -> None:
    refusing(walled, ("/portforward", (500, status(500, "error dialing backend"))))
    assert Prometheus(cluster, "lab").instant("up")
    assert ways(walled) == ["portforward", "proxy"]


def test_what_the_node_says_of_the_port_is_told(walled: FakeApi, cluster: Cluster) -> None:
    """Prometheus does not listen: the proxy would not find it either."""
    walled.unforwarded = "error forwarding port 9090: connection refused"
    with pytest.raises(NoFigures, match=r"port 9090 of pod lab/p-0: .*connection refused"):
        Prometheus(cluster, "lab").instant("up")
    assert ways(walled) == ["portforward"]


def test_what_prometheus_refuses_is_told(walled: FakeApi, cluster: Cluster) -> None:
    walled.prometheus = lambda path, query: (422, {"status": "error", "error": "too many samples"})
    with pytest.raises(NoFigures, match=r"HTTP 422.*too many samples"):
        Prometheus(cluster, "lab").instant("up")
    assert ways(walled) == ["portforward"]


def test_the_token_goes_nowhere_else(walled: FakeApi, cluster: Cluster) -> None:
    """Whoever answers instead of the apiserver could send callers to a place of its own."""
    with running(FakeApi(prometheus=up)) as elsewhere:
        elsewhere.put("pods", prometheus_pod())
        there = f"{elsewhere.address}/api/v1/namespaces/lab/pods/p-0/portforward?ports=9090"
        refusing(walled, ("/portforward", (302, there.replace("http", "ws", 1))))
        with pytest.raises(NotOpened):
            answer_of(cluster, PORT, target="/", patience_s=60.0)
        assert elsewhere.requests == []


def test_the_apiserver_has_to_prove_who_it_is(tmp_path: Path) -> None:
    ca = job_ca(hosts=("127.0.0.0/8",))
    with running(FakeApi(prometheus=up), certified(ca, "127.0.0.1")) as api:
        api.put("pods", prometheus_pod())
        known = connect(Where(kubeconfig=api.kubeconfig(tmp_path, ca=ca.pem)))
        assert answer_of(known, PORT, target="/api/v1/query", patience_s=60.0)
        foreign = job_ca("uid-2", hosts=("127.0.0.0/8",))
        stranger = connect(Where(kubeconfig=api.kubeconfig(tmp_path, ca=foreign.pem)))
        before = len(api.requests)
        with pytest.raises(NotOpened, match="certificate verify failed"):
            answer_of(stranger, PORT, target="/api/v1/query", patience_s=60.0)
        assert len(api.requests) == before


# -- frames -------------------------------------------------------------------------------------


def frame(channel: int, content: bytes) -> tuple[int, ABNF]:
    return ABNF.OPCODE_BINARY, ABNF(1, 0, 0, 0, ABNF.OPCODE_BINARY, 0, bytes([channel]) + content)


BEGUN = [frame(0, b"\x82\x23"), frame(1, b"\x82\x23")]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
CLOSED = (ABNF.OPCODE_CLOSE, ABNF(1, 0, 0, 0, ABNF.OPCODE_CLOSE, 0, b""))
PING = (ABNF.OPCODE_PING, ABNF(1, 0, 0, 0, ABNF.OPCODE_PING, 0, b""))


class Socket:
    """A websocket on which all has come already."""

    def __init__(self, *frames: tuple[int, ABNF] | Exception) -> None:
        self.frames, self.sent = iter(frames), b""
        self.aborted = self.ended = False

    def send_binary(self, content: bytes) -> None:
        self.sent += content

    def recv_data_frame(self, control_frame: bool) -> tuple[int, ABNF]:
        found = next(self.frames)
        if isinstance(found, Exception):
            raise found
        return found

    def abort(self) -> None:
        self.aborted = True

    def shutdown(self) -> None:
        self.ended = True


def answer(monkeypatch: pytest.MonkeyPatch, *frames: tuple[int, ABNF] | Exception) -> str:
    socket = Socket(*frames)
    monkeypatch.setattr(forwarding, "opened", lambda *args, **more: socket)
    cluster: Any = Cluster(None, "lab")
    try:
        return answer_of(cluster, PORT, target="/q?a=b", patience_s=1.0)
    finally:
        assert socket.ended
        assert socket.sent.startswith(b"\x00GET /q?a=b HTTP/1.1\r\n")
        assert not cluster.reading


def test_an_answer_ends_where_it_says_though_the_forward_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = [frame(0, HEAD[:9]), frame(0, b""), PING, frame(0, HEAD[9:] + b"we"), frame(0, b"ll")]
    assert answer(monkeypatch, *BEGUN, *pieces) == "well"


def test_a_forward_ends_with_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster: Any = Cluster(None, "lab")

    class Closing(Socket):
        def recv_data_frame(self, control_frame: bool) -> tuple[int, ABNF]:
            for one in tuple(cluster.reading):
                one.shutdown()
            assert self.aborted
            return CLOSED

    monkeypatch.setattr(forwarding, "opened", lambda *args, **more: Closing())
    with pytest.raises(CliError, match="no answer from port 9090"):
        answer_of(cluster, PORT, target="/", patience_s=1.0)


@pytest.mark.parametrize(
    "last", [CLOSED, WebSocketConnectionClosedException("gone"), WebSocketTimeoutException("slow"),
             ConnectionResetError("reset"), frame(1, b"the container ended")],
)  # fmt: skip
@pytest.mark.parametrize("first", [[], [frame(0, HEAD + b"we")]])
def test_what_breaks_off_is_never_taken_for_whole(
    monkeypatch: pytest.MonkeyPatch, first: list[tuple[int, ABNF]], last: Any
) -> None:
    with pytest.raises(CliError, match="no answer from port 9090 of pod lab/p-0: "):
        answer(monkeypatch, *BEGUN, *first, last)
