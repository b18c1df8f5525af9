"""A whole job in this process: the pure parts alone, without devices, bodies or files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lockstep_api.settings import JobSettings
from lockstep_workers.data import load_dataset
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.strategy import MODEL, NO_MEMORY, Contribution, Strategy, Vector
from lockstep_workers.models import build_model
from tests.support.clients import client_of
from tests.support.tasks import Task


def play(
    job: JobSettings, datasets: Path, *, strategy: Strategy, rounds: int, steps: int
) -> Vector:
    """The model after rounds of all clients, one after another in the job's order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dataset, names = load_dataset(job.data, datasets), job.clients()
    clients = [replace(client_of(job, n, dataset=dataset), strategy=strategy) for n in names]
    module = build_model(job.model, seed=job.training.seed)
    held = {client.name: len(client.examples) for client in clients}
    server = Server(strategy, module, examples=held, deterministic=True)
    memories = dict.fromkeys(names, NO_MEMORY)
    for number in range(1, rounds + 1):
        server.begin(number, names)
        base = number - 1 or None
        task = Task(number, steps, base, mean_steps=steps, numbers=server.state.numbers)
        for client in clients:
            done = client.train(server.broadcast(), task, memory=memories[client.name])
            update = np.concatenate(list(done.uploads.values()))
            contribution = Contribution(
                len(client.examples), done.steps, memory_round=base, counted_round=base
            )
            server.add(client.name, update, contribution=contribution)
            memories[client.name] = done.memory
        server.aggregate()
    torch.set_num_threads(threads)
    return server.state.vectors[MODEL].copy()
