"""Jobs to draw: records of rounds as cloud pods write them, made by hand, of any size and kind."""

import math
from dataclasses import dataclass
from typing import Any

from lockstep_api.records import ClientRecord, ClientsRecord, RoundRecord, RoundSummary
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import EnergyJoules
from lockstep_api.tiers import ClusterPlan, ClusterReport
from lockstep_api.wire import ClientPlan, ClientReport, PlanBasis, RoundPlan, UpdateReport
from lockstep_pictures.figures import JobParts, Record, figures_of
from lockstep_pictures.model import JobFigures

GROUPS = ("phone", "tablet", "gateway")
_MBIT = 8e-6
_UPDATE_BYTES = 400_000
_LABELS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a job to draw is like."""

    name: str = "job"
    devices: int = 6
    rounds: int = 8
    summaries: int = 0
    """So many of its first rounds are kept as sums only."""
    clusters: int = 0
    policy: str = "equalize"
    plans: bool = True
    evaluated: bool = True
    lost_every: int = 5
    """Of so many rounds a device misses one; 0: never."""

    def clients(self) -> list[str]:
        """The devices, of three groups in turn."""
        return [f"{GROUPS[place % 3]}-{place // 3}" for place in range(self.devices)]

    def spec(self) -> FederatedJobSpec:
        """Its manifest's spec."""
        counts = {group: len(range(place, self.devices, 3)) for place, group in enumerate(GROUPS)}
        body: dict[str, Any] = {
            "model": {"name": "mlp"},
            "data": {"name": "fashion-mnist"},
            "training": {"rounds": max(1, self.rounds), "localSteps": {"fixed": 10}},
            "allocation": {"policy": self.policy},
            "devices": [
                {
                    "name": group,
                    "replicas": count,
                    "frequency": {"minGHz": 0.4, "maxGHz": 2.0},
                    "cpuAtMax": "500m",
                }
                for group, count in counts.items()
                if count
            ],
        }
        if self.clusters:
            body |= {"mode": "hierarchical", "edges": [{"name": "edge", "replicas": 2}]}
        return FederatedJobSpec.model_validate(body)

    def records(self) -> list[Record]:
        """Its history."""
        rounds = range(1, self.rounds + 1)
        return [
            self._summary(number) if number <= self.summaries else self._record(number)
            for number in rounds
        ]

    def registered(self) -> ClientsRecord:
        """What its devices told when they came."""
        return ClientsRecord(
            clients=[
                ClientRecord(
                    client=client,
                    examples=110,
                    labels=[(place * 7 + label * label) % 23 for label in range(_LABELS)],
                )
                for place, client in enumerate(self.clients())
            ]
        )

    def parts(self, **more: Any) -> JobParts:
        """Beside its rounds."""
        return JobParts(name=self.name, spec=self.spec(), clients=self.registered(), **more)

    def figures(self, **more: Any) -> JobFigures:
        """What is drawn of it."""
        return figures_of(self.parts(**more), self.records())

    def _energy(self, number: int) -> EnergyJoules:
        joules = 1.5 * number * self.devices
        return EnergyJoules(model=joules, cpu=4 * joules)

    def _told(self, number: int) -> dict[str, Any]:
        return {
            "round": number,
            "planned": number != 2,
            "seconds": 2.5 + 0.5 * math.sin(number),
            "elapsed_seconds": 3.0 * number,
            "accuracy": 1 - 0.9 / math.sqrt(number) if self.evaluated else None,
            "loss": 2.3 / number if self.evaluated else None,
            "energy_joules": self._energy(number),
        }

    def _summary(self, number: int) -> RoundSummary:
        return RoundSummary(**self._told(number), updates=self.devices, missing=0, refused={})

    def _lost(self, number: int, place: int) -> bool:
        return bool(self.lost_every) and (number + place) % (self.lost_every * 2) == 0

    def _record(self, number: int) -> RoundRecord:
        clients = self.clients()
        done = [place for place in range(self.devices) if not self._lost(number, place)]
        return RoundRecord(
            **self._told(number),
            clients=[_report(number, clients[place], place=place) for place in done],
            lost=[one for place, one in enumerate(clients) if place not in set(done)],
            refused={"too_slow": 1} if number == 3 else {},
            clusters=[_cluster_report(one) for one in self._clusters()],
            plan=self._plan(number) if self.plans else None,
        )

    def _plan(self, number: int) -> RoundPlan:
        return RoundPlan(
            round=number,
            rounds=self.rounds,
            participants=[
                _planned(number, client, place=place) for place, client in enumerate(self.clients())
            ],
            clusters=self._clusters(),
        )

    def _clusters(self) -> list[ClusterPlan]:
        return [
            ClusterPlan(
                cluster=f"c{place}",
                edge=f"edge-{place % 2}",
                clients=self.clients()[place :: self.clusters],
                divergence=0.1 * (place + 1),
                cost_seconds=2.0,
                why="it has the shortest round there",
            )
            for place in range(self.clusters)
        ]


def _ghz(number: int, place: int) -> float:
    return 0.4 + 1.6 * ((number * 3 + place * 5) % 17) / 16


def _mbps(number: int, place: int) -> float:
    return 4 + 3 * math.sin(number / 2 + place)


def _report(number: int, client: str, *, place: int) -> ClientReport:
    ghz, upload = _ghz(number, place), _UPDATE_BYTES * _MBIT / _mbps(number, place)
    compute = 0.8 / ghz
    return ClientReport(
        update=UpdateReport(
            client=client,
            round=number,
            examples=110,
            steps=10,
            train_loss=2.0 / number,
            download_seconds=0.05,
            compute_seconds=compute,
            cpu_seconds=0.4,
            throttled_seconds=compute / 3,
            frequency_ghz=ghz,
            energy_joules=EnergyJoules(model=ghz * ghz, cpu=4 * ghz),
        ),
        arrived_seconds=0.06 + compute + upload,
        upload_seconds=upload,
        bytes=_UPDATE_BYTES,
        asked_steps=10,
    )


def _planned(number: int, client: str, *, place: int) -> ClientPlan:
    ghz, mbps = _ghz(number, place), 0.9 * _mbps(number, place)
    upload_mbit = _UPDATE_BYTES * _MBIT
    return ClientPlan(
        client=client,
        frequency_ghz=ghz,
        cpu_milli=max(1, round(250 * ghz)),
        steps=10,
        applied=place != 1,
        reason="the node has no room" if place == 1 else None,
        basis=PlanBasis(
            mbps=mbps,
            upload_mbit=upload_mbit,
            work_per_step=0.04,
            finish_seconds=0.8 / ghz + upload_mbit / mbps,
        ),
    )


def _cluster_report(one: ClusterPlan) -> ClusterReport:
    return ClusterReport(
        cluster=one.cluster,
        edge=one.edge,
        clients=len(one.clients),
        examples=110 * len(one.clients),
        seconds=1.9,
    )
