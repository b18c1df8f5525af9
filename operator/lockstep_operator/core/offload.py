"""What a cluster's part of a round takes on an edge, in either mode with edges; pure.

`tiers` asks it for every cluster and edge, and matches them by what it says. Split training is
costed by `split_steps`; in mode hierarchical devices train as in mode federated, and the edge
passes models and updates on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import DeviceGroup, Edge, FederatedJobSpec, Split
from lockstep_api.tiers import CutCandidate
from lockstep_operator.core.batches import (
    Numbers,
    bounds_of,
    equal_batches,
    proportional_batches,
)
from lockstep_operator.core.insight import Insight, usual, work_per_step
from lockstep_operator.core.split_steps import (
    CORE_FLOPS,
    LINK_MBPS,
    PROCESS_BYTES,
    Load,
    Paces,
    Placed,
    core_seconds,
    down_mbps,
    edge_cores,
    load_of,
    most_examples,
    of_a_round,
    of_a_step,
    of_an_example,
    paces,
    up_mbps,
)

_NOTHING = Insight()
_FLOAT_BYTES = 4
_UNKNOWN_MBIT = 1.0
"""Of an update, before there was one: clusters are spread evenly then."""
_UNLIKE = 10.0
"""An edge's work is that of the median edge, times or divided by this at most."""


@dataclass(frozen=True, slots=True)
class Site:
    """An edge that is connected."""

    name: str
    group: Edge


class Offload(Protocol):
    """What clusters ask of edges."""

    @property
    def known(self) -> bool:
        """Whether its seconds are such, and not only good for comparing."""

    def member_seconds(self, clients: Sequence[str], site: Site) -> float:
        """Seconds of a round for the slowest of a cluster's devices, without the edge's work; the
        same at all edges at which none of them was (`Insight.met`)."""

    def edge_seconds(self, clients: Sequence[str], site: Site) -> float:
        """Seconds of a round that the edge works for a cluster which has it to itself."""

    def room(self, site: Site, clusters: Sequence[Sequence[str]]) -> int:
        """How many such clusters fit into an edge's memory."""


@dataclass(frozen=True, slots=True)
class Averaging:
    """Mode hierarchical: a model down, local training, an update up."""

    groups: Mapping[str, DeviceGroup]
    insight: Insight
    usual_mbit: float | None
    """Of an update: it has as many values as the model. None: there was none yet."""
    work_s: Mapping[str, float]
    """Client → seconds of its steps."""

    @property
    def known(self) -> bool:
        return self.usual_mbit is not None

    def member_seconds(self, clients: Sequence[str], site: Site) -> float:
        return max(self._sent_s(client, site) + self.work_s[client] for client in clients)

    def _sent_s(self, client: str, site: Site) -> float:
        member, seen = Placed(client, self.groups[client], site.name), self.insight.of(client)
        mbit = seen.upload_mbit or self.usual_mbit or _UNKNOWN_MBIT
        return mbit / up_mbps(seen, member) + mbit / down_mbps(seen, member)

    def edge_seconds(self, clients: Sequence[str], site: Site) -> float:
        """Models and updates pass the edge's own link, which all of its clusters share."""
        return 2 * len(clients) * (self.usual_mbit or _UNKNOWN_MBIT) / LINK_MBPS

    def room(self, site: Site, clusters: Sequence[Sequence[str]]) -> int:
        return len(clusters)


def averaging_of(
    groups: Mapping[str, DeviceGroup], steps: Mapping[str, int], *, insight: Insight
) -> Averaging:
    """What a round of mode hierarchical asks, of so many steps by client."""
    work = work_per_step([*steps], insight)
    return Averaging(
        groups=groups,
        insight=insight,
        usual_mbit=usual(one.upload_mbit for one in insight.clients.values()),
        work_s={
            client: count * (0.0 if work is None else float(work[place])) / _cores(groups[client])
            for place, (client, count) in enumerate(steps.items())
        },
    )


def _cores(group: DeviceGroup) -> float:
    return parse_quantity(group.cpu_at_max)


