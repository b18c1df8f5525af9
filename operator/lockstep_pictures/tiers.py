"""The tier graph: who worked with whom in a round, from the cloud over edges down to devices.

Called by `report`. Invariant: at most `_MOST_DEVICES` devices are drawn one by one; of more,
those of a cluster or group that fared alike share a node that says how many they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import altair as alt

from lockstep_pictures import theme
from lockstep_pictures.model import ClusterFigures, JobFigures, Participant, RoundFigures
from lockstep_pictures.rows import Value, data

_MOST_DEVICES = 36
_MOST_LABELLED = 14
_CLOUD, _EDGE, _CLUSTER, _DEVICE = 3.0, 2.0, 1.0, 0.0
_LOOKS = {
    "cloud": ("#000000", "square"),
    "edge": ("#d55e00", "diamond"),
    "cluster": ("#009e73", "triangle-up"),
    "device": ("#0072b2", "circle"),
    "without update": ("#999999", "cross"),
}
"""Kind of a node → its colour and mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    key: str
    kind: str
    parent: str
    text: str
    height: float
    devices: int = 1
    told: str = ""


def graph(job: JobFigures, one: RoundFigures) -> theme.Picture:
    """The tiers of a round."""
    nodes = [_Node(key="cloud", kind="cloud", parent="", text="cloud", height=_CLOUD)]
    nodes += _middle(one)
    nodes += _devices(job, one)
    places = _places(nodes)
    links = [_link(node, places) for node in nodes if node.parent]
    devices = sum(node.height == _DEVICE for node in nodes)
    marks = [
        _mark(node, places[node.key]) | _names(node, place, named=devices <= _MOST_LABELLED)
        for place, node in enumerate(
            sorted(nodes, key=lambda each: (each.height, places[each.key]))
        )
    ]
    text = (
        f"Tiers of round {one.round}: {one.updates} of {one.updates + one.missing} devices gave an"
        f" update{', through ' + str(len(one.clusters)) + ' clusters' if one.clusters else ''}"
    )
    across = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.04, 1.04]))
    up = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.6, 3.4]))
    base = alt.Chart(data(marks)).encode(x=across, y=up)
    under = [
        base.mark_text(dy=dy, fontSize=10, limit=90).encode(text=f"{field}:N")
        for field, dy in (("under", 18), ("below", 31))
    ]
    beside = base.mark_text(dx=11, align="left", fontSize=11, limit=120).encode(text="beside:N")
    rules = (
        alt.Chart(data(links))
        .mark_rule(color="#aaaaaa", opacity=0.8)
        .encode(x=across, y=up, x2="x2:Q", y2="y2:Q", size=alt.Size("width:Q", scale=None))
    )
    layers = (rules, _points(base, nodes), *under, beside)
    return alt.layer(*layers).properties(description=text, height=300)


def _points(base: alt.Chart, nodes: Sequence[_Node]) -> alt.Chart:
    kinds = [kind for kind in _LOOKS if any(node.kind == kind for node in nodes)]
    colours, marks = zip(*(_LOOKS[kind] for kind in kinds), strict=True)
    legend = alt.Legend(title=None)
    points: alt.Chart = base.mark_point(filled=True, opacity=1).encode(
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=colours), legend=legend),
        shape=alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=marks), legend=legend),
        size=alt.Size("size:Q", scale=None),
        tooltip=[
            alt.Tooltip("text:N", title=" "),
            alt.Tooltip("devices:Q", title="devices"),
            alt.Tooltip("told:N", title="in this round"),
        ],
    )
    return points


def _middle(one: RoundFigures) -> list[_Node]:
    """Edges and their clusters; none in a round without."""
    edges = dict.fromkeys(cluster.edge for cluster in one.clusters)
    return [
        *(
            _Node(key=f"edge {edge}", kind="edge", parent="cloud", text=edge, height=_EDGE)
            for edge in edges
        ),
        *(
            _Node(
                key=f"cluster {cluster.cluster}",
                kind="cluster",
                parent=f"edge {cluster.edge}",
                text=cluster.cluster,
                height=_CLUSTER,
                devices=len(cluster.clients),
                told=_told_of(cluster),
            )
            for cluster in one.clusters
        ),
    ]


