"""What strangers' bytes reach, as functions of bytes: only documented errors may come out.

`test_targets` calls them with Hypothesis's inputs, `__main__` with those of Atheris. A target
returns nothing; whatever it raises is a bug.
"""

import asyncio
import gzip
import json
import math
import tempfile
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from pydantic import ValidationError
from torch import nn

from lockstep_allocator.bandwidth import InvalidTrace, parse_trace
from lockstep_allocator.baselines import equalize_10s
from lockstep_allocator.devices import Devices
from lockstep_allocator.experience import Experience
from lockstep_allocator.forecast import Forecaster
from lockstep_allocator.observation import HISTORY_FEATURES, Observation
from lockstep_allocator.policy import FEATURES, OUTPUTS, InvalidPolicy, Policy, Training
from lockstep_allocator.records import InvalidExperience, Record
from lockstep_allocator.traces import TraceSet, parse
from lockstep_allocator.training.nets import ForecastNetwork, SetNetwork, exported
from lockstep_api.names import PROTOCOL
from lockstep_api.quantity import parse_quantity
from lockstep_api.sessions import Registration
from lockstep_api.settings import GroupSettings, JobSettings
from lockstep_api.spec import (
    Data,
    FederatedJobSpec,
    Mode,
    Model,
    Partition,
    StrategySpec,
    TrainingSpec,
    WireDtype,
)
from lockstep_api.status import EnergyJoules, FederatedJobStatus
from lockstep_api.wire import (
    ClientPlan,
    ClientReport,
    Outcome,
    PlanRequest,
    RoundPlan,
    RoundReport,
    UpdateReport,
)
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.decide import decide
from lockstep_operator.core.insight import Insight
from lockstep_operator.core.model import JobKey, JobView, NodeView, Observed, Settings
from lockstep_operator.core.planning import Basis, draw, hear, know
from lockstep_operator.core.spec import parse_spec
from lockstep_operator.core.state import JobState
from lockstep_operator.errors import InvalidSpec, UnfitRequest
from lockstep_operator.observe import job_view
from lockstep_workers.cloud.checkpoint import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from lockstep_workers.cloud.job import Job
from lockstep_workers.cloud.journal import Journal
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.parts import Parts
from lockstep_workers.cloud.store import Store
from lockstep_workers.data import Examples
from lockstep_workers.edge.split_connection import SplitConnection
from lockstep_workers.errors import CorruptCheckpoint, Gone, InvalidJob, RefusedUpdate
from lockstep_workers.hosting.bulk import BulkRoutes
from lockstep_workers.hosting.open_rounds import OpenRounds
from lockstep_workers.hosting.sessions import Sessions, never
from lockstep_workers.idx import IdxFile
from lockstep_workers.learning.rounds import Progress, Round
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import ServerState
from lockstep_workers.planner_client import PlannerClient
from lockstep_workers.split_frames import Kind
from lockstep_workers.tensors import check_values, decode, encode
from tests.fuzz.strangers import (
    certificate_request,
    pod_token,
    probe_head,
    published_keys,
    whole_keys,
    whole_request,
    whole_token,
)
from tests.support.splitting import shape_of

Target = Callable[[bytes], None]
N_VALUES = 6
LIKE = ServerState({"model": np.zeros(N_VALUES, np.float32)}, {"seen": 0.0})
MESSAGES = (Registration, UpdateReport, PlanRequest, RoundPlan, Outcome, JobSettings)


def update_body(data: bytes) -> None:
    """The body of an update, as another pod sends it."""
    with suppress(RefusedUpdate):
        flat = decode(data, n_values=N_VALUES)
        check_values(flat)
        assert flat.shape == (N_VALUES,)
        assert np.isfinite(flat).all()


def messages(data: bytes) -> None:
    """JSON messages between pods: read, they are written and read as the same."""
    for kind in MESSAGES:
        with suppress(ValidationError):
            message = kind.model_validate_json(data)
            assert kind.model_validate_json(message.to_json()) == message


def checkpoint(data: bytes) -> None:
    """A file on the cloud pod's volume."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        with suppress(CorruptCheckpoint):
            found = read_checkpoint(Path(file.name), uid="u", like=LIKE)
            assert found.state.vectors["model"].shape == (N_VALUES,)


def trace(data: bytes) -> None:
    """A bandwidth trace from a user's ConfigMap."""
    with suppress(InvalidTrace):
        read = parse_trace(data.decode(errors="replace"), source="t")
        moment = read.when(8e6)
        assert math.isfinite(moment)
        assert read.bits_until(moment) >= 8e6 * (1 - 1e-6) - 10
        assert 0 <= read.mean_mbps(moment, 10.0) < math.inf


