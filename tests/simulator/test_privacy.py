"""A simulated private job: its noise repeats, its edges clip, its devices tell little."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from lockstep_api.spec import FederatedJobSpec, Privacy
from lockstep_operator.core.privacy import spent
from lockstep_simulator.progress import table
from lockstep_simulator.running import run
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.simulation import simulation
from lockstep_simulator.summing_up import round_json, summary_json, summed_up
from lockstep_workers.errors import InvalidJob
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


def epsilon(rounds: int, clients: int = 4) -> float:
    """What the accountant says."""
    return spent(Privacy.model_validate(PRIVACY), clients=clients, rounds=rounds)


def test_the_summary_has_the_accountants_figure() -> None:
    ended = run(setup(private()), show=lambda _: None)
    summary = summed_up(ended.rounds, result="x", message="y", work_per_step=1.0)
    assert (summary.epsilon, summary.delta) == (epsilon(3), 0.1)
    assert [round_json(one)["epsilon"] for one in ended.rounds] == [epsilon(k) for k in (1, 2, 3)]
    assert summary_json(summary)["summary"]["epsilon"] == epsilon(3)
    assert f"ε {epsilon(3):.4g}, δ 0.1" in table(summary, real_s=1.0)


def test_of_a_client_that_is_not_in_every_round_less_is_known() -> None:
    half = private(participation={"fraction": 0.5}, training={"rounds": 4})
    done, _ = played(half)
    took_part = Counter(client for one in done for client in one.clients)
    told = done[-1].report.privacy
    assert told is not None
    assert told.rounds == max(took_part.values()) < 4
    assert told.epsilon == epsilon(told.rounds)


def test_of_a_client_that_is_lost_less_is_known() -> None:
    done, _ = played(private(participation={"quorum": 1, "roundDeadlineSeconds": 60}), failures=0.5)
    counted = Counter(update.update.client for one in done for update in one.report.clients)
    told = done[-1].report.privacy
    assert told is not None
    assert told.rounds == max(counted.values())


def test_the_budget_ends_the_job_before_it_is_exceeded() -> None:
    budget = {**PRIVACY, "epsilonBudget": 0.5 * (epsilon(2) + epsilon(3))}
    ended = run(setup(spec(group("d", 4), privacy=budget)), show=lambda _: None)
    assert (ended.result, len(ended.rounds)) == ("PrivacyBudgetSpent", 2)
    assert ended.message.startswith("privacy.epsilonBudget is spent: accuracy")


def test_a_budget_that_no_round_fits_is_refused() -> None:
    with pytest.raises(InvalidJob, match=r"privacy\.epsilonBudget 0\.01 is less than one round"):
        played(spec(group("d", 4), privacy={**PRIVACY, "epsilonBudget": 0.01}))


def test_a_job_that_hides_nobody_tells_no_epsilon() -> None:
    ended = run(setup(spec()), show=lambda _: None)
    summary = summed_up(ended.rounds, result="x", message="y", work_per_step=1.0)
    assert "epsilon" not in summary_json(summary)["summary"]
    assert "privacy" not in table(summary, real_s=1.0)
