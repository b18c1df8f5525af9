"""Runs a FederatedJob in this process: the rounds of `cloud.job`, without pods, HTTP or waiting.

Whoever simulates (the CLI, benches) iterates over `simulate`. Plans come from the operator's
planning step, rounds from `learning.rounds`, training from the workers' clients, times and joules
from the workers' own accounts on a virtual clock (`emulation`): nothing is decided here a second
time. Invariant: the rounds depend on the setup alone, which has all seeds.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import structlog

from lockstep_allocator.fleet import Method
from lockstep_api.records import ClientRecord, ClientsRecord
from lockstep_api.settings import JobSettings, edge_names, job_settings
from lockstep_api.spec import FederatedJobSpec, Mode
from lockstep_api.text import few
from lockstep_api.wire import PlanRequest, RoundPlan
from lockstep_simulator.averaging import AveragingField
from lockstep_simulator.batched import fastest
from lockstep_simulator.emulation import (
    USUAL,
    Overheads,
    Traces,
    VirtualDevice,
    build_devices,
)
from lockstep_simulator.half_work import HalvesOf, by_operations
from lockstep_simulator.observing import Telemetry
from lockstep_simulator.planning import LivePlanner, Planner
from lockstep_simulator.playing import Field, Player
from lockstep_simulator.processes import in_processes
from lockstep_simulator.refused import check
from lockstep_simulator.registering import registered_clients, registered_edges
from lockstep_simulator.repeating import repeating
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.splitting import SplitField, cores_of
from lockstep_simulator.trainers import OneByOne, Way, build_clients
from lockstep_simulator.work import Work
from lockstep_workers.cloud.account import Account, InMemory
from lockstep_workers.cloud.split_server import SplitServer
from lockstep_workers.data import Dataset
from lockstep_workers.entrypoints import explained
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.constants import pack, unpack
from lockstep_workers.learning.energy_bounds import powers_of
from lockstep_workers.learning.evaluation import Evaluation
from lockstep_workers.learning.privacy import by_seed, noise_of
from lockstep_workers.learning.rollback import Ruling, mistrusted, ruling
from lockstep_workers.learning.rounds import SHOWN, Progress, Round, Tries, is_over, round_report
from lockstep_workers.learning.safeguards import safeguards_of
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.strategies import strategy_of
from lockstep_workers.learning.trial import Loaded, tried
from lockstep_workers.tensors import body_bytes

_log = structlog.get_logger()
_CPU_WATTS = 10.0
_FAILURES = 0x6C05
"""Tells the draw of failures from others of the same seed."""
_WHY_GONE = "it gave no update (--failures)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """The clients of a job, and what they were made from."""

    job: JobSettings
    dataset: Dataset
    clients: Mapping[str, Client]


WayOf = Callable[[Crew], Way]
WorkOf = Callable[[Mapping[str, Client]], Work]


def one_by_one(crew: Crew) -> Way:
    """Clients train one after another, as on their devices."""
    return OneByOne(crew.clients, own=crew.job.model.entrypoint)


def together(crew: Crew) -> Way:
    """Clients of small models train in groups: the same to float error."""
    return fastest(OneByOne(crew.clients, own=crew.job.model.entrypoint))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is simulated; the spec has the seed, the strategy and all else that the job says."""

    spec: FederatedJobSpec
    dataset: Dataset
    work: WorkOf
    """Core-seconds of a step (`work`)."""
    halves: HalvesOf | None = None
    """Core-seconds of an example in either half, in mode split; None: dealt out by operations."""
    name: str = "job"
    namespace: str = "default"
    traces: Traces = field(default_factory=dict)
    """The ConfigMaps with bandwidth traces that the spec names."""
    policy: Method | None = None
    """For allocation.policy ppo; None: the one that comes with Lockstep."""
    failures: float = 0.0
    """Chance that a participant gives no update in a round."""
    planner: Planner | None = None
    """Plans the rounds; None: as the operator does."""
    way: WayOf = together
    """How clients train; those of a job that repeats bit for bit train as on pods."""
    processes: int = 1
    """How many train; results do not depend on it."""
    overheads: Overheads = USUAL
    cpu_watts: float = _CPU_WATTS
    """Of a busy core, for energy of source `cpu`."""


def simulate(setup: Setup) -> Iterator[SimulatedRound]:
    """The rounds of a job, each as soon as it is done.

    Raises:
        InvalidJob: the job asks for what cannot be done, or the user's code raised.
        JobFailed: a round came to nothing, as often as a job may try.
    """
    with simulation(setup) as job:
        yield from job.rounds()


@contextmanager
def simulation(setup: Setup) -> Iterator["Simulation"]:
    """A job, for who also wants what it leaves behind; errors as `simulate`."""
    with ExitStack() as stack:
        yield Simulation(setup, stack)


