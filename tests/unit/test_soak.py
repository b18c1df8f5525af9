"""What a soak makes of its figures: which grow, which only began."""

import random

import pytest

from tests.cluster.usage import Usage
from tests.soak import LIMITS, MIB, Look, replaced, slope, told, trends

ROUNDS = 500
CLOUD, PROMETHEUS = "soak-cloud-0", "lockstep-prometheus-abc"


def looks(per_round: float, *, noise: float = 0.0, seed: int = 1) -> list[Look]:
    """Memory that rises so many bytes a round, from 200 MiB on."""
    rng = random.Random(seed)
    return [
        Look(at, Usage(memory_bytes=round(200 * MIB + per_round * at + rng.gauss(0, noise))))
        for at in range(0, ROUNDS + 1, 10)
    ]


@pytest.mark.parametrize("rise", [0.0, 3.0, -0.5])
def test_a_slope_is_that_of_the_line_of_least_squares(rise: float) -> None:
    at = [1.0, 2.0, 5.0, 9.0]
    assert slope(at, [4 + rise * x for x in at]) == pytest.approx(rise)
    assert slope([0, 1, 2], [0, 1, 0]) == 0
    assert slope([3], [7]) == slope([3, 3], [7, 9]) == 0


def grown(pod: str, seen: list[Look]) -> set[str]:
    return {trend.figure for trend in trends(pod, seen, rounds=ROUNDS) if trend.grows}


def test_memory_that_rises_faster_than_it_may_is_found_in_its_noise() -> None:
    limit = LIMITS["memory_bytes"] / 100
    assert grown(CLOUD, looks(1.5 * limit, noise=MIB)) == {"memory_bytes"}
    assert grown(CLOUD, looks(0.5 * limit, noise=MIB)) == set()
    assert grown(PROMETHEUS, looks(1.5 * limit)) == set(), "it keeps two hours of samples"


def test_what_is_taken_in_the_warm_up_is_no_growth() -> None:
    seen = [Look(at, Usage(descriptors=min(at, 100))) for at in range(0, ROUNDS + 1, 10)]
    assert grown(CLOUD, seen) == set()


def test_one_descriptor_in_a_hundred_rounds_is_growth() -> None:
    seen = [Look(at, Usage(descriptors=20 + at // 100)) for at in range(0, ROUNDS + 1, 10)]
    assert grown(CLOUD, seen) == {"descriptors"}


def test_the_table_says_what_grows_and_who_was_started_anew(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert told({CLOUD: looks(0)}, rounds=ROUNDS, anew=[])
    assert capsys.readouterr().out.endswith("soak of 500 rounds: nothing grows\n")
    assert not told({CLOUD: looks(MIB)}, rounds=ROUNDS, anew=[])
    out = capsys.readouterr().out
    assert "+100.000 MiB in 100 rounds: GROWS (at most 1 MiB)" in out
    assert not told({CLOUD: looks(0)}, rounds=ROUNDS, anew=[CLOUD])
    assert f"{CLOUD} was started anew" in capsys.readouterr().out


def test_a_pod_that_another_has_replaced_was_made_anew() -> None:
    def seen(*uids: str) -> list[Look]:
        return [Look(at, Usage(), uid) for at, uid in enumerate(uids)]

    assert replaced({CLOUD: seen("a", "a", "a"), PROMETHEUS: seen("b", "b", "b")}) == []
    assert replaced({CLOUD: seen("a", "c", "c"), PROMETHEUS: seen("b", "b", "b")}) == [CLOUD]
    assert replaced({"old": seen("a", "a"), "new": seen("d"), CLOUD: seen("b", "b", "b")}) == [
        "old", "new",
    ]  # fmt: skip
    assert replaced({}) == []
