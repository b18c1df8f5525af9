"""What a device makes of what it receives, and what it says: bodies, its registration, its reports.

Between `connection`, which knows bytes, and the client, which knows vectors. Pure.
"""

from dataclasses import dataclass

from lockstep_api.sessions import Registration
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import Moved, Task, UpdateReport, told_loss
from lockstep_workers.device.connection import Work
from lockstep_workers.device.spending import Spent
from lockstep_workers.errors import InvalidJob, RefusedUpdate
from lockstep_workers.learning.client import Client, Trained
from lockstep_workers.tensors import Flat, decode, encode, split


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRound:
    """A round's training and what it took: all that a device reports with its update."""

    work: Work
    trained: Trained
    memory_round: int | None
    """The round whose memory it trained with."""
    used: Spent
    energy: EnergyJoules
    """Energy since the last update that was taken, in J by source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitDone:
    """A device's part of a round of split training, and what it took."""

    task: Task
    steps: int
    samples: int
    """Examples that went through the front half."""
    moved: Moved
    used: Spent
    energy: EnergyJoules
    """As of a `TrainedRound`."""


def registration(client: Client, *, labels: list[int], incarnation: str) -> Registration:
    """What the cloud pod is told when the session opens; `labels` as `device.labels` tells them."""
    return Registration(
        client=client.name,
        incarnation=incarnation,
        examples=len(client.examples),
        label_histogram=labels,
    )


def received(client: Client, work: Work) -> dict[str, Flat]:
    """The vectors of a model's body, as views of it.

    Raises:
        InvalidJob: they are of another model.
    """
    try:
        flat = decode(work.body, n_values=client.n_received)
    except RefusedUpdate as error:
        raise InvalidJob(
            f"the model that is built here is not the cloud pod's ({error}): the function must "
            "build the same model in every pod"
        ) from error
    return split(flat, client.strategy.broadcasts)


def update_body(trained: Trained) -> bytearray:
    """The body of an update: a copy of its vectors."""
    return encode(list(trained.uploads.values()))


def report(client: Client, done: TrainedRound) -> UpdateReport:
    """What goes with the update."""
    return UpdateReport(
        client=client.name,
        round=done.work.task.round,
        examples=len(client.examples),
        steps=done.trained.steps,
        memory_round=done.memory_round,
        train_loss=None if client.private else told_loss(done.trained.loss),
        download_seconds=done.work.seconds,
        compute_seconds=done.used.compute_s,
        cpu_seconds=done.used.cpu_s,
        throttled_seconds=done.used.throttled_s,
        quota_cores=done.used.quota_cores,
        frequency_ghz=done.used.frequency_ghz,
        energy_joules=done.energy,
    )


def split_report(client: Client, done: SplitDone) -> UpdateReport:
    """What a device says at the end of its part; the loss is known at the edge."""
    return UpdateReport(
        client=client.name,
        round=done.task.round,
        examples=len(client.examples),
        steps=max(1, done.steps),
        download_seconds=done.moved.down_seconds,
        compute_seconds=done.used.compute_s,
        cpu_seconds=done.used.cpu_s,
        throttled_seconds=done.used.throttled_s,
        quota_cores=done.used.quota_cores,
        frequency_ghz=done.used.frequency_ghz,
        energy_joules=done.energy,
        samples=done.samples,
        moved=done.moved,
    )