def trace_file(data: bytes) -> None:
    """A trace file that an allocation policy is trained or judged on."""
    with suppress(InvalidTrace):
        read = parse(data.decode(errors="replace"), source="t")
        every = TraceSet.of([read], least_mbps=1e-3, most_mbps=1e6)
        moment = every.when(np.array([0]), np.array([8.0]))
        assert np.isfinite(moment).all()
        assert every.carried(np.array([0]), moment) == pytest.approx(8.0, rel=1e-6)


def policy(data: bytes) -> None:
    """An allocation policy from a user's ConfigMap, or one that a trainer offers."""
    with suppress(InvalidPolicy), np.errstate(all="ignore"):
        Policy.from_bytes(data, source="t")


def experience(data: bytes) -> None:
    """Recorded rounds from a ConfigMap that users may write."""
    with suppress(InvalidExperience), np.errstate(all="ignore"):
        read = Experience.from_bytes(data)
        for replay in read.replays():
            replay.cost(equalize_10s)
        assert len(Experience.from_bytes(read.to_bytes())) == len(read)


def quantity(data: bytes) -> None:
    """A Kubernetes quantity in a manifest."""
    with suppress(ValueError):
        assert parse_quantity(data.decode(errors="replace")) >= 0


def idx_file(data: bytes) -> None:
    """A data file in the image: packed as it should be, or not even that."""
    for content in (gzip.compress(data, 0), data):
        with tempfile.NamedTemporaryFile(suffix=".gz") as file:
            file.write(content)
            file.flush()
            with suppress(InvalidJob):
                found = IdxFile.at(Path(file.name))
                assert found.read().shape == found.shape


def plans(data: bytes) -> None:
    """What a cloud pod tells the planner: it is planned for, or refused in words."""
    try:
        asked = PlanRequest.model_validate_json(data)
    except ValidationError:
        return
    for policy in ("static", "equalize"):
        job = parse_spec(SPEC | {"allocation": {"policy": policy}})
        state = hear(JobState(), asked, spec=job).state
        known = know(state, asked, telemetry=Insight(problem="none"), spec=job)
        with suppress(UnfitRequest):
            plan = draw(state, asked, basis=Basis(job, known)).plan
            assert all(0.5 <= one.frequency_ghz <= 2 for one in plan.participants)


