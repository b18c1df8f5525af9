"""Pieces of split training last as their CPU time says, whatever lies between them."""

import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_workers.device.throttle import (
    MOST_OVERSLEPT_S,
    SHORTEST_SLEEP_S,
    Clocks,
    Pacer,
)

cores = st.floats(min_value=0.05, max_value=1.0)
pieces = st.lists(st.floats(min_value=0.001, max_value=0.2), min_size=20, max_size=100)
waits = st.lists(st.floats(min_value=0, max_value=5), min_size=100, max_size=100)


class Machine:
    """A machine whose sleeps last too long by `late_s`."""

    def __init__(self, late_s: float = 0.0) -> None:
        """Idle."""
        self.late_s, self.wall_s, self.cpu_s = late_s, 1000.0, 7.0

    def sleep(self, seconds: float) -> None:
        """Some time passes."""
        self.wall_s += seconds + self.late_s

    def work(self, seconds: float, *, starved_s: float = 0.0) -> None:
        """Uses the CPU, after others have had it."""
        self.wall_s += seconds + starved_s
        self.cpu_s += seconds

    def pacer(self, cores: float) -> Pacer:
        """One that sees this machine."""
        return Pacer(cores, Clocks(lambda: self.wall_s, lambda: self.cpu_s, self.sleep))


@given(cores, pieces, waits, st.floats(min_value=0, max_value=MOST_OVERSLEPT_S / 2))
def test_all_pieces_take_their_cpu_time_over_the_cores_asked(
    asked: float, work: list[float], waited: list[float], late_s: float
) -> None:
    """Sleeps that last too long are made up for, and no waiting counts for anything."""
    machine = Machine(late_s)
    pacer = machine.pacer(asked)
    paced_s = 0.0
    for seconds, wait_s in zip(work, waited, strict=False):
        began_s = machine.wall_s
        with pacer.piece():
            machine.work(seconds)
        paced_s += machine.wall_s - began_s
        machine.wall_s += wait_s
    law_s = sum(work) / asked
    assert -SHORTEST_SLEEP_S - 1e-6 <= paced_s - law_s <= late_s + 1e-6
    assert pacer.compute_s == pytest.approx(paced_s)
    assert pacer.cpu_s == pytest.approx(sum(work))


@given(cores, pieces, waits)
def test_every_piece_takes_its_own_time(
    asked: float, work: list[float], waited: list[float]
) -> None:
    """Within 1 %, however long nothing was done before it."""
    machine = Machine()
    pacer = machine.pacer(asked)
    for seconds, wait_s in zip(work, waited, strict=False):
        machine.wall_s += wait_s
        began_s = machine.wall_s
        with pacer.piece():
            machine.work(seconds)
        error_s = abs(machine.wall_s - began_s - seconds / asked)
        assert error_s <= max(0.01 * seconds / asked, SHORTEST_SLEEP_S)


@given(cores, pieces, waits)
def test_a_busy_machine_gives_no_credit(
    asked: float, work: list[float], starved: list[float]
) -> None:
    machine = Machine()
    pacer = machine.pacer(asked)
    for seconds, starved_s in zip(work, starved, strict=False):
        began_s = machine.wall_s
        with pacer.piece():
            machine.work(seconds, starved_s=starved_s)
        least_s = max(seconds / asked, seconds + starved_s)
        assert machine.wall_s - began_s == pytest.approx(least_s, abs=2 * SHORTEST_SLEEP_S)


def test_a_process_that_was_stopped_is_not_fast_for_long() -> None:
    machine = Machine(late_s=60.0)
    pacer = machine.pacer(0.5)
    with pacer.piece():
        machine.work(0.1)
    machine.late_s = 0.0
    began_s = machine.wall_s
    with pacer.piece():
        machine.work(0.1)
    assert machine.wall_s - began_s == pytest.approx(0.2 - MOST_OVERSLEPT_S)


@pytest.mark.parametrize("asked", [1.0, math.inf])
def test_a_core_or_more_slows_nobody(asked: float) -> None:
    machine = Machine()
    pacer = machine.pacer(asked)
    for _ in range(50):
        with pacer.piece():
            machine.work(0.3)
    assert machine.wall_s == pytest.approx(1015.0)


@pytest.mark.cores
@pytest.mark.parametrize("asked", [0.1, 0.3, 0.7])
def test_short_pieces_are_slowed_for_real(asked: float) -> None:
    """5 ms of work in a wait of 20 ms: a quota would let it run at full speed."""
    pacer, waiting = Pacer(asked), threading.Event()
    began_s, waited_s, law_s = time.monotonic(), 0.0, 0.0
    for _ in range(40):
        with pacer.piece():
            piece_s, until_s = time.monotonic(), time.process_time() + 0.005
            while time.process_time() < until_s:
                pass
            law_s += max(0.005 / asked, time.monotonic() - piece_s)  # others have the core too
        asleep_s = time.monotonic()
        waiting.wait(0.02)
        waited_s += time.monotonic() - asleep_s
    paced_s = time.monotonic() - began_s - waited_s
    assert paced_s == pytest.approx(law_s, rel=0.03)
