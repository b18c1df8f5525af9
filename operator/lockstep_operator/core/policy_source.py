"""What made a job's newest plan: which allocation policy, where it comes from; pure."""

from dataclasses import dataclass
from enum import StrEnum

from lockstep_api.spec import AllocationPolicy, FederatedJobSpec


class PolicySource(StrEnum):
    """Where a policy comes from."""

    BUILT_IN = "builtin"
    """A method of the allocator, which needs no file."""
    SHIPPED = "shipped"
    """The trained one that comes with Lockstep."""
    REF = "ref"
    """The trained one of `allocation.policyRef`."""
    ONLINE = "online"
    """What the job has learnt."""
    FALLBACK = "fallback"
    """The equaliser, in the place of a trained one that cannot be used."""


class PolicyProblem(StrEnum):
    """Why a trained policy cannot be used."""

    MISSING = "missing"
    """There is no such ConfigMap, file or volume."""
    INVALID = "invalid"
    """It is no policy, or of another version."""
    UNREADABLE = "unreadable"
    """Kubernetes did not give it."""


@dataclass(frozen=True, slots=True)
class PolicyUse:
    """What made a plan."""

    policy: AllocationPolicy
    source: PolicySource
    problem: PolicyProblem | None = None
    """Why it is not what was asked for."""

    @property
    def may_fall_back(self) -> bool:
        """Whether a trained policy was asked for."""
        return self.policy is AllocationPolicy.PPO or self.source is PolicySource.FALLBACK


def policy_use(
    spec: FederatedJobSpec, source: PolicySource, *, problem: PolicyProblem | None = None
) -> PolicyUse:
    """What makes a plan of a job whose trained policy comes from `source`, or has a `problem`."""
    wanted = spec.allocation.policy
    if wanted is not AllocationPolicy.PPO:
        return PolicyUse(wanted, PolicySource.BUILT_IN)
    if problem is not None:
        return PolicyUse(AllocationPolicy.EQUALIZE, PolicySource.FALLBACK, problem)
    return PolicyUse(wanted, source)
