"""Rule `planned` of training.localSteps: steps that are chosen together with frequencies; pure.

`steps` calls it. Frequencies are not given away here: the job's policy gives them for these steps,
as for all others (`allocate`), so that it corrects for links that vary. For `static` and `equalize`
these are the frequencies that the steps were chosen with.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lockstep_allocator.fleet import Method
from lockstep_allocator.forecast import expected_upload_s
from lockstep_allocator.observation import Observation
from lockstep_allocator.planned import Wish, plan_steps
from lockstep_allocator.policy import Policy
from lockstep_api.budget import MOST_STEPS
from lockstep_api.spec import AllocationPolicy, FederatedJobSpec, PlannedSteps
from lockstep_operator.core.allocate import NotComputable, groups_by_client
from lockstep_operator.core.insight import Insight, Member, observation_of
from lockstep_operator.core.worth import prior_half_steps


def planned_steps(
    spec: FederatedJobSpec,
    clients: Sequence[str],
    *,
    rule: PlannedSteps,
    insight: Insight,
    policy: Method | None = None,
    fixed: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """The steps of each of `clients`; until work was measured once, the fewest.

    Args:
        spec: of the job.
        clients: who takes part.
        rule: bounds of the steps.
        insight: what is known of them.
        policy: for policy ppo; its forecast of upload times counts.
        fixed: client → the frequency that it has, whatever is asked, in GHz.

    Raises:
        NotComputable: what is known has no answer.
    """
    groups, fixed = groups_by_client(spec), fixed or {}
    members = [Member(client, groups[client], 1, fixed.get(client)) for client in clients]
    try:
        with np.errstate(all="ignore"):
            seen = observation_of(members, insight, energy_weight=spec.allocation.energy_weight)
            if seen is None:
                return dict.fromkeys(clients, rule.min_steps)
            steps = _chosen(
                seen, _wish(spec, clients, rule=rule, insight=insight), spec=spec, policy=policy
            )
    except (ArithmeticError, ValueError, IndexError) as error:
        raise NotComputable(f"no steps fit what is known ({error})") from error
    return {c: min(int(k), MOST_STEPS) for c, k in zip(clients, steps, strict=True)}


def _wish(
    spec: FederatedJobSpec, clients: Sequence[str], *, rule: PlannedSteps, insight: Insight
) -> Wish:
    half = insight.half_steps or prior_half_steps(spec.strategy)
    return Wish(
        share=np.array([float(insight.examples.get(client, 1)) for client in clients]),
        half_steps=half,
        least=rule.min_steps,
        ratio=rule.max_ratio,
    )


def _chosen(
    seen: Observation, wish: Wish, *, spec: FederatedJobSpec, policy: Method | None
) -> NDArray[np.int64]:
    name = spec.allocation.policy
    mbps = seen.mean_mbps if name is AllocationPolicy.STATIC else seen.steady_mbps
    steps = plan_steps(seen.devices, seen.upload_s(mbps), wish=wish).steps
    if name is AllocationPolicy.PPO and isinstance(policy, Policy):
        upload_s = expected_upload_s(policy.forecaster, seen.with_steps(steps))
        steps = plan_steps(seen.devices, upload_s, wish=wish).steps
    return steps