class Simulation:
    """A job under way; `simulation` makes it."""

    def __init__(self, setup: Setup, stack: ExitStack) -> None:
        """At the initial weights; what is made for it is given back to `stack`.

        Raises:
            InvalidJob: the job cannot be simulated.
        """
        check(setup.spec, setup.policy)
        self._setup, self.job = setup, settings_of(setup)
        with repeating(deterministic=self._deterministic):
            loaded = tried(self.job, setup.dataset)
            clients = build_clients(self.job, setup.dataset)
            first = next(iter(clients.values()))
            unpack(first.model.module, pack(loaded.module))  # all clients share this module
            self.work = setup.work(clients)
            self._split = self._build_split(loaded)
        devices = build_devices(
            self.job, traces=setup.traces, work=self.work, overheads=setup.overheads
        )
        self._telemetry = Telemetry(devices, up_since_s=-setup.overheads.start_s)
        classes = loaded.dataset.classes
        self._safeguards = safeguards_of(self.job, loaded.reached, classes=classes)
        self.server = self._split or self._build_server(loaded)
        self._field: Player = (
            self._build_field(clients, devices, examples=loaded.examples, stack=stack)
            if self._split is None
            else self._build_split_field(clients, devices, split=self._split)
        )
        self._planner = setup.planner or LivePlanner(setup.spec, self._telemetry, setup.policy)
        self._clients = registered_clients(self.job, clients, classes=setup.dataset.classes)
        self._edges = registered_edges(setup.spec)
        self._progress, self._powers = Progress(), powers_of(self.job)
        self._account = Account(InMemory(), private=self.job.privacy is not None)
        self.budget_spent = False
        """Whether another round would spend more than privacy.epsilonBudget."""
        self._now_s, self._bytes = 0.0, 0

    @property
    def _deterministic(self) -> bool:
        return self._setup.spec.training.deterministic

    def _build_split(self, loaded: Loaded) -> SplitServer | None:
        return SplitServer(self.job, loaded) if self.job.mode is Mode.SPLIT else None

    def _build_server(self, loaded: Loaded) -> Server:
        """Its noise repeats, as all else does."""
        return Server(
            strategy_of(self.job),
            loaded.module,
            examples=loaded.examples,
            deterministic=self._deterministic,
            noise=noise_of(self.job, normals=by_seed(self.job.training.seed)),
            safeguards=self._safeguards,
        )

    def _build_field(
        self,
        clients: Mapping[str, Client],
        devices: Mapping[str, VirtualDevice],
        *,
        examples: Mapping[str, int],
        stack: ExitStack,
    ) -> Field:
        setup, first = self._setup, next(iter(clients.values()))
        with repeating(deterministic=self._deterministic):
            crew = Crew(job=self.job, dataset=setup.dataset, clients=clients)
            way = (one_by_one if self._deterministic else setup.way)(crew)
            trainer = in_processes(way, self.job, processes=setup.processes)
        parts: dict[str, Any] = {
            "clients": clients,
            "devices": devices,
            "server": self.server,
            "trainer": stack.enter_context(trainer),
            "telemetry": self._telemetry,
            "examples": examples,
            "memories": {},
            "down_bytes": body_bytes(first.n_received),
            "up_bytes": body_bytes(self.server.n_values),
            "patient": self._deterministic,
        }
        if self.job.mode is Mode.FEDERATED:
            return Field(**parts)
        return AveragingField(
            edges=tuple(edge_names(setup.spec)),
            strategy=strategy_of(self.job),
            momentum=self.job.training.momentum,
            exact=self._deterministic,
            clip_norm=self.job.clip_norm(),
            hop_s=setup.overheads.transfer_s,
            **parts,
        )

    def _build_split_field(
        self,
        clients: Mapping[str, Client],
        devices: Mapping[str, VirtualDevice],
        *,
        split: SplitServer,
    ) -> SplitField:
        return SplitField(
            job=self.job,
            clients=clients,
            devices=devices,
            server=split,
            telemetry=self._telemetry,
            examples={name: len(client.examples) for name, client in clients.items()},
            cores=cores_of(self._setup.spec),
            halves_of=self._setup.halves or partial(by_operations, work=self.work),
            patient=self._deterministic,
            hop_s=self._setup.overheads.transfer_s,
        )

    @property
    def clients(self) -> ClientsRecord:
        """What its clients told when they came."""
        return ClientsRecord(clients=[ClientRecord.of(one) for one in self._clients])

    def rounds(self) -> Iterator[SimulatedRound]:
        """The rounds until the job is over."""
        over = None
        while over is None:
            with repeating(deterministic=self._deterministic):
                done = self._round()
            if done is None:
                return
            yield done
            over = is_over(done.plan, done.report)

    def _round(self) -> SimulatedRound | None:
        """The next round; one that no update reached is planned and played once more."""
        tries = Tries()
        while (plan := self._plan()) is not None:
            if not self._account.allows(plan):
                self.budget_spent = True
                return None
            gone = {**self._failing(), **self._planner.gone(plan.round)}
            done, self._now_s = self._field.play(plan, self._progress, now_s=self._now_s, gone=gone)
            if self._split is not None and done.failures:
                tries.again(f"round {done.number}: {few(done.failures, SHOWN, comma='; ')}")
            elif done.accepted:
                if (settled := self._settled(done, tries)) is not None:
                    return settled
            else:
                tries.fruitless(done)
            self._now_s += self._setup.overheads.between_s
        return None

    def _plan(self) -> RoundPlan | None:
        last, out = self._progress, self._progress.sitting_out()
        request = PlanRequest(
            round=last.round + 1,
            clients=[one for one in self._clients if one.client not in out] or self._clients,
            edges=self._edges,
            cuts=[] if self._split is None else self._split.candidates,
            cut=None if last.plan is None else last.plan.cut,
            report=last.report,
            private_rounds=self._account.rounds,
        )
        return self._planner.plan(request, now_s=self._now_s)

    def _failing(self) -> dict[str, str]:
        """Who gives nothing to the coming round, drawn for each client and try."""
        chance, clients = self._setup.failures, self.job.clients()
        if not chance:
            return {}
        entropy = (self.job.training.seed, _FAILURES, self._field.turn)
        drawn = np.random.default_rng(np.random.SeedSequence(entropy)).random(len(clients))
        failing = (client for client, one in zip(clients, drawn, strict=True) if one < chance)
        return dict.fromkeys(failing, _WHY_GONE)

    def _settled(self, done: Round, tries: Tries) -> SimulatedRound | None:
        """Averages, evaluates and reports a closed round; None: it is taken back."""
        state = self.server.state
        self._account.spend(done.accepted)
        self._aggregate(done.number)
        result = self._evaluated(done.number)
        if (ruled := self._judge(result.loss, tries)) is not None and ruled.back:
            self.server.go_on_from(state)
            sit_out = {"sit_out": dict(ruled.sit_out)}
            self._progress = self._progress.model_copy(update=sit_out)
            return None
        report = round_report(
            done,
            self._progress,
            now_s=self._now_s,
            result={"accuracy": result.accuracy, "loss": result.loss},
            powers=self._powers,
        )
        more = {"privacy": self._account.report(done.plan)}
        report = report.model_copy(
            update=more | {"mistrusted": mistrusted(done, self._progress, tries=tries)}
        )
        if self._split is not None:
            told = self._split.distillation(0.0)
            report = report.model_copy(update={"distillation": told})
        self._progress = self._progress.after(report, done.plan)
        self._bytes += sum(one.bytes for one in report.clients)
        time_s, self._now_s = self._now_s, self._now_s + self._setup.overheads.between_s
        return SimulatedRound(
            round=report.round,
            accuracy=result.accuracy,
            loss=result.loss,
            time_s=time_s,
            energy_j=report.energy_joules.model or 0.0,
            bytes=self._bytes,
            steps={one.update.client: one.update.steps for one in report.clients},
            clients=tuple(done.participants()),
            plan=done.plan,
            report=report,
        )

    def _judge(self, loss: float, tries: Tries) -> Ruling | None:
        """What is ruled where a round's loss is not as it should be."""
        last = self._progress
        before = None if last.report is None else last.report.loss
        if (why := self._safeguards.judge.problem(loss, before)) is None:
            return None
        suspects, clients = self.server.suspects(), len(self._clients)
        ruled = ruling(why, last, suspects=suspects, clients=clients, tries=tries)
        _log.warning(ruled.text)
        return ruled

    def _aggregate(self, number: int) -> None:
        if self._split is None:
            self.server.aggregate()
            return
        spec = self.job.distillation
        own = None if spec is None else spec.cloud_entrypoint
        with explained(f"making the model after round {number} raised", own=own):
            self._split.aggregate()

    def _evaluated(self, number: int) -> Evaluation:
        what = f"evaluating the model after round {number} raised"
        with explained(what, own=self.job.model.entrypoint):
            return self.server.evaluate(self._setup.dataset.test)


def settings_of(setup: Setup) -> JobSettings:
    """The settings that the workers of the job would have."""
    return job_settings(
        setup.spec,
        namespace=setup.namespace,
        job=setup.name,
        uid="simulated",
        created_at=0.0,
        cloud_url="http://simulated",
        planner_url="http://simulated",
        cpu_watts=setup.cpu_watts,
    )
