"""A client's memory beside a server that goes back: what fits was made in that same past."""

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from lockstep_workers.learning.memory import Memories
from lockstep_workers.learning.strategy import ClientMemory

ROUNDS = st.lists(
    st.tuples(
        st.booleans(),  # the client is in the round
        st.booleans(),  # its update counts
        st.booleans(),  # a checkpoint is written after the round
        st.sampled_from(["", "", "during", "after"]),  # when the server is lost
    ),
    max_size=40,
)


@dataclass(frozen=True)
class Told:
    """A task as a client sees it."""

    round: int
    base_round: int | None
    saved_round: int


@dataclass(frozen=True)
class State:
    """A server's: how far it is, and which memory of the client belongs to its model."""

    round: int = 0
    base_round: int | None = None
    made: float | None = None
    """Tells the training whose update is in the model apart from all others."""


@dataclass
class Play:
    """A server with checkpoints and one client."""

    state: State = field(default_factory=State)
    saved: State = field(default_factory=State)
    memories: Memories = field(default_factory=Memories)
    trainings: float = 0.0

    def train(self) -> float:
        """The client trains; its memory must be the one that the model knows of."""
        task = Told(self.state.round + 1, self.state.base_round, self.saved.round)
        memory = self.memories.fitting(task)
        assert (None if memory is None else memory.numbers["made"]) == self.state.made
        self.trainings += 1
        made = ClientMemory(numbers={"made": self.trainings})
        self.memories = self.memories.after(task, made)
        assert len(self.memories.versions) <= 3
        return self.trainings


@given(ROUNDS)
def test_what_fits_is_what_was_made_in_the_servers_own_past(
    rounds: list[tuple[bool, bool, bool, str]],
) -> None:
    play = Play()
    for is_in, counts, writes, lost in rounds:
        made = play.train() if is_in else None
        if lost == "during":
            play.state = play.saved
            continue
        play.state = replace(play.state, round=play.state.round + 1)
        if made is not None and counts:
            play.state = replace(play.state, base_round=play.state.round, made=made)
        if writes:
            play.saved = play.state
        if lost == "after":
            play.state = play.saved


def test_a_client_that_lost_its_memory_finds_none() -> None:
    assert Memories().fitting(Told(5, base_round=4, saved_round=4)) is None
    kept = Memories({3: ClientMemory(), 4: ClientMemory()})
    assert kept.fitting(Told(5, base_round=2, saved_round=2)) is None
    assert kept.fitting(Told(1, base_round=None, saved_round=0)) is None
