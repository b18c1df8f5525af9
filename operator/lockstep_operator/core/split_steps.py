"""What a step of split training costs on a device, on its link and at its edge; pure.

`cuts` compares layers by it, `batches` deals out a step's examples and finds frequencies with it,
`tiers` matches clusters to edges by it: one definition for all. It says seconds at the highest
frequency; what nobody has measured yet comes from the spec and from the constants here, so that a
job that has measured nothing is planned the same way every time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lockstep_allocator.devices import Array
from lockstep_allocator.observation import LEAST_MBPS, recent_mbps
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import DeviceGroup, Edge, FrontUpdate, LinkSpec, Split, WireDtype
from lockstep_api.tiers import CutCandidate
from lockstep_operator.core.insight import ClientInsight, Insight, Way, filled, usual

CORE_FLOPS = 2e10
"""Operations that a core does in a second, before any was measured. Between 5e9 (the first layer of
a small network) and 6e10 (a wide convolution) were seen."""
LINK_MBPS = 1000.0
"""Bandwidth of a link that the spec says nothing of."""
TRACE_MBPS = 20.0
"""Bandwidth of a link that has traces, before it was measured."""
PROCESS_BYTES = 320 << 20
"""Memory of a device without what training needs: Python, torch and the examples."""
_UNLIKE = 10.0
"""Work is that of the median device, times or divided by this at most."""
_LABEL_BYTES = 4
_FLOAT_BYTES = 4
_FRONT_COPIES = 3
"""Of the front half's parameters: themselves, their gradient, their momentum."""
_CUT_COPIES = 2
"""Of the activations at the cut: themselves and their gradient."""
_BYTES = {WireDtype.BFLOAT16: 2, WireDtype.FLOAT32: 4}
_MBIT = 8e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a cut asks of a device, of its link and of its edge."""

    flops: float
    """Operations of the front half, of an example."""
    back_flops: float
    """The same of the back half."""
    up_mbit: float
    """Sent by an example: activations and label."""
    down_mbit: float
    """Received by an example: the gradient at the cut."""
    front_mbit: float
    """The front half's parameters, which travel down, and their gradients up."""
    every_step: bool
    """Whether they do so in every step; else once a round."""

    @property
    def trips(self) -> int:
        """Transfers up in a step; there are as many down."""
        return 2 if self.every_step else 1


def load_of(candidate: CutCandidate, split: Split) -> Load:
    """What a cut asks."""
    values = candidate.cut_values * _BYTES[split.wire_dtype]
    return Load(
        flops=candidate.front_flops,
        back_flops=candidate.back_flops,
        up_mbit=(values + _LABEL_BYTES) * _MBIT,
        down_mbit=values * _MBIT,
        front_mbit=candidate.front_values * _FLOAT_BYTES * _MBIT,
        every_step=split.front_update is FrontUpdate.STEP,
    )


def example_bytes(candidate: CutCandidate) -> float:
    """Memory of a device that each example of a step takes."""
    return candidate.saved_bytes + _CUT_COPIES * _FLOAT_BYTES * candidate.cut_values


