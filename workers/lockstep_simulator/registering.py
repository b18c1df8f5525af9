"""What virtual devices and edges tell the cloud when they come; `simulation` asks once.

Labels are told as devices do: where clusters are made of them with noise, drawn by the seed; on
pods of a job that is not deterministic it is drawn by chance.
"""

from collections.abc import Mapping

from lockstep_api.sessions import Registration
from lockstep_api.settings import JobSettings, edge_names
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.tiers import EdgeRegistration
from lockstep_api.wire_types import MOST_LABELS
from lockstep_workers.data import label_histogram
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.histograms import drawn_by_seed, noised

_INCARNATION = "simulated"


def registered_clients(
    job: JobSettings, clients: Mapping[str, Client], *, classes: int
) -> list[Registration]:
    """All clients, by name."""
    return [
        Registration(
            client=name,
            incarnation=_INCARNATION,
            examples=len(client.examples),
            label_histogram=_labels(job, client, classes=classes),
        )
        for name, client in sorted(clients.items())
    ]


def registered_edges(spec: FederatedJobSpec) -> list[EdgeRegistration]:
    """All edges, by name; mode federated has none."""
    names = sorted(edge_names(spec))
    return [EdgeRegistration(edge=name, incarnation=_INCARNATION) for name in names]


def _labels(job: JobSettings, client: Client, *, classes: int) -> list[int]:
    if classes > MOST_LABELS or not job.tells_labels():
        return []
    counts = label_histogram(client.examples, classes)
    if job.clustering is None:
        return counts
    draw = drawn_by_seed(job.training.seed, client.name)
    return noised(counts, epsilon=job.clustering.epsilon, draw=draw)
