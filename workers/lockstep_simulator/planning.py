"""Plans a simulated job's rounds with the product's own planning step, or plays plans again.

`simulation` asks before every round. Limits are in force as soon as they are planned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from lockstep_allocator.fleet import Method
from lockstep_allocator.policy import SHIPPED, read_policy
from lockstep_api.spec import AllocationPolicy, FederatedJobSpec
from lockstep_api.wire import PlanRequest, RoundPlan
from lockstep_operator.core.plan import needs_telemetry, with_applied
from lockstep_operator.core.planning import Basis, draw, hear, know, limits, settle
from lockstep_operator.core.state import JobState
from lockstep_operator.errors import UnfitRequest
from lockstep_simulator.observing import Telemetry
from lockstep_workers.errors import InvalidJob


class Planner(Protocol):
    """Plans rounds."""

    def plan(self, request: PlanRequest, *, now_s: float) -> RoundPlan | None:
        """The plan of the requested round, in force; None: there are no more."""

    def gone(self, number: int) -> Mapping[str, str]:
        """Clients that give nothing to a round, whatever it costs, and why."""


@dataclass(slots=True)
class LivePlanner:
    """Plans as the operator does, with what Prometheus would say."""

    spec: FederatedJobSpec
    telemetry: Telemetry
    policy: Method | None = None
    """For policy ppo; None: the one that comes with Lockstep."""
    _state: JobState = field(default_factory=JobState)

    def __post_init__(self) -> None:
        """Reads the policy that comes with Lockstep, where it is needed."""
        if self.spec.allocation.policy is AllocationPolicy.PPO and self.policy is None:
            self.policy = read_policy(SHIPPED)

    def plan(self, request: PlanRequest, *, now_s: float) -> RoundPlan | None:
        """As `Planner.plan`.

        Raises:
            InvalidJob: the round cannot be planned: on a cluster it would wait for what is missing.
        """
        try:
            return self._planned(request, now_s=now_s)
        except UnfitRequest as error:
            raise InvalidJob(f"round {request.round} is not planned: {error}") from error

    def _planned(self, request: PlanRequest, *, now_s: float) -> RoundPlan:
        spec = self.spec
        heard = hear(self._state, request, spec=spec)
        telemetry = self.telemetry.insight(now_s) if needs_telemetry(spec) else None
        insight = know(heard.state, request, telemetry=telemetry, spec=spec)
        basis = Basis(spec, insight, self.policy)
        drawn = draw(heard.state, request, basis=basis)
        plan = with_applied(drawn.plan, {}, refusals={}) if limits(drawn.plan) else drawn.plan
        now = datetime.fromtimestamp(now_s, tz=UTC)
        self._state = settle(drawn.state, plan, basis=basis, before=None, now=now).state
        return plan

    def gone(self, number: int) -> Mapping[str, str]:
        """Nobody."""
        return {}
