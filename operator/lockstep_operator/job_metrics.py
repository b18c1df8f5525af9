"""Series of single jobs: clusters, costs, policy and ε of their newest plans and rounds.

Owned by `metrics`; the planner tells, and whoever hears that a job is gone lets them go. Invariant:
of each series a job has what was told last, and nothing once it is forgotten.
"""

import math
from collections.abc import Mapping, Sequence

from lockstep_api import series
from lockstep_api.privacy import PrivacyPlan
from lockstep_api.series import Series
from lockstep_api.tiers import ClusterPlan
from lockstep_operator.core.alternatives import Method
from lockstep_operator.core.model import JobKey
from lockstep_operator.core.policy_source import PolicyProblem, PolicyUse
from lockstep_operator.core.round_cost import RoundCost
from lockstep_serving.exporting import Exports

_GAUGES = (
    series.CLUSTER_DIVERGENCE,
    series.CLUSTER_COST_SECONDS,
    series.PLAN_COST_SECONDS,
    series.ROUND_COST_SECONDS,
    series.POLICY_IN_USE,
    series.PRIVACY_EPSILON,
)
Values = Mapping[str | tuple[str, ...], float | None]
"""Labels beside namespace and job → the sample; None: there is none."""


class JobMetrics:
    """What is told of each job, by its uid."""

    def __init__(self, exports: Exports) -> None:
        """Registers the series."""
        self._gauges = {one: exports.gauges(one) for one in _GAUGES}
        self._fallbacks = exports.counters(series.POLICY_FALLBACKS)
        self._told: dict[str, dict[Series, set[tuple[str, ...]]]] = {}
        self._counted: dict[str, JobKey] = {}

    def clusters(self, uid: str, key: JobKey, *, plan: Sequence[ClusterPlan]) -> None:
        """The clusters of its newest plan."""
        self._show(uid, key, values={
            series.CLUSTER_DIVERGENCE: {one.cluster: one.divergence for one in plan},
            series.CLUSTER_COST_SECONDS: {one.cluster: one.cost_seconds for one in plan},
        })  # fmt: skip

    def plan_costs(self, uid: str, key: JobKey, *, costs: Mapping[Method, float]) -> None:
        """What its newest plan is expected to cost, and what others would."""
        self._show(uid, key, values={series.PLAN_COST_SECONDS: dict(costs.items())})

    def round_cost(self, uid: str, key: JobKey, *, found: RoundCost | None) -> None:
        """What its last finished round cost."""
        costs: Values = {} if found is None else {"spent": found.spent, "optimum": found.optimum}
        self._show(uid, key, values={series.ROUND_COST_SECONDS: costs})

    def privacy(self, uid: str, key: JobKey, *, account: PrivacyPlan | None) -> None:
        """What its clients have come to, where it hides them."""
        found: Values = {} if account is None else {(): account.epsilon}
        self._show(uid, key, values={series.PRIVACY_EPSILON: found})

    def policy(self, uid: str, key: JobKey, *, use: PolicyUse) -> None:
        """What made its newest plan."""
        self._show(uid, key, values={series.POLICY_IN_USE: {(use.policy, use.source): 1.0}})
        if not use.may_fall_back:
            return
        self._counted[uid] = key
        for reason in PolicyProblem:
            counter = self._fallbacks.labels(key.namespace, key.name, reason)
            counter.inc(reason is use.problem)

    def forget(self, uid: str) -> None:
        """A job is gone, or has ended."""
        for of, told in self._told.pop(uid, {}).items():
            for labels in told:
                self._gauges[of].remove(*labels)
        if (key := self._counted.pop(uid, None)) is not None:
            for reason in PolicyProblem:
                self._fallbacks.remove(key.namespace, key.name, reason)

    def _show(self, uid: str, key: JobKey, *, values: Mapping[Series, Values]) -> None:
        told = self._told.setdefault(uid, {})
        for of, samples in values.items():
            now = {
                (key.namespace, key.name, *([labels] if isinstance(labels, str) else labels)): value
                for labels, value in samples.items()
                if value is not None and math.isfinite(value)
            }
            for labels in told.get(of, set()) - now.keys():
                self._gauges[of].remove(*labels)
            for labels, value in now.items():
                self._gauges[of].labels(*labels).set(value)
            told[of] = set(now)
