"""Which rounds are taken back, whom that is put down to, and that nobody ends a job by it."""

import math

import numpy as np
import pytest

from lockstep_api.mistrust import Mistrusted
from lockstep_api.status import EnergyJoules
from lockstep_workers.errors import JobFailed
from lockstep_workers.learning.bounding import Sketch
from lockstep_workers.learning.rollback import (
    NOT_FINITE,
    Given,
    Judge,
    mistrusted,
    ruling,
    unusual,
)
from lockstep_workers.learning.rounds import Progress, Round, Tries
from tests.support.rounds import a_report, a_round

JUDGE = Judge(5.0, 10)
GUESSING = math.log(10)
N = 100_000


@pytest.mark.parametrize(
    ("loss", "before", "back"),
    [
        (GUESSING * 4.9, None, False),
        (GUESSING * 5.1, None, True),
        (GUESSING * 5.1, 0.1, True),
        (GUESSING * 5.1, GUESSING * 2, False),
        (math.nan, 0.1, True),
        (math.inf, None, True),
    ],
)
def test_a_round_is_taken_back_when_its_loss_jumps(
    loss: float, before: float | None, back: bool
) -> None:
    assert (JUDGE.problem(loss, before) is not None) is back
    assert Judge(0.0, 10).problem(loss, before) is None


def test_a_sketch_tells_the_cosine_of_two_vectors() -> None:
    rng, sketch = np.random.default_rng(1), Sketch(N)
    origin = rng.normal(size=N).astype(np.float32)
    a = rng.normal(size=N)
    for cosine in (1.0, 0.5, 0.0, -0.5, -1.0):
        b = cosine * a + math.sqrt(1 - cosine**2) * rng.normal(size=N)
        first, second = (
            sketch.direction((origin + v).astype(np.float32), origin) for v in (a, 1e-3 * b)
        )
        assert float(first @ second) == pytest.approx(cosine, abs=4 / 16)
    assert not sketch.direction(origin, origin).any()


def given(**distances: float) -> dict[str, Given]:
    return {client: Given(distance=far) for client, far in distances.items()}


def test_who_went_far_stands_out_the_furthest_first() -> None:
    found = unusual(given(a=1.0, b=0.8, c=0.9, d=1.0, e=2.9, f=4.0, g=1e16))
    assert [*found] == ["g", "f"]
    assert found["f"] == "went 4 times as far as the median"


def test_who_went_against_all_others_stands_out() -> None:
    rng, sketch = np.random.default_rng(2), Sketch(N)
    origin, shared = np.zeros(N, np.float32), rng.normal(size=N)
    found = {}
    for client in "abcdefg":
        went = shared + rng.normal(size=N)
        went = -went if client == "c" else went
        direction = sketch.direction(went.astype(np.float32), origin)
        found[client] = Given(distance=1.0, direction=direction)
    assert [*unusual(found)] == ["c"]


def test_never_half_of_a_round_stands_out() -> None:
    assert unusual({}) == {}
    assert unusual(given(a=1.0, b=1e16)) == {}
    assert [*unusual(given(a=0.0, b=0.0, c=1.0))] == ["c"]
    assert [*unusual(given(a=1.0, b=1.0, c=1.0, d=9.0, e=10.0))] == ["e", "d"]


def ruled(tries: Tries, progress: Progress, **suspects: str) -> tuple[bool, dict[str, int]]:
    found = ruling("why", progress, suspects=suspects, clients=10, tries=tries)
    return found.back, dict(found.sit_out)


def test_suspects_sit_out_some_rounds_and_may_return() -> None:
    progress, tries = Progress(round=3), Tries()
    back, out = ruled(tries, progress, a="went far")
    assert (back, out) == (True, {"a": 9})
    after = progress.model_copy(update={"sit_out": out})
    assert after.sitting_out() == {"a"}
    assert after.model_copy(update={"round": 7}).sitting_out() == {"a"}
    assert after.model_copy(update={"round": 8}).sitting_out() == set()


def test_a_round_is_taken_back_twice_and_then_stands() -> None:
    progress, tries = Progress(round=3), Tries()
    backs = []
    for name in "abc":
        back, out = ruled(tries, progress, **{name: "went far"})
        progress = progress.model_copy(update={"sit_out": {**progress.sit_out, **out}})
        backs.append(back)
    assert backs == [True, True, False]
    assert progress.sitting_out() == {"a", "b"}


def test_no_more_than_half_of_the_clients_sit_out() -> None:
    suspects = dict.fromkeys([f"d-{i}" for i in range(7)], "went far")
    found = ruling("why", Progress(), suspects=suspects, clients=10, tries=Tries())
    assert len(found.sit_out) == 5
    full = Progress(sit_out=dict(found.sit_out))
    again = ruling("why", full, suspects={"d-9": "went far"}, clients=10, tries=Tries())
    assert not again.back, "nobody is left to leave out"


def test_without_a_suspect_a_finite_loss_stands_and_another_fails_the_job_in_the_end() -> None:
    assert ruled(Tries(), Progress()) == (False, {})
    tries = Tries()
    for _ in range(2):
        assert ruling(NOT_FINITE, Progress(), suspects={}, clients=3, tries=tries).back
    with pytest.raises(JobFailed, match=r"lower training\.learningRate"):
        ruling(NOT_FINITE, Progress(), suspects={}, clients=3, tries=tries)


def test_a_round_that_was_played_by_all_at_once_says_nothing() -> None:
    done = Round(a_round("a", "b"), began_s=0)
    assert mistrusted(done, Progress(), tries=Tries()) is None
    returned = Progress(sit_out={"c": 1})
    assert mistrusted(done, returned, tries=Tries()) is None


def test_a_round_that_was_taken_back_says_why_and_who_sat_out() -> None:
    progress, tries = Progress(sit_out={"d": 3}), Tries()
    for name in ("a", "b"):
        found = ruling(
            f"why {name}", progress, suspects={name: "went far"}, clients=10, tries=tries
        )
        progress = progress.model_copy(update={"sit_out": dict(found.sit_out)})
    told = mistrusted(Round(a_round("c"), began_s=0), progress, tries=tries)
    assert told is not None
    assert told.taken_back == ["why a", "why b"]
    assert [(one.client, one.returns, one.why) for one in told.sat_out] == [
        ("a", 6, "went far"), ("b", 6, "went far"), ("d", 3, None),
    ]  # fmt: skip
    assert told.stood_out() == {"a": "went far", "b": "went far"}


def test_a_round_whose_loss_is_not_finite_says_so_and_names_nobody() -> None:
    tries = Tries()
    ruling(NOT_FINITE, Progress(), suspects={}, clients=3, tries=tries)
    told = mistrusted(Round(a_round("a"), began_s=0), Progress(), tries=tries)
    assert told == Mistrusted(taken_back=[NOT_FINITE])


def test_who_sits_out_is_in_checkpoints() -> None:
    report = a_report("d-0", energy_joules=EnergyJoules())
    told = Progress(round=1, sit_out={"a": 7}, report=report)
    assert Progress.model_validate_json(told.to_json()).sit_out == {"a": 7}
