"""What bounds the harm that a dishonest client can do to the model, as a job asks for it.

Whoever builds a server or an edge calls it; `learning.clipping`, `kept` and `rollback` do it.
"""

from dataclasses import dataclass, field

from lockstep_api.settings import JobSettings
from lockstep_api.spec import Aggregation
from lockstep_workers.learning.clipping import Reached
from lockstep_workers.learning.kept import KeptUpdates
from lockstep_workers.learning.rollback import Judge
from lockstep_workers.learning.strategy import Strategy
from lockstep_workers.learning.sums import RoundSum

DEFAULT_TRIM = 0.2
DEFAULT_CLIP_NORM = 10.0
"""No update of honest clients reaches it (docs/strategies.md)."""
DEFAULT_ROLLBACK_LOSS = 5.0
"""Nor does the loss of honest rounds reach that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Safeguards:
    """The parameters of all of them."""

    clip_norm: float = 0.0
    """As `strategy.clipNorm`; 0: nothing is clipped."""
    reached: Reached | None = None
    """How far the server came when it trained itself; None: nobody knows."""
    momentum: float = 0.0
    """Of local SGD."""
    aggregation: Aggregation = Aggregation.MEAN
    trim: float = DEFAULT_TRIM
    judge: Judge = field(default_factory=Judge)
    """Of rounds that are taken back."""

    def updates(self, n_values: int, *, strategy: Strategy, exact: bool) -> RoundSum | KeptUpdates:
        """Where a round's updates go."""
        if self.aggregation is Aggregation.MEAN:
            return RoundSum(n_values, vectors=len(strategy.uploads), exact=exact)
        return KeptUpdates(n_values, how=self.aggregation, trim=self.trim)


NO_SAFEGUARDS = Safeguards()


def clip_norm_of(job: JobSettings) -> float:
    """The multiple that a job asks for; 0: nothing is clipped by it."""
    if job.privacy is not None:
        return 0.0
    asked = job.strategy.clip_norm
    return DEFAULT_CLIP_NORM if asked is None else asked


def safeguards_of(job: JobSettings, reached: Reached | None, *, classes: int) -> Safeguards:
    """What a job asks for; empty fields take the defaults. One that hides its clients bounds them
    itself."""
    spec = job.strategy
    most = DEFAULT_ROLLBACK_LOSS if spec.rollback_loss is None else spec.rollback_loss
    judge = Judge(most, classes)
    if job.privacy is not None:
        return Safeguards(judge=judge)
    return Safeguards(
        judge=judge,
        clip_norm=clip_norm_of(job),
        reached=reached,
        momentum=job.training.momentum,
        aggregation=spec.aggregation,
        trim=DEFAULT_TRIM if spec.trim is None else spec.trim,
    )