def _told_of(cluster: ClusterFigures) -> str:
    parts = [
        *([f"{cluster.seconds:.3g} s"] if cluster.seconds is not None else ["no result"]),
        *([f"KL {cluster.divergence:.3g} nats"] if cluster.divergence is not None else []),
        *([f"edge {cluster.tries} of those that had it"] if cluster.tries > 1 else []),
    ]
    return ", ".join(parts)


def _devices(job: JobFigures, one: RoundFigures) -> list[_Node]:
    if len(one.participants) <= _MOST_DEVICES:
        return [_device(each) for each in one.participants]
    alike: dict[tuple[str, str], list[Participant]] = {}
    for each in one.participants:
        alike.setdefault((each.cluster or each.group, _kind(each)), []).append(each)
    return [
        _Node(
            key=f"{where} {kind}",
            kind=kind,
            parent=_parent(each[0]),
            text=str(len(each)) if each[0].cluster else f"{len(each)} × {where}",
            height=_DEVICE,
            devices=len(each),
            told=f"{len(each)} devices of {where}",
        )
        for (where, kind), each in alike.items()
    ]


def _device(each: Participant) -> _Node:
    told = "no update"
    if each.arrived_s is not None:
        ghz = f" at {each.had_ghz:.3g} GHz" if each.had_ghz is not None else ""
        told = f"{each.steps} steps{ghz}, in at {each.arrived_s:.3g} s"
    return _Node(
        key=f"device {each.client}",
        kind=_kind(each),
        parent=_parent(each),
        text=each.client,
        height=_DEVICE,
        told=told,
    )


def _kind(each: Participant) -> str:
    return "device" if each.updated else "without update"


def _parent(each: Participant) -> str:
    return f"cluster {each.cluster}" if each.cluster else "cloud"


def _places(nodes: Sequence[_Node]) -> dict[str, float]:
    """Leaves side by side, in the order of their parents; a parent above the middle of its own."""
    children: dict[str, list[_Node]] = {}
    for node in nodes:
        children.setdefault(node.parent, []).append(node)
    leaves = [node.key for node in _leaves("", children)]
    places = {key: (place + 0.5) / len(leaves) for place, key in enumerate(leaves)}
    for node in sorted(nodes, key=lambda node: node.height):
        mine = [places[child.key] for child in children.get(node.key, ())]
        if mine:
            places[node.key] = (min(mine) + max(mine)) / 2
    return places


def _leaves(key: str, children: dict[str, list[_Node]]) -> Iterable[_Node]:
    for node in children.get(key, ()):
        if node.key in children:
            yield from _leaves(node.key, children)
        else:
            yield node


def _link(node: _Node, places: dict[str, float]) -> dict[str, Value]:
    above = _CLOUD if node.parent == "cloud" else node.height + 1
    return {
        "x": places[node.key],
        "y": node.height,
        "x2": places[node.parent],
        "y2": above,
        "width": min(6.0, 1 + node.devices**0.5 / 4),
    }


def _names(node: _Node, place: int, *, named: bool) -> dict[str, Value]:
    """Where a node's name stands: those of devices in two lines in turn, so that more fit."""
    leaf = named and node.height == _DEVICE
    return {
        "under": node.text if leaf and place % 2 == 0 else "",
        "below": node.text if leaf and place % 2 else "",
        "beside": node.text if node.height > _DEVICE else "",
    }


def _mark(node: _Node, place: float) -> dict[str, Value]:
    return {
        "x": place,
        "y": node.height,
        "kind": node.kind,
        "text": node.text,
        "devices": node.devices,
        "told": node.told or None,
        "size": min(700.0, 90 + 30 * node.devices**0.5),
    }
