"""What a device works with once torch is there: its client, its session, its links.

Made by `device.main` after the probes answer, used by `device.loop`.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lockstep_api.settings import JobSettings
from lockstep_workers.data import load_part
from lockstep_workers.device.labels import ToldLabels
from lockstep_workers.device.link import Links, build_links
from lockstep_workers.device.memory import MemoryFile
from lockstep_workers.device.messages import registration
from lockstep_workers.device.metrics import DeviceMetrics
from lockstep_workers.device.session import SessionKeeper
from lockstep_workers.environment import Environment
from lockstep_workers.learning.client import Client, build_client, part_of
from lockstep_workers.learning.training import be_deterministic, flush_denormals
from lockstep_workers.trust import NOBODY, Trust

_UNLIMITED = Links()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one device."""

    job: JobSettings
    client: Client
    session: SessionKeeper
    metrics: DeviceMetrics
    memory: MemoryFile
    links: Links = _UNLIMITED
    trust: Trust = NOBODY
    """Whom it takes for the cloud pod and the edges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a device works: what it has before the user's code is loaded."""

    environment: Environment
    incarnation: str
    """Tells this run of the client from others."""
    metrics: DeviceMetrics
    links: Links


def find_place(
    job: JobSettings, name: str, *, environment: Environment, metrics: DeviceMetrics
) -> Place:
    """The place of a client.

    Raises:
        InvalidJob: a trace of its link is missing or has a bad line.
    """
    links = build_links(job, name, folder=environment.traces)
    metrics.show_links(links)
    incarnation = f"{environment.pod_uid}/{os.getpid()}/{time.time_ns()}"
    return Place(environment=environment, incarnation=incarnation, metrics=metrics, links=links)


def build_parts(job: JobSettings, name: str, *, place: Place) -> Parts:
    """Loads the client's part of the data set; one thread, as a device has one core.

    Raises:
        InvalidJob: the user's code, or what the settings ask of it, failed.
    """
    torch.set_num_threads(1)
    flush_denormals()
    if job.training.deterministic:
        be_deterministic()
    environment, trust = place.environment, place.environment.trust()
    part = load_part(job.data, environment.datasets, choose=part_of(job, name))
    client = build_client(job, name, examples=part.examples)
    labels = ToldLabels(job, client, environment.memory).histogram(part.classes)
    known = registration(client, labels=labels, incarnation=place.incarnation)
    return Parts(
        job=job,
        client=client,
        session=SessionKeeper(job.cloud_url, known, trust=trust, token_file=environment.token_file),
        metrics=place.metrics,
        memory=memory_file(job, client, folder=environment.memory),
        links=place.links,
        trust=trust,
    )


def memory_file(job: JobSettings, client: Client, *, folder: Path) -> MemoryFile:
    """Where a client keeps what its strategy remembers."""
    return MemoryFile(
        folder=folder,
        uid=job.uid,
        client=client.name,
        names=client.strategy.remembers,
        n_values=client.model.vector.numel(),
    )
