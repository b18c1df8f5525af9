"""A device's way through a round of split training, on a virtual clock. Pure.

`splitting` moves it from frame to frame, as `device.split_round` does with a real one: what a frame
takes is asked of the workers' `Link`, what a pass takes follows from its work and the cores that
the device keeps itself to, what the round cost is for its account to say. Invariant: a device does
one thing after another, and what it neither computes nor transfers it waits.
"""

from dataclasses import dataclass, field

from lockstep_api.budget import step_seconds
from lockstep_api.spec import Actuator
from lockstep_api.wire import ClientPlan, Moved, Task, UpdateReport
from lockstep_simulator.emulation import VirtualDevice
from lockstep_workers.device.cgroup import CpuReading
from lockstep_workers.device.messages import SplitDone, split_report
from lockstep_workers.device.spending import Spent, spent
from lockstep_workers.learning.client import Client
from lockstep_workers.split_frames import HEAD_BYTES, Head, Kind, Shape

_PASSES = 2
"""Forward and backward, of equal work: a first layer has no gradient by its inputs to find."""


@dataclass(slots=True)
class SplitTrip:
    """A device in a round; moments are seconds since round 1 began."""

    device: VirtualDevice
    client: Client
    plan: ClientPlan
    task: Task
    shape: Shape
    example_s: float
    """Core-seconds of its front half for an example, both passes."""
    began_s: float
    """When it had its task."""
    now_s: float = field(init=False)
    steps: int = 0
    samples: int = 0
    compute_s: float = 0.0
    cpu_s: float = 0.0
    up_bytes: int = 0
    down_bytes: int = 0
    up_s: float = 0.0
    down_s: float = 0.0
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        """It waits for its edge."""
        self.now_s = self.began_s

    def receive(self, kind: Kind, *, sent_s: float) -> None:
        """A frame of the edge, which it sends at this moment."""
        start_s, size = max(self.now_s, sent_s), self._size(kind)
        end_s = self.device.carried_s(self.device.links.down, size, at_s=start_s)
        self.wait_s += start_s - self.now_s
        self.down_s += end_s - start_s
        self.down_bytes += size
        self.now_s = end_s

    def run_half_step(self) -> None:
        """A pass over the examples of a step, at its pace."""
        work_s = self.example_s * self.shape.rows / _PASSES
        took_s = step_seconds(work_s, cores=self._cores)
        self.cpu_s += work_s
        self.compute_s += took_s
        self.now_s += took_s

    def send(self, kind: Kind) -> float:
        """Sends a frame; when it has arrived."""
        size = self._size(kind)
        end_s = self.device.carried_s(self.device.links.up, size, at_s=self.now_s)
        self.up_s += end_s - self.now_s
        self.up_bytes += size
        self.now_s = end_s
        return end_s

    def send_end(self, report: UpdateReport) -> float:
        """Sends its own front, where it has one, and its report; when they have arrived."""
        size = HEAD_BYTES + self.shape.end_front_bytes + len(report.to_json())
        self.up_bytes += size
        self.now_s = self.device.carried_s(self.device.links.up, size, at_s=self.now_s)
        return self.now_s

    def settle(self) -> UpdateReport:
        """What the round took, for its account; as a device reckons it before its END."""
        used, account = self._used(), self.device.account
        account.uploaded(self.up_s, taken=False)
        account.trained(
            used,
            began_s=self.began_s,
            ended_s=self.now_s,
            download_s=0.0,
            waited_s=self.now_s - self.began_s - used.compute_s,
        )
        done = SplitDone(
            task=self.task,
            steps=self.steps,
            samples=self.samples,
            moved=self._moved(),
            used=used,
            energy=account.untold,
        )
        return split_report(self.client, done)

    @property
    def _cores(self) -> float:
        return self.plan.cpu_milli / 1000

    def _used(self) -> Spent:
        itself = self.plan.actuator is Actuator.COOPERATIVE
        reading = CpuReading(quota_cores=None if itself else self._cores, throttled_s=None)
        return spent(
            self.device.group,
            before=reading,
            after=reading,
            compute_s=self.compute_s,
            cpu_s=self.cpu_s,
            throttle_cores=self._cores,
        )

    def _moved(self) -> Moved:
        return Moved(
            up_bytes=self.up_bytes,
            down_bytes=self.down_bytes,
            up_seconds=self.up_s,
            down_seconds=self.down_s,
            wait_seconds=self.wait_s,
        )

    def _size(self, kind: Kind) -> int:
        return HEAD_BYTES + self.shape.body_bytes(Head(kind, self.shape.round, 0))
