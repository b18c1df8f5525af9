"""What this version cannot do, and no rule of the CRD says: a sentence each, for `Accepted`.

`decide` calls it before anything is placed.
"""

from collections.abc import Callable

from lockstep_api.names import Role
from lockstep_api.spec import FederatedJobSpec, PartitionScheme
from lockstep_operator.core.privacy import too_small_a_budget

Check = Callable[[FederatedJobSpec], bool]


def _natural_without_users(spec: FederatedJobSpec) -> bool:
    natural = spec.data.partition.scheme is PartitionScheme.NATURAL
    return natural and spec.data.name is not None


_CHECKS: tuple[tuple[Check, str], ...] = (
    (
        _natural_without_users,
        "data.partition.scheme natural needs users, which {s.data.name} has not: "
        "use iid, dirichlet or shards",
    ),
    (
        lambda s: any(group.name == Role.CLOUD for group in s.devices),
        "devices[].name cloud is the name of the cloud pod's placement: use another name",
    ),
)


def unsupported(spec: FederatedJobSpec) -> list[str]:
    """One sentence for each field that asks for something that is not there."""
    return [text.format(s=spec) for check, text in _CHECKS if check(spec)]


def unplayable(spec: FederatedJobSpec) -> list[str]:
    """The same, and why no round can be played; needs the accountant, where clients are hidden."""
    poor = too_small_a_budget(spec)
    return [*unsupported(spec), *([] if poor is None else [poor])]
