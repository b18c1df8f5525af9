"""Split training as people run it: a job on three tiers, of whose pods some are killed."""

from pathlib import Path

import pytest
import yaml

from lockstep_api import names, series
from tests.e2e.asked import assert_what_edges_tell_is_found
from tests.e2e.running import (
    Json,
    apply,
    eventually,
    in_phase,
    kill,
    kill_edge_at_work,
    past_round,
    patch,
    pods,
    rounds_go_on,
    wait_for_event,
    watch,
)

pytestmark = pytest.mark.cluster

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "split.yaml"
JOB = "halves"
FEWEST_ROUNDS = 4


def job() -> Json:
    """The example with small devices, so that other jobs find room beside it."""
    made: Json = yaml.safe_load(EXAMPLE.read_text())
    made["metadata"]["name"] = JOB
    spec = made["spec"]
    spec["model"]["args"] = {"channels": 4}
    spec["training"] |= {"rounds": 100_000, "batchSize": 16, "localSteps": {"fixed": 25}}
    spec["distillation"] |= {"maxSamples": 400}
    spec["edges"][0] |= {"cpu": "100m", "memory": "640Mi"}
    spec["devices"] = [
        {
            "name": name,
            "replicas": 4,
            "cpuAtMax": cores,
            "uplink": {"mbps": mbps},
            "downlink": {"mbps": mbps},
        }
        for name, cores, mbps in (("fast", "120m", 80), ("slow", "80m", 40))
    ]
    return made


@pytest.fixture(scope="module")
def killed(lockstep: str) -> Json:
    """The job at its end: an edge was killed in the middle of a round, and a device."""
    apply(lockstep, job())
    watch(lockstep, JOB, past_round(1))
    kill(lockstep, names.client_pod(JOB, "slow-0"))
    kill_edge_at_work(lockstep, JOB)
    watch(lockstep, JOB, lambda found: found["status"]["clients"] == "8/8")
    assert_labels(lockstep)
    assert_metrics(lockstep)
    assert_what_edges_tell_is_found(lockstep, JOB)
    watch(lockstep, JOB, past_round(FEWEST_ROUNDS))
    done = rounds_go_on(lockstep, JOB, more=2)["status"]["round"]
    patch(lockstep, JOB, {"training": {"rounds": done}})
    return watch(lockstep, JOB, in_phase("Completed", "Failed"))


def assert_labels(namespace: str) -> None:
    """What `kubectl get pods -L lockstep.dev/cluster,lockstep.dev/edge` shows."""
    devices = pods(namespace, JOB, "device")
    assert len(devices) == 8
    for pod in devices:
        name = pod["metadata"]["name"]
        seen = watch(
            namespace, name, lambda one: names.EDGE_LABEL in one["metadata"]["labels"], kind="pod"
        )
        labels = seen["metadata"]["labels"]
        assert labels[names.EDGE_LABEL] in {"edge-0", "edge-1"}
        assert labels[names.CLUSTER_LABEL].startswith("c")
    edges = {
        pod["metadata"]["labels"].get(names.EDGE_LABEL) for pod in pods(namespace, JOB, "edge")
    }
    assert edges <= {"edge-0", "edge-1", None}  # one that has just come is labelled with its round


def assert_metrics(namespace: str) -> None:
    """Prometheus has what edges, devices and the operator tell of the job."""
    eventually(namespace, f'lockstep_edge_samples_total{{job="{JOB}"}} > 0', series=2)
    eventually(namespace, f'lockstep_samples_total{{job="{JOB}"}} > 0', series=8)
    eventually(namespace, f'lockstep_cluster_divergence{{job="{JOB}"}}', series=2)
    eventually(namespace, f'lockstep_cluster_cost_seconds{{job="{JOB}"}} > 0', series=2)
    eventually(namespace, f'{series.CLOUD_ACCURACY.queried}{{job="{JOB}"}} > 0')
    compute = f'{series.GROUP_SECONDS.queried}{{job="{JOB}",part="compute"}} > 0'
    eventually(namespace, compute, series=2)


def test_the_job_finishes_although_an_edge_and_a_device_were_killed(killed: Json) -> None:
    status = killed["status"]
    assert status["phase"] == "Completed"
    assert status["round"] >= FEWEST_ROUNDS
    assert status["accuracy"] > 0.4
    assert 0 < status["cloudAccuracy"] <= 1


def test_a_lost_edge_is_told_and_its_cluster_went_to_another(lockstep: str, killed: Json) -> None:
    kind, _, message = wait_for_event(lockstep, JOB, "EdgeLost")
    assert kind == "Warning"
    assert "edge-" in message


def test_who_works_with_whom_is_in_the_status(lockstep: str, killed: Json) -> None:
    status = killed["status"]
    clusters = status["clusters"]
    assert len(clusters) == 2
    assert sum(one["clients"] for one in clusters) == 8
    for one in clusters:
        assert one["edge"] in {"edge-0", "edge-1"}
        assert one["divergence"] >= 0
        assert one["costSeconds"] > 0
        assert one["why"]
    assert {one["name"] for one in status["edges"]} == {"edge-0", "edge-1"}
    assert wait_for_event(lockstep, JOB, "ClustersAssigned")[0] == "Normal"


def test_where_the_model_is_cut_is_told_with_what_else_was_looked_at(killed: Json) -> None:
    cut = killed["status"]["cut"]
    assert cut["layer"] == "3"
    assert "shortest" in cut["why"]
    assert {one["layer"] for one in cut["candidates"]} >= {"0", "3", "8"}
    assert all(one["batchSize"] > 0 for one in killed["status"]["lastPlan"]["clients"])
