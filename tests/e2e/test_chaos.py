"""`make chaos` in small: a few kills, and the model of an undisturbed run, bit for bit."""

import pytest

from lockstep_api.spec.tiers import Mode
from tests.chaos import OPERATOR, Kill, chaos, job_of, members_of, schedule

pytestmark = pytest.mark.cluster


def test_a_few_kills_change_no_bit(cluster: object) -> None:
    assert chaos(seed=11, kills=4)


def test_a_schedule_follows_from_its_seed_and_spares_nobody() -> None:
    kills = schedule(3, 30, ["a-0", "b-0"])
    assert kills == schedule(3, 30, ["a-0", "b-0"])
    assert kills != schedule(4, 30, ["a-0", "b-0"])
    assert {kill.victim for kill in kills} == {"cloud", OPERATOR, "a-0", "b-0"}
    rounds = [kill.after_round for kill in kills]
    assert rounds == sorted(rounds)
    assert isinstance(kills[0], Kill)


@pytest.mark.parametrize("mode", [Mode.HIERARCHICAL, Mode.SPLIT])
def test_edges_are_killed_too(mode: Mode) -> None:
    members = members_of(job_of("disturbed", mode, training={"deterministic": True}))
    edges = {"edge/near-0", "edge/near-1"}
    assert set(members) == {"fast-0", "medium-0", "slow-0"} | edges
    assert {kill.victim for kill in schedule(3, 30, members)} > edges
