"""The mean of what all clients told last, beside a list of it: whatever is lost, it comes right."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lockstep_workers.learning.latest import BEFORE, CHANGE, MEAN, folded, told, with_mean
from lockstep_workers.learning.memory import Memories
from lockstep_workers.learning.strategy import (
    ClientMemory,
    Contribution,
    LocalPlan,
    ServerState,
    Totals,
    Vector,
)

N = 3
CLIENTS = {"a": 1, "b": 2, "c": 7, "d": 40}
"""Examples of each."""
FATES = st.sampled_from(["out", "counts", "is lost", "forgets", "forgets and is lost"])
ROUNDS = st.lists(
    st.tuples(
        st.fixed_dictionaries(dict.fromkeys(CLIENTS, FATES)),
        st.booleans(),  # a checkpoint is written after the round
        st.sampled_from(["", "", "", "during", "after"]),  # when the server is lost
    ),
    max_size=12,
)


@dataclass(frozen=True)
class Told:
    """A task as a client sees it."""

    round: int
    base_round: int | None
    saved_round: int


@dataclass(frozen=True)
class Server:
    """What a checkpoint holds: the state, who is in it, and what nobody keeps really: all of it."""

    state: ServerState = field(default_factory=lambda: with_mean(np.zeros(N, np.float32)))
    round: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    last: dict[str, Vector] = field(default_factory=dict)
    """The reference: each client's last vector that is in the model."""
    forgot: int = 0
    """The last round with an update of a client that had lost what was in the model."""

    def mean(self) -> Vector:
        """That of all vectors, from the reference."""
        weights = [CLIENTS[client] for client in self.last]
        return np.average(list(self.last.values()), axis=0, weights=weights).astype(np.float32)

    def is_whole(self) -> bool:
        """Whether everybody who is in the model has given an update since."""
        return all(number > self.forgot for number in self.counted.values())


@dataclass
class Play:
    """Clients with memories beside a server that goes back."""

    now: Server = field(default_factory=Server)
    saved: Server = field(default_factory=Server)
    memories: dict[str, Memories] = field(
        default_factory=lambda: dict.fromkeys(CLIENTS, Memories())
    )
    drawn: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def train(self, client: str) -> tuple[Vector, Vector, Contribution]:
        """(its new vector, what it uploads, what that comes from)."""
        number, base = self.now.round + 1, self.now.counted.get(client)
        task = Told(number, base, self.saved.round)
        memory = self.memories[client].fitting(task)
        new = self.drawn.normal(size=N).astype(np.float32)
        old = None if memory is None else memory.vectors["v"]
        plan = LocalPlan(number, 1, 0.1, 0.0, base_round=base, numbers=self.now.state.numbers)
        upload = told(torch.from_numpy(new), old, plan=plan).numpy()
        kept = ClientMemory({"v": torch.from_numpy(new)})
        self.memories[client] = self.memories[client].after(task, kept)
        used = base if memory is not None else None
        return new, upload, Contribution(CLIENTS[client], 1, used, base)

    def close(self, given: dict[str, tuple[Vector, Vector, Contribution]]) -> None:
        """The server's part of a round, and the reference's."""
        number, before = self.now.round + 1, self.now
        sources = [contribution for _, _, contribution in given.values()]
        weights = [one.examples for one in sources]
        uploads = [upload for _, upload, _ in given.values()]
        mean = np.average(uploads, axis=0, weights=weights).astype(np.float32)
        totals = Totals(
            round=number, contributions=sources, clients=4, examples=50,
            weights={CHANGE: float(sum(weights))},
        )  # fmt: skip
        state = folded(before.state, mean, totals=totals, weight=float(sum(weights)))
        lost = any(
            one.memory_round is None and (one.counted_round or 0) > before.forgot for one in sources
        )
        self.now = Server(
            state, number,
            before.counted | dict.fromkeys(given, number),
            before.last | {client: new for client, (new, _, _) in given.items()},
            number if lost else before.forgot,
        )  # fmt: skip

    def ask(self, fates: dict[str, str]) -> dict[str, tuple[Vector, Vector, Contribution]]:
        """What the clients of a round give that suffer these fates."""
        arrived = {}
        for client, fate in fates.items():
            if fate.startswith("forgets"):
                self.memories[client] = Memories()
            trained = None if fate == "out" else self.train(client)
            if trained is not None and not fate.endswith("is lost"):
                arrived[client] = trained
        return arrived

    def check(self) -> None:
        """The mean, wherever it can be known."""
        if self.now.last and self.now.is_whole():
            got = self.now.state.vectors[MEAN]
            np.testing.assert_allclose(got, self.now.mean(), rtol=0, atol=1e-5)


