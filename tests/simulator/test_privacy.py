"""A simulated private job: its noise repeats, its edges clip, its devices tell little."""

from typing import Any

import numpy as np
import pytest

from lockstep_api.spec import FederatedJobSpec
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.simulation import simulation
from lockstep_workers.learning.strategy import MODEL, Vector
from tests.support.simulating import group, setup, spec

PRIVACY = {"clipNorm": 0.05, "noiseMultiplier": 0.5}
EDGES: dict[str, Any] = {
    "mode": "hierarchical",
    "edges": [{"name": "e", "replicas": 2}],
    "clustering": {"method": "random"},
}


def private(**more: Any) -> FederatedJobSpec:
    """A private job of four devices."""
    return spec(group("d", 4), privacy=PRIVACY, **more)


def played(job: FederatedJobSpec, **more: Any) -> tuple[list[SimulatedRound], Vector]:
    """Its rounds, and its model."""
    with simulation(setup(job, **more)) as made:
        done = list(made.rounds())
        return done, made.server.state.vectors[MODEL].copy()


def test_noise_repeats_and_hides_nothing_in_a_simulation() -> None:
    (_, once), (_, again) = played(private()), played(private())
    np.testing.assert_array_equal(once, again)


def test_edges_clip_each_update_and_the_cloud_adds_the_noise_once() -> None:
    _, flat = played(private())
    _, tiered = played(private(**EDGES))
    np.testing.assert_allclose(tiered, flat, atol=1e-6)


def test_without_noise_a_round_moves_the_model_by_at_most_the_norm() -> None:
    quiet = {"clipNorm": 0.05, "noiseMultiplier": 0.01}
    many = {"training": {"rounds": 1}}
    with simulation(setup(spec(group("d", 4), privacy=quiet, **many))) as made:
        before = made.server.state.vectors[MODEL].copy()
        list(made.rounds())
        moved = made.server.state.vectors[MODEL].astype(np.float64) - before
    noise = 0.01 * 0.05 / 4 * np.sqrt(before.size)
    assert 0.02 < np.linalg.norm(moved) < 0.05 + 3 * noise


@pytest.mark.parametrize("tiers", [{}, EDGES], ids=["federated", "hierarchical"])
def test_no_figure_of_a_device_tells_of_its_examples_but_their_number(
    tiers: dict[str, Any],
) -> None:
    with simulation(setup(private(**tiers))) as made:
        done = next(made.rounds())
        told = made.clients.clients
    assert all(one.update.train_loss is None for one in done.report.clients)
    assert [one.labels for one in told] == [[]] * 4
