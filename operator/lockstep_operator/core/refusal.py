"""What is said of a job that fits on no nodes: every scarce resource, and how much of it is free.

`placement` calls it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lockstep_api.names import Tier
from lockstep_operator.core.amount import Amount, total
from lockstep_operator.core.packing import MAX_NODES, LeftOver, Wanted

_MIB = 2.0**20
_SLACK = 1e-9
_CLOUD_ADVICE = "lower cloud.cpu or cloud.memory, or add a larger node"
_CPU = {Tier.EDGE: "cpu", Tier.DEVICE: "cpuAtMax"}
"""The field that says how many cores a pod of a tier's groups is counted with."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """How amounts of a resource are said."""

    of: Callable[[Amount], float]
    unit: str
    digits: int = 0
    unit_of_free: str = ""
    """After the free amount, where only this resource is short."""
    thousands: str = ""
    """What separates them."""

    def text(self, amount: float, digits: int) -> str:
        return f"{amount:{self.thousands}.{digits}f}"


_RESOURCES = (
    _Shown(lambda amount: amount.cpu, "cores", digits=1),
    _Shown(lambda amount: amount.memory / _MIB, "MiB", unit_of_free=" MiB"),
    _Shown(lambda amount: amount.pods, "pods", thousands=","),
    _Shown(lambda amount: amount.storage / _MIB, "MiB of ephemeral storage", unit_of_free=" MiB"),
)


def cloud_refused(need: Amount, free: Sequence[Amount]) -> str:
    """No node of tier cloud has room for the cloud pod."""
    most = Amount()
    for one in free:
        most = most.larger(one)
    where = f"on tier {Tier.CLOUD}"
    if short := _short(need, most, where=where):
        return f"{short}: {_CLOUD_ADVICE}"
    both = f"{need.cpu:.1f} cores and {need.memory / _MIB:.0f} MiB"
    return f"needs {both} {where}, no node has both free: {_CLOUD_ADVICE}"


def group_refused(wanted: Sequence[Wanted], left_over: LeftOver, *, tier: Tier, name: str) -> str:
    """In total when the tier is too small, then of the group's nodes, else by its pods' size."""
    group, free = wanted[left_over.index], left_over.free
    of_tier = [one for one in wanted if one.turn == group.turn]
    room = _free({node for one in of_tier for node in one.eligible}, free)
    needed = total(one.count * one.need for one in of_tier)
    advice = f"lower {tier}s[].{_CPU[tier]}, memory or replicas, or add nodes"
    if short := _short(needed, room, where=f"on tier {tier}"):
        return f"{short}: {advice}"
    own_room = _free(set(group.eligible), free)
    if short := _short(group.count * group.need, own_room, where="on the nodes that it may use"):
        return f"{tier} group {name} {short}: {advice}, or widen nodeSelector"
    return (
        f"{tier} group {name} needs {group.count} × {_size(group.need)} each on tier "
        f"{tier}, which its nodes cannot hold beside the other pods "
        f"({_room(own_room)} free in all, on up to {MAX_NODES} nodes a group): "
        f"lower {_CPU[tier]} or memory, or widen nodeSelector"
    )


def _free(nodes: set[str], free: Mapping[str, Amount]) -> Amount:
    return total(free[node].larger(Amount()) for node in nodes)


def _short(need: Amount, free: Amount, *, where: str) -> str:
    """Of all that is short ("needs 4.0 cores on tier device, 2.6 free"); empty when nothing is."""
    short = [one for one in _RESOURCES if one.of(need) > one.of(free) + _SLACK]
    texts = [(one, *_apart(one, one.of(need), free=one.of(free))) for one in short]
    if len(texts) == 1:
        one, wanted, left = texts[0]
        return f"needs {wanted} {one.unit} {where}, {left}{one.unit_of_free} free"
    needed = " and ".join(f"{wanted} {one.unit}" for one, wanted, _ in texts)
    room = " and ".join(f"{left} {one.unit}" for one, _, left in texts)
    return f"needs {needed} {where}, {room} free" if texts else ""


def _size(need: Amount) -> str:
    """What one pod takes of what sizes differ in: "1.5 cores and 256 MiB"."""
    parts = [f"{need.cpu:g} cores", f"{need.memory / _MIB:.0f} MiB"]
    parts += [f"{need.storage / _MIB:.0f} MiB of ephemeral storage"] if need.storage else []
    return " and ".join(parts)


def _room(free: Amount) -> str:
    parts = [f"{one.text(one.of(free), one.digits)} {one.unit}" for one in _RESOURCES[:3]]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _apart(shown: _Shown, need: float, *, free: float) -> tuple[str, str]:
    """Both numbers with as few digits as tell them apart."""
    for digits in range(shown.digits, 7):
        wanted, left = shown.text(need, digits), shown.text(free, digits)
        if wanted != left:
            break
    return wanted, left