@given(ROUNDS)
def test_the_mean_is_that_of_the_last_vectors_that_count(
    rounds: list[tuple[dict[str, str], bool, str]],
) -> None:
    """Updates and memories are lost, and the server goes back to a checkpoint."""
    play = Play()
    for fates, writes, lost in rounds:
        arrived = play.ask(fates)
        if lost == "during":
            play.now = play.saved
            continue
        if arrived:
            play.close(arrived)
        play.check()
        if writes:
            play.saved = play.now
        if lost == "after":
            play.now = play.saved
    for _ in range(2):  # whoever still does not know what is in the model gives it in the first
        play.close({client: play.train(client) for client in CLIENTS})
    assert play.now.is_whole()
    play.check()


def whole(play: Play, *clients: str) -> None:
    """A round of these."""
    play.close({client: play.train(client) for client in clients or CLIENTS})


def test_a_lost_memory_costs_exactness_until_everybody_was_there_again() -> None:
    play = Play()
    whole(play)
    whole(play)
    play.check()
    play.memories["d"] = Memories()
    whole(play, "a", "d")
    assert not play.now.is_whole()
    got, known = play.now.state.vectors[MEAN], play.now.mean()
    assert np.abs(got - known).max() > 0.05, "nobody can know what d had told"
    whole(play, "b")
    whole(play, "c", "d")
    whole(play, "b")
    assert np.abs(play.now.state.vectors[MEAN] - play.now.mean()).max() > 0.001
    whole(play, "a")
    assert play.now.is_whole()
    play.check()
    whole(play, "c", "a")
    play.check()


@pytest.mark.parametrize("keeps", [True, False])
def test_until_then_the_mean_of_before_stands_in_for_the_others(keeps: bool) -> None:
    """One who has given nothing since the loss loses nothing by losing its memory, too."""
    play = Play()
    whole(play)
    play.memories["a"] = Memories()
    whole(play, "a")
    before = play.now.state.vectors[BEFORE].copy()
    np.testing.assert_array_equal(before, play.now.state.vectors[MEAN])
    assert play.now.state.numbers["gradients_since"] == 2
    if not keeps:
        play.memories["c"] = Memories()
    whole(play, "c")
    assert play.now.state.numbers["gradients_since"] == 2, "no new generation"
    expected = (7 * play.now.last["c"] + 43 * before) / 50
    np.testing.assert_allclose(play.now.state.vectors[MEAN], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("since", "base_round", "value"),
    [(0, 3, 2.0), (2, 3, 2.0), (3, 3, 3.0), (4, 3, 3.0), (0, None, 3.0)],
)
def test_a_client_uploads_a_difference_only_where_the_server_has_the_other_end(
    since: int, base_round: int | None, value: float
) -> None:
    new, old = torch.tensor([3.0]), torch.tensor([1.0])
    plan = LocalPlan(5, 1, 0.1, 0.0, base_round=base_round, numbers={"gradients_since": since})
    assert told(new, old, plan=plan).item() == value
    assert told(new, None, plan=plan).item() == 3.0


Change = Callable[[Contribution], Contribution]


@pytest.mark.parametrize(
    "lies",
    [
        lambda one: replace(one, memory_round=1),
        lambda one: replace(one, memory_round=9),
        lambda one: replace(one, memory_round=None),
    ],
)
def test_a_memory_that_does_not_fit_the_model_is_none(lies: Change) -> None:
    """Whatever round a client names, its update is taken for a whole one unless it fits."""
    play = Play()
    whole(play)
    whole(play)
    new, _, contribution = play.train("a")
    play.close({"a": (new, new, lies(contribution))})
    assert play.now.state.numbers["gradients_since"] == 3
    whole(play)
    np.testing.assert_allclose(play.now.state.vectors[MEAN], play.now.mean(), atol=1e-5)
