"""What `watch` knows of jobs while it watches: it hears changes, and says what is to be shown.

`commands.watching` feeds it. Invariant: it learns of time by arguments alone; what Prometheus does
not know is learnt from the rounds that were seen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from lockstep_api.status import Phase
from lockstep_cli.cluster import Cluster
from lockstep_cli.devices import devices_of
from lockstep_cli.errors import CliError
from lockstep_cli.facts import Job
from lockstep_cli.follow import Change, Key
from lockstep_cli.measured import Measured, accuracies, measure, whole_time
from lockstep_cli.prometheus import find_prometheus
from lockstep_cli.screen import Seen
from lockstep_cli.shown import Json

_EVERY_S = 2.0
"""Between two questions to Prometheus."""
_MOST_HISTORIES = 20
_MOST_POINTS = 1000


@dataclass(frozen=True, slots=True)
class History:
    """How a job's accuracy went before it was watched."""

    key: Key
    accuracies: list[float]


@dataclass(slots=True)
class Known:
    """A job, and since when."""

    job: Job
    came_s: float
    round_began_s: float | None = None
    accuracies: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Watched:
    """Jobs that are watched."""

    jobs: dict[Key, Known] = field(default_factory=dict)
    gone: list[Job] = field(default_factory=list)
    """That were deleted meanwhile."""
    pods: Mapping[Key, Json] = field(default_factory=dict)
    measured: Measured = field(default_factory=Measured)
    trouble: str = ""
    listed: bool = False

    def hear_jobs(self, change: Change, now_s: float) -> list[Job]:
        """Takes in a change; the jobs whose phase or round is another now."""
        self.trouble = change.trouble
        if change.trouble:
            return []
        self.listed = True
        for key in [key for key in self.jobs if key not in change.objects]:
            self.gone.append(self.jobs.pop(key).job)
        bodies = change.objects.items()
        return [job for key, body in bodies if (job := self._take(key, Job(body), now_s=now_s))]

    def _take(self, key: Key, job: Job, *, now_s: float) -> Job | None:
        known = self.jobs.get(key)
        if known is None:
            self.jobs[key] = known = Known(job, now_s)
            news = True
        else:
            before, known.job = known.job, job
            if before.body is job.body:
                return None
            news = (before.phase, before.round) != (job.phase, job.round)
            known.came_s = now_s
            if job.round > before.round:
                known.round_began_s = now_s
        reached = job.status.get("accuracy")
        if news and reached is not None:
            known.accuracies = [*known.accuracies, float(reached)][-_MOST_POINTS:]
        return job if news else None

    def hear_history(self, history: History) -> None:
        """What was before comes before what was seen."""
        if (known := self.jobs.get(history.key)) is not None:
            seen = known.accuracies
            fresh = seen[1:] if history.accuracies[-1:] == seen[:1] else seen
            known.accuracies = [*history.accuracies, *fresh]

    def seen(self, now_s: float) -> list[Seen]:
        """All jobs as they are to be shown."""
        return [self._seen(known, now_s) for _, known in sorted(self.jobs.items())]

    def _seen(self, known: Known, now_s: float) -> Seen:
        began = known.round_began_s
        return Seen(
            known.job,
            accuracies=known.accuracies,
            since_s=now_s - known.came_s,
            round_s=None if began is None else now_s - began,
            trouble=self.trouble,
        )

    def one(self, now_s: float) -> Seen | None:
        """The one job, with its devices."""
        found = self.seen(now_s)
        if not found:
            return None
        devices = devices_of(found[0].job, self.pods.values(), figures=self.measured.devices)
        return replace(found[0], devices=devices, note=self.measured.note)

    @property
    def ended(self) -> bool:
        """Whether all have ended, or are gone."""
        return self.listed and all(known.job.ended for known in self.jobs.values())

    @property
    def finished(self) -> bool:
        """Whether nobody can make them go on."""
        return self.listed and all(known.job.finished for known in self.jobs.values())

    def failures(self) -> list[str]:
        """Jobs that have not completed, and why."""
        jobs = (known.job for _, known in sorted(self.jobs.items()))
        failed = [job for job in jobs if job.phase != Phase.COMPLETED]
        told = [f"{job.name} {job.phase.lower()}: {job.trouble()}".rstrip(": ") for job in failed]
        return [*told, *(f"{job.name} was deleted" for job in self.gone)]


def figures_as_they_come(
    cluster: Cluster, watched: Watched, *, said: str | None, single: bool
) -> Iterator[History | Measured]:
    """Histories of accuracy once a job is known, then figures of devices, for ever."""
    told: set[Key] = set()
    while True:
        jobs = {key: known.job for key, known in tuple(watched.jobs.items())[:_MOST_HISTORIES]}
        for key in jobs.keys() - told:
            if (history := _history(cluster, key, job=jobs[key], said=said)) is not None:
                told.add(key)
                yield history
        if single:
            for job in jobs.values():
                yield _measured(cluster, job, said=said)
        cluster.pause(_EVERY_S)


def _history(cluster: Cluster, key: Key, *, job: Job, said: str | None) -> History | None:
    span = whole_time(job, datetime.now(UTC))
    if span is None:
        return None
    try:
        prometheus = find_prometheus(cluster, job.namespace, said=said)
        return History(key, accuracies(prometheus, job, span=span))
    except CliError:
        return None


def _measured(cluster: Cluster, job: Job, *, said: str | None) -> Measured:
    return Measured() if job.phase == Phase.SUSPENDED else measure(cluster, job, said=said)
