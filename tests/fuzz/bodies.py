"""What pods of a job say to each other, as fuzz targets: messages, settings, tensors, frames."""

import asyncio
from collections.abc import Callable
from functools import cache

import numpy as np
from pydantic import BaseModel, ValidationError

from lockstep_api.base import WireModel
from lockstep_api.certificates import Certificate, CertificateRequest
from lockstep_api.orders import ClusterOrder, ClusterProgress, ClusterResult, EdgeWork, MemberOrder
from lockstep_api.sessions import ClientFailure, Registration, SessionOpened
from lockstep_api.settings import JobSettings
from lockstep_api.spec import Mode, WireDtype
from lockstep_api.status import EnergyJoules
from lockstep_api.tiers import ClusterReport, EdgeRegistration
from lockstep_api.wire import (
    ClientPlan,
    ClientReport,
    Outcome,
    PlanRequest,
    PolicyVerdict,
    RoundPlan,
    RoundReport,
    Task,
    UpdateReport,
)
from lockstep_workers.edge.split_connection import SplitConnection
from lockstep_workers.errors import Gone, RefusedUpdate
from lockstep_workers.parcels import Tensor, unwrap, wrap
from lockstep_workers.split_frames import Kind
from lockstep_workers.tensors import check_values, decode, encode
from tests.fuzz.shaping import file_in, in_ways, of_file, way_of
from tests.fuzz.stages import Target
from tests.support.splitting import shape_of
from tests.wire.jobs import settings

N_VALUES = 6

# -- examples of all messages ----------------------------------------------------------------------

REPORT = UpdateReport(
    client="d-0", round=1, examples=1, steps=1, download_seconds=0, compute_seconds=0,
    cpu_seconds=0, throttled_seconds=0, frequency_ghz=1, energy_joules=EnergyJoules(model=1.0),
)  # fmt: skip
REGISTRATION = Registration(client="d-0", incarnation="i", examples=1, label_histogram=[1, 2])
ARRIVED = ClientReport(update=REPORT, arrived_seconds=1, upload_seconds=1, bytes=1)
PLAN_REQUEST = PlanRequest(
    round=2,
    clients=[REGISTRATION],
    report=RoundReport(
        round=1, planned=True, seconds=1, elapsed_seconds=1, clients=[ARRIVED],
        energy_joules=EnergyJoules(),
    ),
)  # fmt: skip
_PLAN = ClientPlan(client="d-0", frequency_ghz=1, cpu_milli=100, steps=1, applied=True)
_ORDER = ClusterOrder(
    round=1, cluster="c0", turn=1, members=[MemberOrder(plan=_PLAN, examples=5)],
    numbers={"a": 0.5}, bounds={"model": 2.0},
)  # fmt: skip
_RESULT = ClusterResult(
    report=ClusterReport(cluster="c0", edge="e-0", clients=1, examples=5, seconds=2.0),
    round=1, turn=1, clients=[ARRIVED], lost={"d-1": "gone"},
)  # fmt: skip
EXAMPLES: tuple[WireModel, ...] = (
    REGISTRATION,
    REPORT,
    PLAN_REQUEST,
    RoundPlan(round=1, rounds=2, participants=[_PLAN]),
    Outcome(result="Failed", message="why"),
    Task(round=1, turn=1, steps=5, frequency_ghz=1.5),
    ClientFailure(client="d-0", incarnation="i", round=1, message="ValueError"),
    SessionOpened(key="a-key-of-some-session"),
    EdgeRegistration(edge="e-0", incarnation="i"),
    _ORDER,
    _RESULT,
    ClusterProgress(round=1, cluster="c0", turn=1, accepted=1),
    EdgeWork(number=1, order=_ORDER),
    CertificateRequest(server="cloud", csr="-----BEGIN CERTIFICATE REQUEST-----\n"),
    Certificate(chain="-----BEGIN CERTIFICATE-----\n", not_after=1.8e9),
    PolicyVerdict(taken=True, message="better"),
)