NODE = NodeView("n", {}, True, (), 64.0, Amount(64.0, 2.0**40, 1e6))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def manifest(data: bytes) -> None:
    """A FederatedJob, however wrong: it is decided about, or refused in words."""
    try:
        spec = json.loads(data)
    except (ValueError, RecursionError):
        return
    meta = {"name": "j", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    view = job_view({"metadata": meta, "spec": spec if isinstance(spec, dict) else {}})
    decide(Observed(view, {}, (), (NODE,), None), Settings("image", "http://planner"), now=NOW)
    with suppress(InvalidSpec):
        read: FederatedJobSpec = parse_spec(spec)
        job = JobView(JobKey("n", "j"), "u", 1, read, None, FederatedJobStatus(), 0.0)
        decide(Observed(job, {}, (), (NODE,), None), Settings("image", "http://planner"), now=NOW)


FRAMES = shape_of(wire=WireDtype.BFLOAT16, rows=2, values=3, front_values=2)


def frames(data: bytes) -> None:
    """What a device sends an edge in a round of split training, whole or in small pieces."""
    asyncio.run(_frames(data))


class _NoWire:
    """Sends nowhere."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_arguments: None


async def _frames(data: bytes) -> None:
    refused: list[RefusedUpdate] = []
    connection = SplitConnection(FRAMES, classes=10, refused=refused.append)
    connection.begun(_NoWire())  # type: ignore[arg-type]
    into, front = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    labels = np.ones(2, np.int64)
    waiting = [connection.activations(0, into=into, labels=labels)]
    view, piece = memoryview(data), 1 + len(data) % 40
    while view and not connection.ending and not connection.paused:
        room = connection.get_buffer(-1)
        count = min(len(room), len(view), piece)
        room[:count], view = view[:count], view[count:]
        connection.buffer_updated(count)
        if waiting[-1].done() and not connection.ending:
            waiting.append(
                connection.front_gradient(0, into=front)
                if len(waiting) % 2
                else connection.activations(len(waiting) // 2, into=into, labels=labels)
            )
    connection.lost()
    errors = [one.exception() for one in waiting if one.done()]
    assert all(isinstance(one, Gone | RefusedUpdate | None) for one in errors)
    assert len(refused) <= 1
    if not refused:
        assert np.isfinite(into).all()
        assert np.isfinite(front).all()
        assert set(labels) <= set(range(10))


# -- the routes of the cloud pod -------------------------------------------------------------------


@lru_cache(1)
def _routes() -> tuple[Job, BulkRoutes]:
    group = GroupSettings(
        name="d", replicas=2, min_ghz=0.5, max_ghz=2.0, cpu_at_max=0.5, kappa=1e-28
    )
    job = JobSettings(
        namespace="n", job="j", uid="u", created_at=0.0, mode=Mode.FEDERATED,
        model=Model(name="mlp"),
        data=Data(name="fashion-mnist", partition=Partition()), training=TrainingSpec(rounds=1),
        strategy=StrategySpec(), groups=(group,), cloud_url="http://c", planner_url="http://p",
    )  # fmt: skip
    metrics = CloudMetrics("j")
    folder = Path(tempfile.mkdtemp())
    parts = Parts(
        job=job, strategy=fedavg(), module=nn.Linear(N_VALUES - 1, 1), metrics=metrics,
        test=Examples(np.zeros((1, N_VALUES - 1), np.float32), np.zeros(1, np.int64)),
        planner=PlannerClient(job, folder / "token", client=httpx2.AsyncClient()),
        journal=Journal(Store(folder, "u"), metrics, 1), examples={"d-0": 1},
    )  # fmt: skip
    made = Job(parts)
    return made, BulkRoutes(made.reception)


def requests(data: bytes) -> None:
    """A request to the cloud pod: method, path, query, headers, body, a line each.

    Without the key of d-0's session it changes nothing of the round that waits for d-0.
    """
    lines = data.split(b"\n", 6)
    method, path, query, content_type, report, key, body = (lines + [b""] * 7)[:7]
    headers = [
        (b"content-type", content_type),
        (b"lockstep-report", report),
        (b"lockstep-session", key),
        (b"lockstep-protocol", PROTOCOL.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    scope = {
        "type": "http", "method": method.decode("latin-1"), "path": path.decode("latin-1"),
        "query_string": query, "headers": headers, "raw_path": path, "root_path": "",
        "scheme": "http", "http_version": "1.1", "server": None, "client": None,
    }  # fmt: skip
    made, _ = _routes()
    now = _new_round()
    made.reception._rounds = OpenRounds()
    with made.reception.opened(now):
        status = asyncio.run(_answer(scope, body))
    assert status is None or 200 <= status < 500, status
    if key != KEY.encode():
        assert now.waiting() == ["d-0"]
        assert now.refused == {}
        assert made.server.weight == 0
        assert made.reception.sessions["d-0"].key == KEY


def _new_round() -> Round:
    """One that waits for d-0."""
    plan = RoundPlan(
        round=1, rounds=1,
        participants=[
            ClientPlan(client="d-0", frequency_ghz=1, cpu_milli=100, steps=1, applied=True)
        ],
    )  # fmt: skip
    return Round(plan, began_s=0.0)


async def _answer(scope: MutableMapping[str, Any], body: bytes) -> int | None:
    made, routes = _routes()
    made.reception._sessions = Sessions(lambda: KEY)
    made.reception._sessions.open(REGISTRATION, never)
    made.server.begin(1, ["d-0"])
    pieces = [{"type": "http.request", "body": body, "more_body": False}]
    answers: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return pieces.pop() if pieces else {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        answers.append(message)

    await asyncio.wait_for(routes(scope, receive, send), 10)
    return next((a["status"] for a in answers if a["type"] == "http.response.start"), None)


# -- inputs to begin with --------------------------------------------------------------------------


def _whole_checkpoint() -> bytes:
    report = RoundReport(
        round=1, planned=True, seconds=1, elapsed_seconds=1, clients=[],
        energy_joules=EnergyJoules(),
    )  # fmt: skip
    plan = RoundPlan(round=1, rounds=2, participants=[])
    whole = Checkpoint(Progress().after(report, plan), LIKE)
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        write_checkpoint(Path(file.name), whole, uid="u")
        return Path(file.name).read_bytes()


def _small_policy() -> bytes:
    networks = (
        ForecastNetwork(len(HISTORY_FEATURES) + 2, width=2),
        SetNetwork(len(FEATURES), OUTPUTS, width=2),
    )
    forecast, weights = (exported(network.eval()) for network in networks)
    told = Training(0, 0, 0.0, 0, "", (), (), (), {}, {})
    return Policy(Forecaster(forecast), weights, told).to_bytes()


def _two_rounds() -> bytes:
    ones = np.ones((1, 2))
    devices = Devices(
        work=ones,
        upload=ones,
        min_ghz=ones,
        max_ghz=2 * ones,
        kappa=ones,
        alpha=np.ones((1, 2, 1)),
        beta=-np.ones((1, 2, 1)),
        idle_watts=ones,
        transmit_watts=ones,
        weight=np.ones((1, 1)),
    )
    seen = Observation(
        devices=devices, slots_mbps=np.ones((1, 2, 16)), last_mbps=ones, mean_mbps=ones
    )
    played = (
        Record(
            round=number,
            at_s=2.0 * number,
            clients=("a", "b"),
            observation=seen,
            ghz=ones[0],
            seconds=1.0,
            joules=ones[0],
            upload_s=ones[0],
        )
        for number in (1, 2)
    )
    return Experience(tuple(played)).to_bytes()


REPORT = UpdateReport(
    client="d-0",
    round=1,
    examples=1,
    steps=1,
    download_seconds=0,
    compute_seconds=0,
    cpu_seconds=0,
    throttled_seconds=0,
    frequency_ghz=1,
    energy_joules=EnergyJoules(model=1.0),
)
REGISTRATION = Registration(client="d-0", incarnation="i", examples=1)
PLAN_REQUEST = PlanRequest(
    round=2,
    clients=[REGISTRATION],
    report=RoundReport(
        round=1,
        planned=True,
        seconds=1,
        elapsed_seconds=1,
        clients=[ClientReport(update=REPORT, arrived_seconds=1, upload_seconds=1, bytes=1)],
        energy_joules=EnergyJoules(),
    ),
)
BODY = bytes(encode([np.ones(N_VALUES, np.float32)]))
KEY = "the-key-of-a-session-of-d-0"
SPEC = {
    "model": {"name": "mlp"},
    "data": {"name": "fashion-mnist"},
    "training": {"rounds": 2},
    "devices": [{"name": "d", "uplink": {"mbps": 1}, "energy": {"idleWatts": 1}}],
}
TENSORS = b"application/vnd.lockstep.safetensors"


def _request(method: bytes, path: bytes, query: bytes, *rest: bytes) -> bytes:
    return b"\n".join([method, path, query, *rest])


TARGETS: dict[str, tuple[Target, list[bytes]]] = {
    "pod_token": (pod_token, [whole_token()]),
    "certificate_request": (certificate_request, [whole_request()]),
    "published_keys": (published_keys, [whole_keys()]),
    "probe_head": (probe_head, [b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close"]),
    "update_body": (update_body, [BODY]),
    "plans": (plans, [PLAN_REQUEST.to_json().encode()]),
    "messages": (messages, [REPORT.to_json().encode(), REGISTRATION.to_json().encode()]),
    "checkpoint": (checkpoint, [_whole_checkpoint()]),
    "trace": (trace, [b"t_seconds,bandwidth_mbps\n0,1\n1,0\n2,5.5\n", b"0,2"]),
    "trace_file": (trace_file, [b"1\n1\n3\n", b"0 1\n1 2.5\n", b"0 0 1 2 3000 1000\n"]),
    "policy": (policy, [_small_policy()]),
    "experience": (experience, [_two_rounds(), Experience().to_bytes()]),
    "quantity": (quantity, [b"500m", b"1.5Gi", b"2e3", b"12"]),
    "idx_file": (idx_file, [bytes((0, 0, 8, 2)) + b"\0\0\0\2\0\0\0\3" + b"abcdef"]),
    "manifest": (manifest, [json.dumps(SPEC).encode()]),
    "frames": (
        frames,
        [
            FRAMES.head(Kind.ACTIVATIONS, 0)
            + bytes(20)
            + FRAMES.head(Kind.FRONT_GRADIENT, 0)
            + bytes(8)
            + FRAMES.head(Kind.ACTIVATIONS, 1)
            + b"\x01\0\0\0\x09\0\0\0"
            + bytes(12),
            FRAMES.head(Kind.END, 0, text_bytes=3) + b"{}\n",
        ],
    ),
    "requests": (
        requests,
        [
            _request(
                b"PUT",
                b"/v1/rounds/1/updates/d-0",
                b"",
                TENSORS,
                REPORT.to_json().encode(),
                KEY.encode(),
                BODY,
            ),
            _request(
                b"PUT", b"/v1/rounds/1/updates/d-0", b"", b"", REPORT.to_json().encode(), b"", BODY
            ),
            _request(
                b"POST",
                b"/v1/clients/d-0/session",
                b"",
                b"",
                b"",
                KEY.encode(),
                REGISTRATION.to_json().encode(),
            ),
            _request(b"GET", b"/v1/clients/d-0/work", b"after=0", b"", b"", KEY.encode(), b""),
            _request(b"GET", b"/metrics", b"", b"", b"", b"", b""),
        ],
    ),
}


def everything(data: bytes) -> None:
    """Any of them, as the first byte says: so one process tries all."""
    each = list(TARGETS.values())
    target, _ = each[(data[0] if data else 0) % len(each)]
    target(data[1:])


ALL = "everything"


def target_of(name: str) -> tuple[Target, list[bytes]]:
    """A target and its seeds."""
    if name != ALL:
        return TARGETS[name]
    each = TARGETS.values()
    return everything, [bytes((i,)) + seed for i, (_, seeds) in enumerate(each) for seed in seeds]