@dataclass(frozen=True, slots=True)
class Splitting:
    """Mode split: the same steps on all devices of a cluster, the back half on the edge."""

    spec: FederatedJobSpec
    groups: Mapping[str, DeviceGroup]
    steps: int
    insight: Insight
    candidate: CutCandidate
    """Where the model is cut."""
    load: Load
    """What that asks."""
    core_s: Mapping[str, float]
    """Client → core-seconds of the front half of an example."""
    most: Mapping[str, int]
    """Client → examples of a step that fit into its memory."""
    usual_back: float | None
    """Core-seconds of the back half of an example on the median edge; None: not measured yet."""

    @property
    def known(self) -> bool:
        return True

    @property
    def _is_equal(self) -> bool:
        return (self.spec.split or Split()).batches == "equal"

    def paces(self, clients: Sequence[str], site: Site, *, mean: bool = False) -> Paces:
        """How fast a cluster's devices are with an edge."""
        core_s = np.array([self.core_s[client] for client in clients])
        return paces(self._placed(clients, site), self.insight, core_s=core_s, mean=mean)

    def _placed(self, clients: Sequence[str], site: Site) -> list[Placed]:
        return [Placed(client, self.groups[client], site.name) for client in clients]

    def batches(self, clients: Sequence[str], site: Site) -> Numbers:
        """The examples of a step that each of a cluster's devices takes."""
        return self._batches(clients, site, paced=self.paces(clients, site))

    def _batches(self, clients: Sequence[str], site: Site, *, paced: Paces) -> Numbers:
        """Weights depend on them: in a deterministic job they follow from the spec alone."""
        size = self.spec.training.batch_size
        if self._is_equal:
            return equal_batches(len(clients), size)
        if self.spec.training.deterministic:
            core_s = core_seconds(clients, _NOTHING, load=self.load)
            paced = paces(self._placed(clients, site), _NOTHING, core_s=core_s)
        bounds = bounds_of(size, [self.most[client] for client in clients])
        return proportional_batches(paced, self.load, batch_size=size, bounds=bounds)

    def member_seconds(self, clients: Sequence[str], site: Site) -> float:
        paced = self.paces(clients, site)
        batches = self._batches(clients, site, paced=paced)
        step_s = of_a_step(paced, self.load) + batches * of_an_example(paced, self.load)
        return float((self.steps * step_s + of_a_round(paced, self.load)).max())

    def edge_seconds(self, clients: Sequence[str], site: Site) -> float:
        examples = self.spec.training.batch_size * len(clients) * self.steps
        return examples * self._back_work(site) / edge_cores(site.group)

    def _back_work(self, site: Site) -> float:
        """Core-seconds of the back half of an example: the same work on all edges."""
        middle = self.usual_back
        if middle is None:
            return self.load.back_flops / CORE_FLOPS
        seen = self.insight.back_work.get(site.name, middle)
        return min(max(seen, middle / _UNLIKE), middle * _UNLIKE)

    def room(self, site: Site, clusters: Sequence[Sequence[str]]) -> int:
        """By the largest of them: what the back half keeps, and its share of what goes on to the
        cloud."""
        cut, most = self.candidate, max(map(len, clusters))
        kept = max(0.0, cut.whole_saved_bytes - cut.saved_bytes)
        held = kept + 2 * _FLOAT_BYTES * cut.cut_values
        need = self.spec.training.batch_size * most * held + self._pool_bytes(len(clusters))
        free = parse_quantity(site.group.memory) - PROCESS_BYTES
        return max(0, min(len(clusters), int(free // max(need, 1.0))))

    def _pool_bytes(self, clusters: int) -> float:
        distillation = self.spec.distillation
        if distillation is None or not distillation.enabled:
            return 0.0
        examples = self.spec.training.batch_size * self.steps * len(self.groups)
        most = min(distillation.max_samples, examples)
        return most * self.load.up_mbit / 8e-6 / clusters


def splitting_of(
    spec: FederatedJobSpec,
    groups: Mapping[str, DeviceGroup],
    *,
    steps: int,
    insight: Insight,
    candidate: CutCandidate,
) -> Splitting:
    """What a round of split training asks, for devices with their groups."""
    load = load_of(candidate, spec.split or Split())
    core_s = core_seconds([*groups], insight, load=load).tolist()
    return Splitting(
        spec=spec,
        groups=groups,
        steps=steps,
        insight=insight,
        candidate=candidate,
        load=load,
        core_s=dict(zip(groups, core_s, strict=True)),
        most={client: most_examples(candidate, group) for client, group in groups.items()},
        usual_back=usual(insight.back_work.values()),
    )
