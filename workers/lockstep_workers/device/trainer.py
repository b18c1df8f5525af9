"""The learning part of a device: its examples, its model, the strategy's client side."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lockstep_api.settings import JobSettings
from lockstep_api.wire import Registration, UpdateReport
from lockstep_workers.data import label_histogram, load_dataset
from lockstep_workers.device.connection import Work
from lockstep_workers.device.spending import TrainedRound
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.partition import partition
from lockstep_workers.learning.strategies import (
    MODEL,
    ClientMemory,
    LocalResult,
    build_strategy,
)
from lockstep_workers.learning.training import Pause, Sgd, be_deterministic, train
from lockstep_workers.models import build_model
from lockstep_workers.tensors import decode, encode, split


class Trainer:
    """Trains one client's examples."""

    def __init__(self, job: JobSettings, client: str, datasets: Path) -> None:
        """Loads the data set and keeps the client's part; one thread, as a device has one core."""
        torch.set_num_threads(1)
        if job.training.deterministic:
            be_deterministic()
        self._client = client
        self._index = job.clients().index(client)
        self._seed = job.training.seed
        self._sgd = Sgd(job.training.learning_rate, job.training.momentum, job.training.batch_size)
        dataset = load_dataset(job.data, datasets)
        everything, self._classes = dataset.train, dataset.classes
        parts = partition(
            everything.labels,
            job.data_shares(),
            job.data.partition,
            seed=job.training.seed,
            users=everything.users,
        )
        self._examples = everything.part(parts[self._index])
        self._strategy = build_strategy(job.strategy)
        self._model = flatten(build_model(job.model, seed=job.training.seed))
        self._n_received = self._model.vector.numel() * len(self._strategy.broadcasts)
        self._memory = ClientMemory({})
        self._next_memory = self._memory

    def registration(self, incarnation: str) -> Registration:
        """What the cloud pod is told when the session opens."""
        return Registration(
            client=self._client,
            incarnation=incarnation,
            examples=len(self._examples.labels),
            label_histogram=label_histogram(self._examples, self._classes),
        )

    def train(self, work: Work, pause: Pause | None = None) -> tuple[float, bytearray]:
        """Local training from the received model: (mean loss in nats, the update's body).

        `pause` is called between steps and may hold it up.
        """
        received = self._received(work)
        with torch.no_grad():
            self._model.vector.copy_(received[MODEL])
        loss = train(
            self._model,
            self._examples,
            steps=work.task.steps,
            sgd=self._sgd,
            correction=self._strategy.begin(received, self._memory),
            seed=(self._seed, self._index, work.task.round),
            pause=pause,
        )
        result = LocalResult(self._model.vector, work.task.steps, len(self._examples.labels))
        upload, self._next_memory = self._strategy.finish(received, result, self._memory)
        body = encode([upload[name].numpy() for name in self._strategy.uploads])
        return loss, body

    def _received(self, work: Work) -> Mapping[str, Tensor]:
        flat = decode(work.body, n_values=self._n_received)
        parts = split(flat, self._strategy.broadcasts)
        return {name: torch.from_numpy(vector) for name, vector in parts.items()}

    def accepted(self) -> None:
        """The server has taken the update: what the strategy remembers is now in force."""
        self._memory = self._next_memory

    def report(self, done: TrainedRound) -> UpdateReport:
        """What goes with the update."""
        upload_s, upload_bytes = done.previous_upload or (None, None)
        return UpdateReport(
            client=self._client,
            round=done.work.task.round,
            examples=len(self._examples.labels),
            steps=done.work.task.steps,
            train_loss=done.loss if math.isfinite(done.loss) else None,
            download_seconds=done.work.seconds,
            compute_seconds=done.used.compute_s,
            cpu_seconds=done.used.cpu_s,
            throttled_seconds=done.used.throttled_s,
            quota_cores=done.used.quota_cores,
            frequency_ghz=done.used.frequency_ghz,
            previous_upload_seconds=upload_s,
            previous_upload_bytes=upload_bytes,
            energy_joules=done.energy,
        )
