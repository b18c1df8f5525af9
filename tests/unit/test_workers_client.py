"""A client and a server in one process: what is kept, what is counted, what counts."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from lockstep_workers.learning.bounding import distance
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import (
    MODEL,
    NO_MEMORY,
    ClientMemory,
    Contribution,
    LocalPart,
    LocalPlan,
    LocalResult,
    Probe,
    ServerState,
    Strategy,
    Totals,
    Vector,
    by_examples,
    uniformly,
)
from lockstep_workers.learning.training import Sgd
from lockstep_workers.models import mlp
from tests.support.clients import examples, small_model
from tests.support.strategies import scaffold
from tests.support.tasks import Task


def keeping() -> Strategy:
    """Keeps, without a copy, whatever it is handed and whatever it returns."""

    def start(model: Vector) -> ServerState:
        return ServerState({MODEL: model, "first": model, "last": model, "before": model})

    def begin(
        received: Mapping[str, Tensor], /, *, plan: LocalPlan, memory: ClientMemory, probe: Probe
    ) -> LocalPart:
        def finish(result: LocalResult) -> tuple[Mapping[str, Tensor], ClientMemory]:
            moved = result.weights - received[MODEL]
            remembered = {
                "received": received[MODEL],
                "ended": result.weights,
                "part": result.weights[1:],
                "moved": moved,
            }
            return {MODEL: result.weights, "moved": moved}, ClientMemory(remembered)

        return LocalPart(None, finish)

    def aggregate(
        state: ServerState, mean: Mapping[str, Vector], /, *, totals: Totals
    ) -> ServerState:
        vectors = {MODEL: mean[MODEL], "first": state.vectors["first"]}
        return ServerState({**vectors, "last": mean["moved"], "before": state.vectors[MODEL]})

    return Strategy(
        broadcasts=(MODEL,), uploads={MODEL: by_examples, "moved": uniformly},
        remembers=("received", "ended", "part", "moved"),
        start=start, begin=begin, aggregate=aggregate,
    )  # fmt: skip


def client(strategy: Strategy, index: int = 0) -> Client:
    """A client with examples of its own."""
    return Client(
        name=f"d-{index}", index=index, examples=examples(20), model=small_model(),
        strategy=strategy, sgd=Sgd(0.05, 0.9, 8), seed=1,
    )  # fmt: skip


def test_what_a_strategy_remembers_is_not_changed_by_later_rounds() -> None:
    """The buffer of the received model is used again, and so is the client's live model."""
    one, buffer = client(keeping()), np.zeros(101_770, np.float32)
    buffer[:] = 0.01
    first = one.train({MODEL: buffer}, Task(1))
    kept = {name: vector.clone() for name, vector in first.memory.vectors.items()}
    assert torch.equal(kept["received"], torch.full((101_770,), 0.01))
    assert not torch.equal(kept["ended"], kept["received"])
    buffer[:] = -0.02
    second = one.train({MODEL: buffer}, Task(2), memory=first.memory)
    for name, vector in kept.items():
        assert torch.equal(first.memory.vectors[name], vector), name
        assert not torch.equal(second.memory.vectors[name], vector), name
    moved = kept["ended"] - kept["received"]
    assert torch.equal(kept["moved"], moved)


def test_a_training_leaves_what_it_received_as_it_was() -> None:
    given = {MODEL: np.full(101_770, 0.01, np.float32), "c": np.full(101_770, 0.5, np.float32)}
    client(scaffold()).train(given, Task(1))
    assert (given[MODEL] == np.float32(0.01)).all()
    assert (given["c"] == np.float32(0.5)).all()


def test_what_a_server_keeps_is_not_changed_by_later_rounds() -> None:
    strategy = keeping()
    server = Server(strategy, mlp(), examples={"d-0": 10, "d-1": 10})
    n = server.n_values // 2
    initial = server.state.vectors[MODEL].copy()
    for number in (1, 2, 3):
        server.begin(number, ["d-0"])
        before = server.state.vectors[MODEL].copy()
        update = np.full(2 * n, float(number), np.float32)
        server.add("d-0", update, contribution=Contribution(10, 3))
        update.fill(np.nan)  # the buffer is read into again
        server.aggregate()
        assert (server.broadcast()[MODEL] == number).all()
        server.begin(number + 1, ["d-0"])
        assert (server.state.vectors["first"] == initial).all()
        assert (server.state.vectors["before"] == before).all()
        assert (server.state.vectors["last"] == number).all()
        assert (server.model.vector == number).all()


def test_steps_are_counted_by_the_training() -> None:
    trained = client(fedavg()).train({MODEL: small_model().vector.numpy()}, Task(1, steps=7))
    assert trained.steps == 7
    assert trained.memory == NO_MEMORY
    assert np.isfinite(trained.loss)


def test_clients_that_share_a_model_train_as_with_one_each() -> None:
    start = small_model().vector.numpy().copy()
    alone = [client(fedavg(), i).train({MODEL: start}, Task(1)).uploads[MODEL] for i in range(3)]
    first = client(fedavg())
    for index, expected in enumerate(alone):
        other = client(fedavg(), index)
        shared = Client(
            name=other.name, index=index, examples=other.examples, model=first.model,
            strategy=other.strategy, sgd=other.sgd, seed=other.seed,
        )  # fmt: skip
        got = shared.train({MODEL: start}, Task(1)).uploads[MODEL]
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("deterministic", [False, True])
def test_figures_of_a_round_come_with_its_sums(deterministic: bool) -> None:
    """Sum of weights by vector, and what each update comes from: all that an edge reports."""
    held = {f"d-{i}": 10 * (i + 1) for i in range(5)}
    server = Server(scaffold(), mlp(), examples=held, deterministic=deterministic)
    server.begin(7, ["d-0", "d-1", "d-2"])
    update = np.zeros(server.n_values, np.float32)
    from_model = (distance(server.state.vectors[MODEL]), 0.0)
    last = Contribution(30, 8, memory_round=4, counted_round=4, distances=from_model)
    first = Contribution(10, 4, distances=from_model)
    for name, contribution in (("d-2", last), ("d-0", first)):
        server.add(name, update, contribution=contribution)
    totals = server.totals()
    assert totals == Totals(
        round=7,
        contributions=(first, last),
        clients=5,
        examples=150,
        weights={MODEL: 40.0, "delta": 2.0},
    )
    server.begin(8, ["d-0"])
    server.add("d-0", update, contribution=first)
    assert (server.totals().round, server.totals().contributions) == (8, (first,))
    assert server.weight == 10
