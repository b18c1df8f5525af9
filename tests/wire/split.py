"""A small job in mode split on loopback, whose one edge has a port of its own."""

from pathlib import Path
from typing import Any

from lockstep_api.settings import JobSettings
from tests.support.ports import free_port
from tests.support.split_clusters import SplitEdge, split_settings
from tests.wire.jobs import settings, write_dataset


def a_job(
    folder: Path, *, replicas: int = 3, deterministic: bool = True, **split: Any
) -> JobSettings:
    """The job, and its data set in the folder."""
    write_dataset(folder / "datasets", train=300, test=50)
    job = settings(
        cloud_port=free_port(), planner_port=free_port(), replicas=replicas,
        deterministic=deterministic,
    )  # fmt: skip
    made = split_settings(job, **split)
    return made.model_copy(update={"edge_urls": {"e-0": f"http://127.0.0.1:{free_port()}"}})


def edge_of(job: JobSettings, *, hold_s: float = 2.0) -> SplitEdge:
    """The job's edge, which holds requests for orders to come so long."""
    return SplitEdge(job, int(job.edge_urls["e-0"].rpartition(":")[2]), hold_s)
