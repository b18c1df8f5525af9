"""A device that slows itself: CPU time over wall time follows what was asked, whatever happens."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_workers.device.throttle import PERIOD_S, SHORTEST_SLEEP_S, Allowance, Clocks, Throttle

cores = st.floats(min_value=0.05, max_value=1.0)
pieces = st.lists(st.floats(min_value=0.0001, max_value=0.5), min_size=1, max_size=200)
lateness = st.floats(min_value=0.0, max_value=0.02)


@dataclass
class Machine:
    """A machine whose sleeps last too long by `late_s`."""

    late_s: float = 0.0
    wall_s: float = 1000.0
    cpu_s: float = 7.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.wall_s += seconds + self.late_s

    def work(self, seconds: float, *, starved_s: float = 0.0) -> None:
        """Uses the CPU, after others have had it."""
        self.wall_s += seconds + starved_s
        self.cpu_s += seconds

    def throttle(self, cores: float) -> Throttle:
        return Throttle(cores, Clocks(lambda: self.wall_s, lambda: self.cpu_s, self.sleep))


@given(cores, pieces, lateness)
def test_a_round_takes_its_work_over_the_cores_asked(
    asked: float, work: list[float], late_s: float
) -> None:
    """Sleeps that last too long are made up for: only the last one can count."""
    machine = Machine(late_s)
    throttle = machine.throttle(asked)
    for seconds in work:
        machine.work(seconds)
        throttle()
    throttle.settle()
    law_s = sum(work) / asked
    taken_s = machine.wall_s - 1000.0
    assert law_s - SHORTEST_SLEEP_S - 1e-6 <= taken_s <= law_s + late_s + 1e-6


@given(cores, pieces)
def test_no_period_sees_more_than_its_piece_and_what_was_under_way(
    asked: float, work: list[float]
) -> None:
    machine = Machine()
    throttle = machine.throttle(asked)
    for seconds in work:
        machine.work(seconds)
        throttle()
        ahead_s = (machine.cpu_s - 7.0) - asked * (machine.wall_s - 1000.0)
        assert ahead_s <= asked * (PERIOD_S * (1 - asked) + SHORTEST_SLEEP_S) + 1e-6


@given(cores, pieces, st.lists(st.floats(min_value=0, max_value=3), min_size=200, max_size=200))
def test_a_busy_machine_gives_credit_for_one_period_only(
    asked: float, work: list[float], starved: list[float]
) -> None:
    machine = Machine()
    throttle = machine.throttle(asked)
    for seconds, starved_s in zip(work, starved, strict=False):
        before = machine.wall_s, machine.cpu_s
        machine.work(seconds, starved_s=starved_s)
        throttle()
        used_s, passed_s = machine.cpu_s - before[1], machine.wall_s - before[0]
        assert used_s <= asked * (passed_s + 2 * PERIOD_S) + 1e-6


@given(cores, st.floats(min_value=0, max_value=10))
def test_no_drift_in_an_hour_of_small_pieces(asked: float, offset: float) -> None:
    allowance = Allowance(asked, offset, offset)
    wall_s = cpu_s = offset
    for _ in range(5000):
        cpu_s += 0.01
        wall_s += 0.01
        wall_s += allowance.owed_s(wall_s=wall_s, cpu_s=cpu_s)
    assert abs((wall_s - offset) * asked - (cpu_s - offset)) < 1e-6 * cpu_s


def test_pieces_are_long_under_a_small_share() -> None:
    """A tenth of a core: 10 ms of work, then one sleep of 90 ms, as a CPU quota does it."""
    machine = Machine()
    throttle = machine.throttle(0.1)
    for _ in range(40):
        machine.work(0.00101)
        throttle()
    assert [round(seconds, 2) for seconds in machine.slept] == [0.09] * 4


def test_a_long_step_says_that_it_came_late() -> None:
    machine = Machine()
    throttle = machine.throttle(0.5)
    machine.work(0.04)
    assert not throttle()
    machine.work(0.4)
    assert throttle()


@pytest.mark.parametrize("asked", [1.0, 1.5, math.inf])
def test_one_thread_is_never_slowed_by_a_core_or_more(asked: float) -> None:
    machine = Machine()
    throttle = machine.throttle(asked)
    for _ in range(50):
        machine.work(0.3)
        throttle()
    throttle.settle()
    assert machine.slept == []
