"""An emulated link paces the frames of split training, both ways, however small they are."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from lockstep_allocator.bandwidth import Trace
from lockstep_workers.device.link import Link, Links
from lockstep_workers.device.split_connection import SplitConnection, _Wire
from lockstep_workers.split_frames import HEAD_BYTES, Kind
from tests.support.splitting import labels_of, shape_of

UP_MBPS, DOWN_MBPS, DELAY_S = 20.0, 40.0, 0.003
SHAPE = shape_of(rows=8, values=780, front_values=12_500)
CUT_BYTES = HEAD_BYTES + 4 * 8 * 780


@dataclass
class Machine:
    """A clock that moves by sleeping, each time for too long, and an edge that has sent frames."""

    late_s: float = 0.0
    now_s: float = 100.0
    coming: bytes = b""
    sent: list[tuple[float, int]] = field(default_factory=list)
    """When how many bytes were sent."""

    def sleep(self, seconds: float) -> None:
        """Too long by `late_s`."""
        self.now_s += seconds + self.late_s

    def send(self, piece: memoryview) -> None:
        """Takes no time of its own."""
        self.sent.append((self.now_s, len(piece)))

    def read_into(self, view: memoryview) -> int:
        """All that is asked for is there."""
        view[:] = self.coming[: len(view)]
        self.coming = self.coming[len(view) :]
        return len(view)

    def link(self, mbps: float) -> Link:
        """One direction."""
        now = lambda: self.now_s  # noqa: E731 - three times the same
        trace = Trace.constant(mbps)
        return Link(trace, delay_s=DELAY_S, clock=now, wall_clock=now, sleep=self.sleep)

    def connection(self) -> SplitConnection:
        """A device's, over both."""
        wire = _Wire(self.send, self.read_into, lambda: None)
        return SplitConnection(wire, SHAPE, links=Links(self.link(UP_MBPS), self.link(DOWN_MBPS)))

    def taken_s(self) -> float:
        """Since the beginning, or since this was asked last."""
        passed_s, self.now_s = self.now_s - 100.0, 100.0
        return passed_s


def law_s(size: int, mbps: float) -> float:
    """What a transfer takes."""
    return DELAY_S + 8e-6 * size / mbps


@pytest.mark.parametrize("late_s", [0.0, 0.0001])
def test_every_frame_takes_its_bytes_over_the_bandwidth_and_the_latency(late_s: float) -> None:
    machine = Machine(late_s)
    device = machine.connection()
    ones = np.ones((SHAPE.rows, SHAPE.values), np.float32)
    front = np.ones(SHAPE.front_values, np.float32)
    device.send_activations(0, ones, labels=labels_of(SHAPE, 0))
    up_bytes = CUT_BYTES + SHAPE.label_bytes
    assert law_s(up_bytes, UP_MBPS) == pytest.approx(0.013, rel=0.01), "a transfer of 10 ms"
    assert machine.taken_s() == pytest.approx(law_s(up_bytes, UP_MBPS), rel=0.01, abs=late_s)
    assert sum(count for _, count in machine.sent) == up_bytes

    machine.coming = SHAPE.head(Kind.GRADIENT, 0) + ones.tobytes()
    gradient = device.receive_gradient(0)
    assert gradient is not None
    assert (gradient == 1).all()
    assert machine.taken_s() == pytest.approx(law_s(CUT_BYTES, DOWN_MBPS), rel=0.01, abs=late_s)

    device.send_front_gradient(0, front)
    front_bytes = HEAD_BYTES + SHAPE.front_bytes
    assert machine.taken_s() == pytest.approx(law_s(front_bytes, UP_MBPS), rel=0.01, abs=late_s)

    machine.coming = SHAPE.head(Kind.FRONT, 1) + front.tobytes()
    assert device.receive_front() is not None
    assert machine.taken_s() == pytest.approx(law_s(front_bytes, DOWN_MBPS), rel=0.01, abs=late_s)


def test_a_hundred_frames_take_a_hundred_times_as_long() -> None:
    machine = Machine()
    device = machine.connection()
    ones = np.ones((SHAPE.rows, SHAPE.values), np.float32)
    for step in range(100):
        device.send_activations(step, ones, labels=labels_of(SHAPE, step))
    one_s = law_s(CUT_BYTES + SHAPE.label_bytes, UP_MBPS)
    assert machine.taken_s() == pytest.approx(100 * one_s, rel=0.01)
    assert machine.sent[-1][1] > 0


def test_no_byte_of_a_frame_is_there_before_the_link_has_carried_it() -> None:
    machine = Machine()
    machine.connection().send_activations(
        0, np.ones((SHAPE.rows, SHAPE.values), np.float32), labels=labels_of(SHAPE, 0)
    )
    gone = 0
    for at_s, count in machine.sent:
        gone += count
        assert at_s - 100.0 >= law_s(gone, UP_MBPS) - 1e-6
