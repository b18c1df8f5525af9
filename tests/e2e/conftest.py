"""Fixtures of the end-to-end tests, and who of them runs beside whom.

Several processes share one cluster: `tests.run`, which starts them, brings it up. A test run by
hand, in one process, brings it up itself. Each process has one namespace with the chart, installed
once; the jobs that a module leaves there are taken away after it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from lockstep_api.names import JOB_LABEL
from tests.cluster import api
from tests.e2e.alerting import SOON
from tests.e2e.outside import Operator, outside
from tests.e2e.running import NAMESPACE, a_namespace, installed
from tests.e2e.shared import KUBECONFIG_OF_ALL, ready_cluster
from tests.support.patience import TIMEOUT

# What runs one after another. The cores for devices (1.9 of two) allow two jobs of the example at
# once: so there are two lanes with jobs, and one that needs hardly any.
LANES = {
    "test_faults": "jobs-1",
    "test_leader": "jobs-1",
    "test_own": "jobs-2",
    "test_chaos": "jobs-1",
    "test_steps": "jobs-1",
    "test_cli": "jobs-1",
    "test_lifecycle": "jobs-2",
    "test_policies": "jobs-2",
    "test_train": "jobs-2",
    "test_calibrated": "jobs-2",
    "test_docs": "jobs-2",
    "test_edges": "jobs-1",
    "test_split": "jobs-1",
}


class Lanes(LoadScopeScheduling):
    """Gives each lane to one process."""

    def _split_scope(self, nodeid: str) -> str:
        return LANES.get(Path(nodeid.partition("::")[0]).stem, "others")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """Side by side, as `tests.run` asks for it."""
    return Lanes(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The kubeconfig of a cluster that is up and has the images."""
    if KUBECONFIG_OF_ALL in os.environ:
        yield Path(os.environ[KUBECONFIG_OF_ALL])
        return
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.fail("tests that share a cluster are started by `python -m tests.run`")
    with ready_cluster() as kubeconfig:
        yield kubeconfig


@pytest.fixture(scope="session")
def chart(cluster: Path) -> Iterator[str]:
    """The chart with its Prometheus, whose alerts come soon, for the namespace of this process."""
    with installed(NAMESPACE, *SOON):
        yield NAMESPACE


@pytest.fixture(scope="module")
def lockstep(chart: str) -> Iterator[str]:
    """The namespace with the chart; the jobs of this module go with its last test.

    So do their pods, or the next module would find them in its quotas.
    """
    yield chart
    api.kubectl("-n", chart, "delete", "fj", "--all", "--wait")
    api.kubectl("-n", chart, "wait", "--for=delete", "pod", "-l", JOB_LABEL, TIMEOUT)


@pytest.fixture
def namespace(cluster: Path) -> Iterator[str]:
    """A namespace of its own, removed with everything in it."""
    with a_namespace() as name:
        yield name


@pytest.fixture
def operator(cluster: Path, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    """An operator for the namespace, outside the cluster."""
    with outside(cluster, namespace, log=tmp_path / "operator.log") as started:
        yield started
