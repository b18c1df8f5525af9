"""What a job works with; `cloud.main` puts it together, `cloud.job` has it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from lockstep_api.settings import JobSettings
from lockstep_workers.cloud.journal import Journal
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.split_server import SplitServer
from lockstep_workers.data import Examples
from lockstep_workers.learning.privacy import Noise
from lockstep_workers.learning.safeguards import NO_SAFEGUARDS, Safeguards
from lockstep_workers.learning.strategy import Strategy
from lockstep_workers.planner_client import PlannerClient


@dataclass(frozen=True, slots=True)
class Parts:
    """What a job works with."""

    job: JobSettings
    strategy: Strategy
    module: nn.Module
    examples: Mapping[str, int]
    """Training examples of each client of the job."""
    test: Examples
    planner: PlannerClient
    journal: Journal
    metrics: CloudMetrics
    constants: bytes = b""
    """What the devices take over of the model, packed (`learning.constants`)."""
    noise: Noise | None = None
    """What hides the clients of a private job."""
    safeguards: Safeguards = NO_SAFEGUARDS
    """Against dishonest clients."""
    split: SplitServer | None = None
    """In mode split: the server, which is made with the data set."""
    clock: Callable[[], float] = field(default=time.monotonic)
    wall_clock: Callable[[], float] = field(default=time.time)
