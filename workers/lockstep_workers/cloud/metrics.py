"""The cloud pod's Prometheus metrics; docs/metrics.md lists them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lockstep_api.sessions import Refusal
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import RoundPlan, RoundReport
from lockstep_workers.learning.rounds import Progress

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000)


class CloudMetrics:
    """All series of one cloud pod, with the label `job`."""

    def __init__(self, job: str) -> None:
        """Registers the series in a registry of their own."""
        self.registry = CollectorRegistry()
        self._job = job
        self.round = self._gauge("lockstep_round", "Finished rounds")
        self.rounds = self._gauge("lockstep_rounds", "Rounds of the job")
        self.last_seconds = self._gauge("lockstep_last_round_seconds", "Seconds of the last round")
        self.upload_bytes = self._gauge(
            "lockstep_last_round_upload_bytes", "Bytes of the last round's updates"
        )
        self.evaluate_seconds = self._gauge(
            "lockstep_evaluate_seconds", "Seconds of the last evaluation"
        )
        self.accuracy = self._gauge("lockstep_accuracy", "Accuracy on held-out data, 0 to 1")
        self.loss = self._gauge("lockstep_loss", "Loss on held-out data in nats")
        self.connected = self._gauge("lockstep_clients_connected", "Clients with an open session")
        self._edges = self._gauge("lockstep_edges_connected", "Edges with an open session")
        self.clients = self._gauge("lockstep_clients_planned", "Clients of the current round")
        self.planned = self._gauge("lockstep_round_planned", "1: planned, 0: without the planner")
        self.model_bytes = self._gauge("lockstep_model_bytes", "Bytes of a model on the wire")
        self.checkpoint_round = self._gauge(
            "lockstep_checkpoint_round", "Round of the newest checkpoint on the volume"
        )
        self.checkpoint_bytes = self._gauge(
            "lockstep_checkpoint_bytes", "Bytes of the newest checkpoint"
        )
        self.checkpoint_seconds = self._gauge(
            "lockstep_checkpoint_seconds", "Seconds that writing the newest checkpoint took"
        )
        self.resumes = self._gauge("lockstep_resumes", "Times the job went on from a checkpoint")
        self.repeated = self._gauge(
            "lockstep_rounds_repeated", "Finished rounds that were done again after that"
        )
        self.checkpoint_failures = Counter(
            "lockstep_checkpoint_failures", "Checkpoints that could not be written", ["job"],
            registry=self.registry,
        ).labels(job)  # fmt: skip
        self.round_seconds = Histogram(
            "lockstep_round_seconds", "Seconds of a round", ["job"], registry=self.registry,
            buckets=_BUCKETS,
        ).labels(job)  # fmt: skip
        self.accepted = Counter(
            "lockstep_updates_accepted", "Updates added", ["job"], registry=self.registry
        ).labels(job)
        self.lost = Counter(
            "lockstep_clients_lost", "Clients that gave no update to their round", ["job"],
            registry=self.registry,
        ).labels(job)  # fmt: skip
        self._moved = Counter(
            "lockstep_clusters_moved", "Clusters taken from an edge that was lost", ["job"],
            registry=self.registry,
        ).labels(job)  # fmt: skip
        self._failed = Counter(
            "lockstep_client_failures", "Errors of the user's code on clients", ["job"],
            registry=self.registry,
        ).labels(job)  # fmt: skip
        self._refused = Counter(
            "lockstep_updates_refused", "Updates refused", ["job", "reason"],
            registry=self.registry,
        )  # fmt: skip
        self._energy = Gauge(
            "lockstep_job_energy_joules", "Energy of all devices since round 1, in J",
            ["job", "source"], registry=self.registry,
        )  # fmt: skip

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["job"], registry=self.registry).labels(self._job)

    def sessions(self, count: int) -> None:
        """So many sessions are open."""
        self.connected.set(count)

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
        self._refused.labels(self._job, reason.value).inc()

    def client_failed(self) -> None:
        """Counts an error of the user's code on a client."""
        self._failed.inc()

    def began(self, plan: RoundPlan) -> None:
        """A round has begun."""
        self.rounds.set(plan.rounds)
        self.clients.set(len(plan.participants))
        self.planned.set(plan.planned)

    def ended(self, report: RoundReport) -> None:
        """A round has ended."""
        self.round_seconds.observe(report.seconds)
        self.lost.inc(len(report.lost))
        self._show(report)

    def resumed(self, progress: Progress) -> None:
        """The job goes on from a checkpoint."""
        self.resumes.set(progress.resumed)
        self.repeated.set(progress.repeated)
        self.checkpoint_round.set(progress.round)
        if progress.report is not None:
            self._show(progress.report)

    def saved(self, round_number: int, n_bytes: int, *, seconds: float) -> None:
        """A checkpoint was written."""
        self.checkpoint_round.set(round_number)
        self.checkpoint_bytes.set(n_bytes)
        self.checkpoint_seconds.set(seconds)

    def _show(self, report: RoundReport) -> None:
        self.round.set(report.round)
        self.last_seconds.set(report.seconds)
        self.upload_bytes.set(report.upload_bytes())
        if report.accuracy is not None:
            self.accuracy.set(report.accuracy)
            self.loss.set(float("nan") if report.loss is None else report.loss)
        self._show_energy(report.energy_joules)

    def _show_energy(self, energy: EnergyJoules) -> None:
        for source, joules in energy.model_dump(exclude_none=True).items():
            self._energy.labels(self._job, source).set(joules)
