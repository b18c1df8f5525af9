"""What is on the volume of a small job of mode federated and of one of mode split, from simulation.

Pictures, reports and explained plans are tested on them. They repeat bit for bit, and take a
second or two for each test process.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lockstep_api.records import ClientsRecord, RoundRecord
from lockstep_api.spec import FederatedJobSpec
from lockstep_simulator.half_work import HalfWork
from lockstep_simulator.recording import Recording
from lockstep_simulator.simulation import Setup, simulation
from tests.support.simulating import group, setup, spec

ROUNDS = 6
_FRONT_S, _BACK_S = 0.001, 0.0005
_DEVICES = (
    group("fast", 2, uplink={"mbps": 8}),
    group("slow", 2, cpuAtMax="500m", uplink={"mbps": 2}),
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A job that has ended, and what it has written down."""

    name: str
    spec: FederatedJobSpec
    records: tuple[RoundRecord, ...]
    clients: ClientsRecord

    def write(self, folder: Path) -> None:
        """The files as they are on a volume."""
        recording = Recording(folder, self.clients)
        for one in self.records:
            recording.add(one)


def plain(spec: FederatedJobSpec) -> dict[str, Any]:
    """A spec as a manifest has it."""
    return dict(spec.model_dump(mode="json", by_alias=True, exclude_none=True))


@cache
def federated() -> Recorded:
    """Four devices of two groups, levelled by `equalize`; some give no update now and then."""
    training = {"rounds": ROUNDS, "localSteps": {"fixed": 8}}
    job = spec(*_DEVICES, allocation={"policy": "equalize"}, training=training)
    return _recorded("digits", setup(job, name="digits", failures=0.1))


@cache
def split() -> Recorded:
    """The same devices in two clusters, with an edge each; the cloud's half is distilled."""
    training = {"rounds": ROUNDS, "localSteps": {"fixed": 4}, "batchSize": 8}
    job = spec(
        *_DEVICES,
        mode="split",
        model={"name": "mlp", "args": {"hidden": 8}, "cut": "2"},
        edges=[{"name": "edge", "replicas": 2, "cpu": "1"}],
        allocation={"policy": "equalize"},
        distillation={"enabled": True},
        training=training,
    )
    return _recorded("halves", setup(job, name="halves", halves=_halves))


def _halves(clients: Any, _cut: Any) -> HalfWork:
    return HalfWork(dict.fromkeys(clients, _FRONT_S), _BACK_S)


def _recorded(name: str, made: Setup) -> Recorded:
    with simulation(made) as job:
        records = tuple(done.record for done in job.rounds())
        return Recorded(name, made.spec, records, job.clients)
