"""A small job and a planner for tests of the workers on loopback."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from numpy.typing import NDArray

from lockstep_api.certificates import CertificateRequest
from lockstep_api.identity import PublishedKeys
from lockstep_api.privacy import PrivacyPlan
from lockstep_api.settings import GroupSettings, JobSettings
from lockstep_api.spec import Data, Mode, Model, Partition, StrategySpec, Target, TrainingSpec
from lockstep_api.tiers import ClusterPlan
from lockstep_api.wire import ClientPlan, Outcome, PlanRequest, PolicyVerdict, RoundPlan
from lockstep_serving.bounded import Limits, bounded
from tests.wire.channels import LOOPBACK, PLAIN, Channel
from tests.wire.signing import Signer


def settings(
    *, cloud_port: int, planner_port: int, replicas: int = 3, **training: Any
) -> JobSettings:
    """A job of one device group `d`."""
    group = GroupSettings(
        name="d", replicas=replicas, min_ghz=0.5, max_ghz=2.0, cpu_at_max=0.5, kappa=1e-28
    )
    return JobSettings(
        namespace="test", job="job", uid="u1", created_at=0.0, mode=Mode.FEDERATED,
        model=Model(name="mlp"),
        data=Data(name="fashion-mnist", partition=Partition()),
        training=TrainingSpec(**({"rounds": 3, "learning_rate": 0.05, "momentum": 0.9} | training)),
        strategy=StrategySpec(), groups=(group,), cloud_url=f"http://127.0.0.1:{cloud_port}",
        planner_url=f"http://127.0.0.1:{planner_port}",
    )  # fmt: skip


@dataclass
class FakePlanner:
    """Plans every connected client; remembers what it was asked."""

    rounds: int = 3
    steps: int = 20
    budget_seconds: float | None = None
    target: Target | None = None
    quorum: int | None = None
    deadline_seconds: float | None = None
    broken: bool = False
    signer: Signer = field(default_factory=Signer)
    """For the servers of a job that speak TLS."""
    no: list[int] = field(default_factory=list)
    """Statuses that the next plan requests are answered with, before one is planned."""
    asked: int = 0
    """Plan requests, answered or not."""
    requests: list[PlanRequest] = field(default_factory=list)
    offers: list[tuple[str | None, bytes]] = field(default_factory=list)
    """Token and policy of each offer."""
    refusals: int = 0
    """Offers that are turned away before one is judged."""
    refusal: int = 503
    published: PublishedKeys | None = None
    """The keys of tokens; None: it does not tell them."""
    missed: list[str] = field(default_factory=list)
    """What keys were asked for because of, each time."""
    outcome: "asyncio.Future[Outcome]" = field(default_factory=asyncio.Future)
    arrived: Callable[[PlanRequest], None] = field(default=lambda _request: None)
    """Told of each request before it is answered."""
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    """Requests wait while it is not set."""
    choose: Callable[[PlanRequest], list[str]] = field(
        default=lambda request: [c.client for c in request.clients]
    )

    account: Callable[[PlanRequest], PrivacyPlan | None] = field(default=lambda _request: None)
    """What a private job is told of its account."""

    def __post_init__(self) -> None:
        """Answers at once."""
        self.answering.set()

    def plan(self, request: PlanRequest) -> RoundPlan:
        """The plan for a request."""
        self.requests.append(request)
        chosen = [
            ClientPlan(
                client=c, frequency_ghz=2.0, cpu_milli=500, steps=self.steps,
                budget_seconds=self.budget_seconds, applied=True,
            )
            for c in self.choose(request)
        ]  # fmt: skip
        return RoundPlan(
            round=request.round, rounds=self.rounds, target=self.target, participants=chosen,
            quorum=self.quorum, deadline_seconds=self.deadline_seconds,
            clusters=clusters_of(request, [one.client for one in chosen]),
            privacy=self.account(request),
        )  # fmt: skip

    def app(self) -> FastAPI:
        """The routes that the cloud pod calls."""
        app = FastAPI()

        @app.post("/v1/namespaces/test/jobs/job/plan")
        async def plan(request: PlanRequest) -> Any:
            self.asked += 1
            self.arrived(request)
            await self.answering.wait()
            if self.broken or self.no:
                return Response("no", status_code=self.no.pop(0) if self.no else 503)
            return Response(self.plan(request).to_json(), media_type="application/json")

        @app.post("/v1/namespaces/test/jobs/job/outcome")
        async def outcome(told: Outcome) -> dict[str, str]:
            if not self.outcome.done():
                self.outcome.set_result(told)
            return {}

        @app.post("/v1/namespaces/test/jobs/job/policy")
        async def policy(request: Request) -> Response:
            self.offers.append((request.headers.get("authorization"), await request.body()))
            if len(self.offers) <= self.refusals:
                return Response("not now", status_code=self.refusal)
            verdict = PolicyVerdict(taken=True, message="better")
            return Response(verdict.to_json(), media_type="application/json")

        self._add_routes_of_trust(app)
        return app

    def _add_routes_of_trust(self, app: FastAPI) -> None:
        """By which pods prove who they are."""

        @app.get("/v1/namespaces/test/jobs/job/keys")
        async def keys(kid: str) -> Response:
            self.missed.append(kid)
            if self.published is None:
                return Response("no", status_code=503)
            return Response(self.published.to_json(), media_type="application/json")

        @app.post("/v1/namespaces/test/jobs/job/certificate")
        async def certificate(asked: CertificateRequest) -> Response:
            if self.broken:
                return Response("no", status_code=503)
            return Response(self.signer.sign(asked).to_json(), media_type="application/json")


def clusters_of(request: PlanRequest, clients: list[str]) -> list[ClusterPlan]:
    """A cluster for each edge that is there: every second client, with two; none without edges."""
    edges = [one.edge for one in request.edges]
    members = [clients[i :: len(edges)] for i in range(len(edges))]
    return [
        ClusterPlan(
            cluster=f"c{i}", edge=edge, clients=members[i],
            fallbacks=[other for other in edges if other != edge],
        )
        for i, edge in enumerate(edges)
        if members[i]
    ]  # fmt: skip


@asynccontextmanager
async def serving(
    app: Any,
    port: int,
    *,
    config: uvicorn.Config | None = None,
    channel: Channel = PLAIN,
    host: str = LOOPBACK,
) -> AsyncIterator[None]:
    """Serves an ASGI app on loopback, as `config` says."""
    config = config or uvicorn.Config(
        app, http=bounded(Limits(connections=1000)), loop="none", ws="none", lifespan="off",
        log_config=None, access_log=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    config.host, config.port, config.http = host, port, channel.serve(config.http)
    server = uvicorn.Server(config)
    running = asyncio.ensure_future(server._serve())
    while not server.started:
        if running.done():
            running.result()
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        await running


def write_dataset(root: Path, *, train: int = 3000, test: int = 500) -> None:
    """A small data set in the files of Fashion-MNIST: ten noisy prototypes, easy to tell apart."""
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 256, (10, 28, 28))
    folder = root / "fashion-mnist"
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        noisy = prototypes[labels] / 4 + rng.normal(96, 60, (count, 28, 28))
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", noisy.clip(0, 255).astype(np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """An array of unsigned bytes in the IDX format, gzipped."""
    head = bytes((0, 0, 8, array.ndim)) + np.asarray(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.tobytes(), compresslevel=1))
