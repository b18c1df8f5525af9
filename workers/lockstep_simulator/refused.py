"""What a simulation cannot play, in words that say what to change; `simulation` asks first."""

from lockstep_allocator.fleet import Method
from lockstep_api.spec import AllocationPolicy, FederatedJobSpec
from lockstep_operator.core.privacy import too_small_a_budget
from lockstep_workers.errors import InvalidJob


def check(spec: FederatedJobSpec, policy: Method | None) -> None:
    """Whether a job can be simulated, with this policy from a file.

    Raises:
        InvalidJob: it cannot; says what to change.
    """
    if poor := too_small_a_budget(spec):
        raise InvalidJob(poor)
    allocation = spec.allocation
    if allocation.online:
        raise InvalidJob(
            "allocation.online: a policy that goes on learning is not simulated; "
            "use --set allocation.online=false"
        )
    ppo = allocation.policy is AllocationPolicy.PPO
    if ppo and allocation.policy_ref is not None and policy is None:
        raise InvalidJob(
            f"allocation.policyRef {allocation.policy_ref}: what is in the cluster cannot be read "
            "from here; give the policy's file with --policy, or remove policyRef"
        )
