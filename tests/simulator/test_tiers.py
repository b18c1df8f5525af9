"""Simulated jobs with edges that average: the bits of mode federated, and the cloud's round."""

from typing import Any

import pytest

from lockstep_api.spec import FederatedJobSpec
from lockstep_simulator.simulation import simulation
from lockstep_workers.learning.strategy import MODEL
from tests.support.simulating import WORK, group, rounds, setup, spec

EDGES = [{"name": "e", "replicas": 2}]


def tiered(*groups: dict[str, Any], **more: Any) -> FederatedJobSpec:
    """A job of mode hierarchical with two edges."""
    return spec(*groups, **{"mode": "hierarchical", "edges": EDGES} | more)


def model(job: FederatedJobSpec, **more: Any) -> bytes:
    """The values of its final model."""
    with simulation(setup(job, **more)) as played:
        for _ in played.rounds():
            pass
        return played.server.state.vectors[MODEL].tobytes()


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "calibrated"])
def test_edges_change_no_bit_of_a_deterministic_job(name: str) -> None:
    training = {"deterministic": True, "localSteps": {"perDevice": {"min": 2, "max": 9}}}
    strategy: dict[str, Any] = {"name": name}
    plain = spec(group("d", 5), strategy=strategy, training=training)
    with_edges = tiered(group("d", 5), strategy=strategy, training=training)
    assert model(with_edges) == model(plain)


def test_edges_change_a_model_by_no_more_than_rounding_without_that() -> None:
    plain, with_edges = rounds(spec(group("d", 5))), rounds(tiered(group("d", 5)))
    assert [one.loss for one in with_edges] == pytest.approx([one.loss for one in plain])


def test_clusters_are_planned_and_reported_with_their_edges() -> None:
    done = rounds(tiered(group("d", 5)))
    for one in done:
        assert sorted(cluster.edge for cluster in one.report.clusters) == ["e-0", "e-1"]
        assert sorted(cluster.clients for cluster in one.report.clusters) == [2, 3]
        assert {c for cluster in one.plan.clusters for c in cluster.clients} == set(one.clients)
        assert all(cluster.divergence is not None for cluster in one.plan.clusters)
        assert one.report.seconds == pytest.approx(5 * WORK)


def test_a_device_that_fails_is_lost_to_its_cluster_alone() -> None:
    done = rounds(tiered(group("d", 6), training={"rounds": 6}), failures=0.3)
    lost = [one.report.lost for one in done]
    assert any(lost)
    for one in done:
        kept = sum(cluster.clients for cluster in one.report.clusters)
        assert kept == 6 - len(one.report.lost) == len(one.report.clients)


def test_a_quorum_counts_over_all_edges_once_the_deadline_has_passed() -> None:
    """Slow devices need 0.2 s: at 0.15 s the fast ones are in, at whichever edge."""
    parts = {"quorum": 2, "roundDeadlineSeconds": 0.15}
    job = tiered(participation=parts, training={"rounds": 1})
    (done,) = rounds(job)
    assert done.report.lost == ["slow-0", "slow-1"]
    assert done.report.seconds == pytest.approx(0.15)


def test_a_round_waits_past_its_deadline_for_the_quorum_wherever_it_is() -> None:
    parts = {"quorum": 3, "roundDeadlineSeconds": 0.15}
    job = tiered(participation=parts, training={"rounds": 1})
    (done,) = rounds(job)
    assert done.report.seconds == pytest.approx(0.2)
    assert len(done.report.clients) >= 3