def most_examples(candidate: CutCandidate, group: DeviceGroup) -> int:
    """Examples of a step that fit into a device's memory."""
    room = parse_quantity(group.memory) - PROCESS_BYTES
    room -= _FRONT_COPIES * _FLOAT_BYTES * candidate.front_values
    return max(0, int(room // example_bytes(candidate)))


@dataclass(frozen=True, slots=True)
class Placed:
    """A device of a round."""

    client: str
    group: DeviceGroup
    edge: str | None = None
    """The edge that it works with; None: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paces:
    """How fast devices compute and send, each at its maximum: arrays in their order."""

    cores: Array
    """At maxGHz."""
    core_s: Array
    """Core-seconds that the front half of an example takes."""
    up_mbps: Array
    down_mbps: Array
    latency_s: Array
    """Of a transfer up and one down."""


def paces(
    members: Sequence[Placed], insight: Insight, *, core_s: Array, mean: bool = False
) -> Paces:
    """What is known of devices, and where nothing is what the spec says.

    Args:
        members: the devices, each with the edge that it works with.
        insight: what is known of them.
        core_s: core-seconds of each for the front half of an example.
        mean: of links the mean over all that is known, not what they did last.
    """
    known = [(insight.of(one.client), one) for one in members]
    groups = [one.group for one in members]
    up = [up_mbps(seen, one, mean=mean) for seen, one in known]
    down = [down_mbps(seen, one) for seen, one in known]
    return Paces(
        cores=np.array([_cores(group) for group in groups]),
        core_s=core_s,
        up_mbps=np.maximum(np.array(up), LEAST_MBPS),
        down_mbps=np.maximum(np.array(down), LEAST_MBPS),
        latency_s=np.array([_latency_s(group) for group in groups]),
    )


def joined(parts: Sequence[Paces]) -> Paces:
    """Several clusters' devices, one after the other."""
    rows = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Paces.__dataclass_fields__
    }
    return Paces(**rows)


def core_seconds(clients: Sequence[str], insight: Insight, *, load: Load) -> Array:
    """What the front half of an example takes on devices: the same work on all, so that none is far
    from the median."""
    middle = usual(one.work_per_example for one in insight.clients.values())
    if middle is None:
        return np.full(len(clients), load.flops / CORE_FLOPS)
    each = filled([insight.of(client).work_per_example for client in clients], middle)
    return np.clip(each, middle / _UNLIKE, middle * _UNLIKE)


def _cores(group: DeviceGroup) -> float:
    """A device trains in one thread."""
    return min(parse_quantity(group.cpu_at_max), 1.0)


def up_mbps(seen: ClientInsight, member: Placed, *, mean: bool = False) -> float:
    """Bandwidth from a device to its edge."""
    way = _way(seen, member.edge).up_mbps
    if mean and seen.mean_mbps is not None:
        return seen.mean_mbps
    if way is None and seen.slots_mbps is not None:
        return float(recent_mbps(np.array(seen.slots_mbps)))
    return way or seen.last_mbps or _spec_mbps(member.group.uplink)


def down_mbps(seen: ClientInsight, member: Placed) -> float:
    """Bandwidth from an edge to one of its devices."""
    way = _way(seen, member.edge).down_mbps
    return way or seen.down_mbps or _spec_mbps(member.group.downlink)


def _way(seen: ClientInsight, edge: str | None) -> Way:
    return Way() if edge is None else (seen.by_edge or {}).get(edge, Way())


def _spec_mbps(link: LinkSpec | None) -> float:
    if link is None:
        return LINK_MBPS
    return link.mbps or (LINK_MBPS if link.trace is None else TRACE_MBPS)


def _latency_s(group: DeviceGroup) -> float:
    ways = (group.uplink, group.downlink)
    return sum((way.latency_ms or 0.0) for way in ways if way is not None) / 1000


def edge_cores(edge: Edge) -> float:
    """What an edge of a group may use."""
    return parse_quantity(edge.cpu_limit or edge.cpu)


def of_an_example(paced: Paces, load: Load) -> Array:
    """Seconds of a step that grow with each example."""
    return np.asarray(paced.core_s / paced.cores + sent_of_an_example(paced, load))


def sent_of_an_example(paced: Paces, load: Load) -> Array:
    """Those of them that its link takes."""
    return np.asarray(load.up_mbit / paced.up_mbps + load.down_mbit / paced.down_mbps)


def of_a_step(paced: Paces, load: Load) -> Array:
    """Seconds of a step that are there with any number of examples."""
    return np.asarray(load.trips * paced.latency_s + _fronts(paced, load) * load.every_step)


def of_a_round(paced: Paces, load: Load) -> Array:
    """Seconds of a round that are there with any number of steps."""
    return np.asarray(_fronts(paced, load) * (not load.every_step))


def _fronts(paced: Paces, load: Load) -> Array:
    return np.asarray(load.front_mbit / paced.up_mbps + load.front_mbit / paced.down_mbps)