def messages(data: bytes) -> str:
    """A message between pods, of the kind that the first byte says: read, it is written and read
    as the same."""
    number, text = way_of(data, len(EXAMPLES))
    kind = type(EXAMPLES[number])
    same(kind, text)
    return f"taken as {kind.__name__}"


def same(kind: type[WireModel], text: bytes) -> None:
    """Reads a message and what it is written as."""
    message = kind.model_validate_json(text)
    written = message.to_json()
    if "null" not in written:  # so JSON has what is no number; nothing else is written as that
        assert kind.model_validate_json(written) == message


def job_settings(data: bytes) -> None:
    """The settings of a job, which its pods read at their start."""
    same(JobSettings, data)


def _settings(**more: object) -> bytes:
    made: BaseModel = settings(cloud_port=1, planner_port=1).model_copy(update=more)
    return made.model_dump_json(by_alias=True, exclude_none=True).encode()


# -- tensors ---------------------------------------------------------------------------------------


def update_body(data: bytes) -> None:
    """The body of an update, as another pod sends it."""
    flat = decode(file_in(data), n_values=N_VALUES)
    check_values(flat)
    assert flat.shape == (N_VALUES,)
    assert np.isfinite(flat).all()


def parcel(data: bytes) -> None:
    """What an edge sends up when its cluster is done: a result beside tensors."""
    body = file_in(data)
    found = unwrap(body, text=4096)
    assert sum(tensor.nbytes for tensor in found.tensors.values()) <= len(body)
    same(ClusterResult, found.text.encode(errors="replace"))


BODY = bytes(encode([np.ones(N_VALUES, np.float32)]))
_TENSORS: dict[str, Tensor] = {"model": np.ones(3, np.float32), "labels": np.arange(2)}
_PARCEL = b"".join(bytes(piece) for piece in wrap(_RESULT.to_json(), _TENSORS))

# -- frames of split training ----------------------------------------------------------------------

FRAMES = shape_of(wire=WireDtype.BFLOAT16, rows=2, values=3, front_values=2)


@cache
def runner() -> asyncio.Runner:
    """One loop for all inputs."""
    return asyncio.Runner()


def frames(data: bytes) -> str:
    """What a device sends an edge in a round of split training, whole or in small pieces."""
    return runner().run(_frames(data))


class _NoWire:
    """Sends nowhere."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_arguments: None


async def _frames(data: bytes) -> str:
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
    if refused:
        return f"refused: {refused[0].reason.value} after {len(waiting) - 1}"
    assert np.isfinite(into).all()
    assert np.isfinite(front).all()
    assert set(labels) <= set(range(10))
    return f"taken: {len(waiting) - 1} frames"


_TWO_STEPS = (
    FRAMES.head(Kind.ACTIVATIONS, 0)
    + bytes(20)
    + FRAMES.head(Kind.FRONT_GRADIENT, 0)
    + bytes(8)
    + FRAMES.head(Kind.ACTIVATIONS, 1)
    + b"\x01\0\0\0\x09\0\0\0"
    + bytes(12)
)

TARGETS = {
    "update_body": Target(update_body, of_file(BODY), (RefusedUpdate,)),
    "parcel": Target(parcel, of_file(_PARCEL), (RefusedUpdate, ValidationError)),
    "messages": Target(
        messages, in_ways(*([one.to_json().encode()] for one in EXAMPLES)), (ValidationError,)
    ),
    "job_settings": Target(
        job_settings,
        (
            _settings(),
            _settings(mode=Mode.HIERARCHICAL, edge_urls={"e-0": "http://e-0"}),
            _settings(identity=True),
        ),
        (ValidationError,),
        of_a_byte=1024,
    ),  # free fields: lists in lists
    "frames": Target(frames, (_TWO_STEPS, FRAMES.head(Kind.END, 0, text_bytes=3) + b"{}\n")),
}
