"""What the planner knows of a job from one call to the next; pure data.

`planning` turns one state into the next, `reports` keeps the newest by job, and `decide` reads it
for the job's status. A restarted operator begins with an empty one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from lockstep_api.privacy import LedgerMark
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.tiers import ClusterPlan
from lockstep_api.wire import Notice, Outcome, RoundPlan, RoundReport
from lockstep_operator.core.cuts import Choice
from lockstep_operator.core.insight import ClientInsight, Insight
from lockstep_operator.core.worth import History


@dataclass(frozen=True, slots=True)
class PlannedRound:
    """A round that was planned, and what was known then."""

    spec: FederatedJobSpec
    plan: RoundPlan
    insight: Insight
    at_s: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class FinishedRound:
    """A round that was planned, and how it went."""

    planned: PlannedRound
    report: RoundReport


@dataclass(frozen=True, slots=True)
class JobState:
    """What the job's cloud pod told the planner, and what was planned for it."""

    report: RoundReport | None = None
    plan: RoundPlan | None = None
    outcome: Outcome | None = None
    started_at: datetime | None = None
    """When round 1 was planned."""
    planned_at: datetime | None = None
    """When the newest plan was made."""
    mismatches: Mapping[str, str] = field(default_factory=dict)
    """Client → what its own report says against the plan ("0.40 GHz instead of 1.20 GHz")."""
    checkpoint_problem: str | None = None
    """Why the newest checkpoint is missing on the cloud pod's volume."""
    given_up: str | None = None
    """Which clients the job does without, since the user's code failed on them, and how."""
    telemetry_problem: str | None = None
    """Why the newest plan was made without what Prometheus should say."""
    plan_problem: str | None = None
    """Why the newest round that was asked for could not be planned."""
    policy_problem: str | None = None
    """Why the newest plan was made without the policy that was asked for."""
    measured: Mapping[str, ClientInsight] = field(default_factory=dict)
    """Client → what its reports say of it, the newest that is known."""
    doubts: tuple[str, ...] = ()
    """What the newest report says of devices that cannot be."""
    energy_doubts: tuple[str, ...] = ()
    """What it says of devices' energy that cannot be, and was left out."""
    history: History = ()
    """What the finished rounds of a job say of the worth of steps, where these are planned."""
    notices: tuple[Notice, ...] = ()
    """Those of the last request: a cloud pod repeats them until a request is answered."""
    private_rounds: int | None = None
    """Models that the updates of a client are in, of that of which most are."""
    ledger: LedgerMark | None = None
    """Of what says so, as far as it was ever."""
    edges: tuple[str, ...] = ()
    """The edges that are connected."""
    back_work: Mapping[str, float] = field(default_factory=dict)
    """Edge → core-seconds of the back half of an example, as its newest report says."""
    examples: Mapping[str, int] = field(default_factory=dict)
    """Cluster of the newest plan → training examples that its clients hold."""
    cut: Choice | None = None
    """Where the model is cut, in mode split."""
    told_clusters: tuple[ClusterPlan, ...] = ()
    """The clusters that people were told last."""
    told_clusters_at: datetime | None = None
    """When that was."""
    on: PlannedRound | None = None
    """The newest planned round of a job that learns from its rounds."""
