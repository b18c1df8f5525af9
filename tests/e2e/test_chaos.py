"""`make chaos` in small: a few kills, and the model of an undisturbed run, bit for bit."""

import pytest

from tests.chaos import OPERATOR, Kill, chaos, schedule

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
