"""The cloud pod's Prometheus metrics; docs/metrics.md lists them."""

from collections.abc import Collection, Iterable
from functools import partial

from prometheus_client import CollectorRegistry

from lockstep_api import series
from lockstep_api.series import Series
from lockstep_api.sessions import Refusal
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import RoundPlan, RoundReport
from lockstep_serving.exporting import Exports, Values
from lockstep_workers.cloud.group_metrics import GroupMetrics
from lockstep_workers.learning.group_rounds import straggler_seconds
from lockstep_workers.learning.rounds import Progress

_WHEN_KNOWN = (
    series.JOB_START_SECONDS,
    series.ROUND_BEGAN_SECONDS,
    series.CHECKPOINT_WRITTEN_SECONDS,
    series.ENERGY_BUDGET_JOULES,
    series.CLOUD_ACCURACY,
    series.CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS,
)
"""Series that are not there while nothing is known."""


class CloudMetrics:
    """All series of one cloud pod, with the label `job`."""

    def __init__(
        self, job: str, *, groups: Iterable[str] = (), told: Collection[Series] = series.ALL
    ) -> None:
        """Registers the series in a registry of their own, but for those that are not `told`.

        `groups` are those of the job's devices.
        """
        self.registry = CollectorRegistry()
        exports = Exports(self.registry, job, told=told)
        self.round = exports.gauge(series.ROUND)
        self.rounds = exports.gauge(series.ROUNDS)
        self.round_seconds = exports.histogram(series.ROUND_SECONDS)
        self.last_seconds = exports.gauge(series.LAST_ROUND_SECONDS)
        self.upload_bytes = exports.gauge(series.LAST_ROUND_UPLOAD_BYTES)
        self.evaluate_seconds = exports.gauge(series.EVALUATE_SECONDS)
        self.accuracy = exports.gauge(series.ACCURACY)
        self.loss = exports.gauge(series.LOSS)
        self.connected = exports.gauge(series.CLIENTS_CONNECTED)
        self.clients = exports.gauge(series.CLIENTS_PLANNED)
        self.planned = exports.gauge(series.ROUND_PLANNED)
        self.model_bytes = exports.gauge(series.MODEL_BYTES)
        self.checkpoint_round = exports.gauge(series.CHECKPOINT_ROUND)
        self.checkpoint_bytes = exports.gauge(series.CHECKPOINT_BYTES)
        self.checkpoint_seconds = exports.gauge(series.CHECKPOINT_SECONDS)
        self.checkpoint_failures = exports.counter(series.CHECKPOINT_FAILURES)
        self.resumes = exports.gauge(series.RESUMES)
        self.repeated = exports.gauge(series.ROUNDS_REPEATED)
        self.accepted = exports.counter(series.UPDATES_ACCEPTED)
        self.rolled_back = exports.counter(series.ROUNDS_ROLLED_BACK)
        self._clipped = exports.counter(series.UPDATES_CLIPPED)
        self.lost = exports.counter(series.CLIENTS_LOST)
        self._edges = exports.gauge(series.EDGES_CONNECTED)
        self._moved = exports.counter(series.CLUSTERS_MOVED)
        self._failed = exports.counter(series.CLIENT_FAILURES)
        self._refused = exports.counters(series.UPDATES_REFUSED)
        self._energy = exports.gauges(series.JOB_ENERGY_JOULES)
        self._straggler = exports.gauge(series.STRAGGLER_SECONDS)
        self._arrived = exports.gauges(series.CLIENT_ARRIVED_SECONDS)
        self._sessions_ended = exports.counter(series.SESSIONS_ENDED)
        self._without_quorum = exports.counter(series.ROUNDS_WITHOUT_QUORUM)
        self._groups = GroupMetrics(exports, groups)
        self._known: dict[Series, float] = {}
        for one in _WHEN_KNOWN:
            exports.computed(one, partial(self._when_known, one))

    def _when_known(self, one: Series) -> Values:
        value = self._known.get(one)
        return {} if value is None else {(): value}

    def _tell(self, one: Series, value: float | None) -> None:
        """The value of a series that is not there while it has none."""
        if value is None:
            self._known.pop(one, None)
        else:
            self._known[one] = value

    def certified(self, until: float) -> None:
        """It serves with a certificate that ends then, in seconds since the epoch."""
        self._tell(series.CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS, until)

    def sessions(self, clients: Collection[str]) -> None:
        """These clients have an open session, as this collection changes."""
        self.connected.set(len(clients))
        self._groups.sessions(clients)

    def session_ended(self) -> None:
        """A session ended before the job did."""
        self._sessions_ended.inc()

    def edges(self, count: int) -> None:
        """So many edges have a session."""
        self._edges.set(count)

    def moved(self) -> None:
        """A cluster was taken from an edge that is lost."""
        self._moved.inc()

    def took(self) -> None:
        """An update was added."""
        self.accepted.inc()

    def refused(self, reason: Refusal) -> None:
        """Counts a refused update."""
        self._refused.labels(reason).inc()

    def client_failed(self) -> None:
        """Counts an error of the user's code on a client."""
        self._failed.inc()

    def began(self, plan: RoundPlan, *, now: float, job_began: float) -> None:
        """A round has begun now, and the job's first one then, in seconds since the epoch."""
        self._tell(series.JOB_START_SECONDS, job_began)
        self._waits(plan, since=now)
        self.clients.set(len(plan.participants))
        self.planned.set(plan.planned)

    def _waits(self, plan: RoundPlan, *, since: float) -> None:
        """For the end of a round, under what a plan says of the job."""
        self._tell(series.ROUND_BEGAN_SECONDS, since)
        self._tell(series.ENERGY_BUDGET_JOULES, plan.energy_budget_joules)
        self.rounds.set(plan.rounds)

    def without_quorum(self) -> None:
        """A round has closed with too few updates."""
        self._without_quorum.inc()

    def ended(self, report: RoundReport, plan: RoundPlan) -> None:
        """A round has ended."""
        self.round_seconds.observe(report.seconds)
        self.lost.inc(len(report.lost))
        self._clipped.inc(sum(bool(one.kept) for one in report.clients))
        self._groups.ended(report, plan)
        self._show(report)

    def resumed(self, progress: Progress, *, written: float, now: float) -> None:
        """The job goes on now, from a checkpoint that was written then, in s since the epoch."""
        self.resumes.set(progress.resumed)
        self.repeated.set(progress.repeated)
        self.checkpoint_round.set(progress.round)
        self._tell(series.CHECKPOINT_WRITTEN_SECONDS, written)
        self._tell(series.JOB_START_SECONDS, progress.began_at or None)
        if progress.report is not None and progress.plan is not None:
            self._groups.show(progress.report, progress.plan)
            self._show(progress.report)
            self._waits(progress.plan, since=now)

    def saved(self, round_number: int, n_bytes: int, *, seconds: float, now: float) -> None:
        """A checkpoint was written, now, in seconds since the epoch."""
        self._tell(series.CHECKPOINT_WRITTEN_SECONDS, now)
        self.checkpoint_round.set(round_number)
        self.checkpoint_bytes.set(n_bytes)
        self.checkpoint_seconds.set(seconds)

    def _show(self, report: RoundReport) -> None:
        self.round.set(report.round)
        self.last_seconds.set(report.seconds)
        self.upload_bytes.set(report.upload_bytes())
        self._straggler.set(straggler_seconds(report))
        self._arrived.become({(one.update.client,): one.arrived_seconds for one in report.clients})
        if (distilled := report.distillation) is not None:
            self._tell(series.CLOUD_ACCURACY, distilled.cloud_accuracy)
        if report.accuracy is not None:
            self.accuracy.set(report.accuracy)
            self.loss.set(float("nan") if report.loss is None else report.loss)
        self._show_energy(report.energy_joules)

    def _show_energy(self, energy: EnergyJoules) -> None:
        for source, joules in energy.model_dump(exclude_none=True).items():
            self._energy.labels(source).set(joules)
