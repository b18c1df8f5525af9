"""The bench of dishonest clients: a client that lies is taken out, and the page tells it."""

import numpy as np
import pytest

from lockstep_api.spec import FederatedJobSpec
from lockstep_simulator.simulation import simulation
from lockstep_workers.learning.strategy import MODEL
from tests.bench import robust
from tests.support.simulating import DATASET

EQUAL = {"scheme": "iid"}
SHORT = {"rounds": 3, "localSteps": {"fixed": 5}, "learningRate": 0.05}


def job(**strategy: object) -> FederatedJobSpec:
    return robust.spec(EQUAL, strategy, training=SHORT)


def test_a_liar_is_left_out_of_the_round_that_is_taken_back_and_of_the_next_ones() -> None:
    far = robust.setup(
        job(clipNorm=0), DATASET, lie=lambda model, update: -1e4 * (update - model), bad=1
    )
    with simulation(far) as simulated:
        rounds = list(simulated.rounds())
        assert [one.round for one in rounds] == [1, 2, 3]
        assert all("d-0" not in one.clients and len(one.clients) == 9 for one in rounds)
        assert np.isfinite(simulated.server.state.vectors[MODEL]).all()


def test_an_update_that_is_not_finite_costs_its_client_alone() -> None:
    made = robust.setup(job(), DATASET, lie=robust.LIES["NaN"], bad=3)
    with simulation(made) as simulated:
        for done in simulated.rounds():
            assert done.report.lost == ["d-0", "d-1", "d-2"]


def test_the_page_has_a_row_for_each_aggregation_and_what_honest_ones_feel() -> None:
    how = {"partition": EQUAL, "training": SHORT}
    felt = robust.felt("equal", how, dataset=DATASET)
    assert 0 < felt.furthest < 10
    row = robust.Row(
        "equal mixtures", "median", "nothing", 0.5, {lie: [0.25, None] for lie in robust.LIES}
    )
    text = robust.page([row], [felt], minutes=1.0)
    cells = " | ".join(["0.25 / failed"] * len(robust.LIES))
    assert f"| median | nothing | 0.50 | {cells} |" in text
    assert "| equal |" in text


@pytest.mark.parametrize("name", robust.LIES)
def test_a_lie_is_none_of_what_was_found(name: str) -> None:
    model, update = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert not np.array_equal(robust.LIES[name](model, update), update)
