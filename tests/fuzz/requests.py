"""Requests to a cloud pod, as a fuzz target: who has no key changes nothing of its round."""

import tempfile
from collections.abc import MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from torch import nn

from lockstep_api.names import PROTOCOL, TENSORS
from lockstep_api.settings import GroupSettings, JobSettings
from lockstep_api.spec import Data, Mode, Model, Partition, StrategySpec, TrainingSpec
from lockstep_api.wire import ClientPlan, RoundPlan
from lockstep_workers.cloud.job import Job
from lockstep_workers.cloud.journal import Journal
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.parts import Parts
from lockstep_workers.cloud.store import Store
from lockstep_workers.data import Examples
from lockstep_workers.hosting.bulk import BulkRoutes
from lockstep_workers.hosting.open_rounds import OpenRounds
from lockstep_workers.hosting.sessions import Sessions, never
from lockstep_workers.learning.rounds import Round
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.planner_client import PlannerClient
from tests.fuzz.bodies import BODY, N_VALUES, REGISTRATION, REPORT, runner
from tests.fuzz.stages import Target

KEY = "the-key-of-a-session-of-d-0"


@cache
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


def requests(data: bytes) -> str:
    """A request: method, path, query, headers, body, a line each."""
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
        status = runner().run(_answer(scope, body))
    assert status is None or 200 <= status < 500, status
    if key != KEY.encode():
        assert now.waiting() == ["d-0"]
        assert now.refused == {}
        assert made.server.weight == 0
        assert made.reception.sessions["d-0"].key == KEY
    told = method[:4].decode("latin-1") if status != 404 else "any"
    return f"{told} {status or 'without an answer'}"


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

    await routes(scope, receive, send)
    return next((a["status"] for a in answers if a["type"] == "http.response.start"), None)


_UPDATE = (b"PUT", b"/v1/rounds/1/updates/d-0", b"")
_REPORT = REPORT.to_json().encode()
_SEEDS = (
    (*_UPDATE, TENSORS.encode(), _REPORT, KEY.encode(), BODY),
    (*_UPDATE, b"", _REPORT, b"", BODY),
    (
        *(b"POST", b"/v1/clients/d-0/session", b"", b"", b""),
        KEY.encode(),
        REGISTRATION.to_json().encode(),
    ),
    (b"GET", b"/v1/clients/d-0/work", b"after=0", b"", b"", KEY.encode(), b""),
    (b"GET", b"/v1/clients/d-0/constants", b"", b"", b"", KEY.encode(), b""),
    (b"GET", b"/metrics", b"", b"", b"", b"", b""),
)

TARGETS = {"requests": Target(requests, tuple(b"\n".join(seed) for seed in _SEEDS))}
