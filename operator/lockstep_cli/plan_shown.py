"""The explanation of a plan as a screen: the round, one device, clusters, alternatives.

`commands/explain_plan` calls it. Invariant: every figure has its unit, and what is not known is a
dash.
"""

from collections.abc import Iterator, Sequence

from rich.text import Text

from lockstep_cli.shown import NOTHING, console, out, table
from lockstep_operator.core.alternatives import Alternative, Expected, Method
from lockstep_operator.core.explain import (
    Bound,
    ClientExplanation,
    ClusterExplanation,
    PlanExplanation,
)

COLUMNS = ("device", "ghz", "steps", "mbit/s", "compute", "away", "in after", "bound by")
WIDE = ("limit", "range", "work/step", "to send", "energy", "had", "came after")
_STYLES = {
    Bound.NOT_APPLIED: "red",
    Bound.NOT_MEASURED: "yellow",
    Bound.HIGHEST: "magenta",
    Bound.LOWEST: "blue",
}
_BOUNDS = {
    Bound.NOT_APPLIED: "not applied",
    Bound.BUDGET: "its budget",
    Bound.POLICY_MAX: "policy max",
    Bound.NOT_MEASURED: "no figures",
    Bound.HIGHEST: "maxGHz",
    Bound.LOWEST: "minGHz",
    Bound.LEVELLED: "the round",
    Bound.LEEWAY: "leeway",
}
_METHODS = {
    Method.PLANNED: "as planned",
    Method.EQUALIZE: "equalised",
    Method.MAXIMUM: "all at maxGHz",
}
_MOST_WHYS = 12
_LABEL = 10


def show_round(found: PlanExplanation, *, wide: bool) -> None:
    """A round: its devices, why, what else would have cost, its clusters."""
    for line in _head(found):
        out(line)
    out()
    columns = (*COLUMNS, *(WIDE if wide else ()))
    rows = ([*_cells(one), *(_more(one) if wide else ())] for one in found.clients)
    console().print(table(columns, rows))
    if found.shortened:
        out("(the status of a running round has its first devices only)")
    out()
    for line in _whys(found.clients):
        out(line)
    if found.alternatives:
        out()
        _show_alternatives(found)
    if found.clusters:
        out()
        _show_clusters(found.clusters)


def show_device(found: PlanExplanation, device: str) -> None:
    """All about a device in a round."""
    (one,) = (each for each in found.clients if each.client == device)
    for label, text in _card(found, one):
        out(f"{label:<{_LABEL}}  {text}")


def _head(found: PlanExplanation) -> Iterator[str]:
    weight = f", energyWeight {found.energy_weight:g} s/J"
    source = "" if found.planned else ", by the plan before: the planner could not be reached"
    cut = f", cut at {found.cut}" if found.cut else ""
    yield f"Round {found.round}: policy {found.policy}{weight}{cut}{source}"
    yield f"steps     {found.why_steps}"
    planned = next((a for a in found.alternatives if a.method is Method.PLANNED), None)
    if planned is not None:
        yield f"expected  {_cost(planned.seconds, planned.joules, cost=planned.cost)}"
    if (came := found.happened) is not None:
        lost = f"; lost: {', '.join(came.lost)}" if came.lost else ""
        yield f"came to   {_cost(came.seconds, came.joules, cost=came.cost)}{lost}"
    else:
        yield "it runs now"


def _cost(seconds: float, joules: float, *, cost: float) -> str:
    return f"{_figure(seconds, 's')} and {_figure(joules, 'J')}: cost {_figure(cost, 's')}"


def _figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return NOTHING
    return (
        f"{value:.3g}{' ' if unit else ''}{unit}" if abs(value) < 1000 else f"{value:,.0f} {unit}"
    )


def _cells(one: ClientExplanation) -> list[str | Text]:
    expected = one.expected
    return [
        one.client,
        f"{one.frequency_ghz:.3g}",
        NOTHING if one.steps is None else str(one.steps),
        _figure(one.mbps),
        _figure(expected.compute_s if expected else None, "s"),
        _figure(expected.away_s if expected else None, "s"),
        _figure(expected.finish_s if expected else None, "s"),
        Text(
            _BOUNDS[one.bound] + (" (lost)" if one.lost else ""), style=_STYLES.get(one.bound, "")
        ),
    ]


def _more(one: ClientExplanation) -> list[str | Text]:
    came = one.happened
    return [
        f"{one.cpu_milli}m",
        f"{one.min_ghz:.3g}–{one.max_ghz:.3g}",
        _figure(one.work_per_step, "core·s"),
        _figure(one.upload_mbit, "Mbit"),
        _figure(one.expected.joules if one.expected else None, "J"),
        _figure(came.frequency_ghz if came else None, "GHz"),
        _figure(came.arrived_s if came else None, "s"),
    ]


def _whys(clients: Sequence[ClientExplanation]) -> Iterator[str]:
    """Each device's bound in a sentence; of many devices one of each bound."""
    if len(clients) <= _MOST_WHYS:
        width = max(len(one.client) for one in clients) if clients else 0
        yield from (f"{one.client:<{width}}  {one.why}" for one in clients)
        return
    for bound in dict.fromkeys(one.bound for one in clients):
        those = [one for one in clients if one.bound is bound]
        yield f"{len(those)} by {_BOUNDS[bound]}, such as {those[0].client}: {those[0].why}"


def _show_alternatives(found: PlanExplanation) -> None:
    planned = next(one for one in found.alternatives if one.method is Method.PLANNED)
    rows = (
        [
            _METHODS[one.method],
            _figure(one.seconds, "s"),
            _figure(one.joules, "J"),
            _figure(one.cost, "s"),
            _beside(one, planned),
        ]
        for one in found.alternatives
    )
    head = ("what if", "takes", "energy", "cost", "beside the plan")
    console().print(table(head, rows))


def _beside(one: Alternative, planned: Alternative) -> str:
    if one.method is Method.PLANNED or not planned.cost:
        return ""
    return f"{one.cost / planned.cost - 1:+.1%}"


def _show_clusters(clusters: Sequence[ClusterExplanation]) -> None:
    rows = (
        [
            one.cluster,
            one.edge,
            str(len(one.clients)) if one.clients else NOTHING,
            _figure(one.divergence, "nats"),
            _figure(one.cost_s, "s"),
            _figure(one.happened.seconds if one.happened else None, "s"),
            ", ".join(_offers(one)) or NOTHING,
        ]
        for one in clusters
    )
    head = ("cluster", "edge", "devices", "kl", "expected", "took", "elsewhere")
    console().print(table(head, rows))
    out()
    width = max(len(one.cluster) for one in clusters)
    for one in clusters:
        out(f"{one.cluster:<{width}}  {one.why or NOTHING}")


def _offers(one: ClusterExplanation) -> Iterator[str]:
    for offer in one.offers:
        yield f"{offer.edge} {_figure(offer.cost_seconds, 's')}{' (full)' if offer.full else ''}"


def _card(found: PlanExplanation, one: ClientExplanation) -> Iterator[tuple[str, str]]:
    """Label and text of each line."""
    yield "device", f"{one.client} of group {one.group}, round {found.round}"
    yield "asked", _asked(one)
    yield "steps", found.why_steps
    if one.reason:
        yield "", one.reason
    yield "bound by", f"{_BOUNDS[one.bound]}: {one.why}"
    yield "counts on", _counts_on(one)
    if one.expected is not None:
        yield "expected", _expected(one.expected)
    yield "came", _came(one)
    for other in found.alternatives:
        if other.method is not Method.PLANNED and (there := other.clients.get(one.client)):
            yield "instead", f"{_METHODS[other.method]}: {_figure(there.ghz, 'GHz')}, {_in(there)}"
    if one.cluster is not None:
        yield "cluster", f"{one.cluster} at {one.edge}{_why_edge(found, one.cluster)}"


def _counts_on(one: ClientExplanation) -> str:
    return (
        f"{_figure(one.mbps, 'Mbit/s')}, {_figure(one.upload_mbit, 'Mbit')} to send, "
        f"{_figure(one.work_per_step, 'core·s')} a step"
    )


def _expected(wanted: Expected) -> str:
    compute, away = _figure(wanted.compute_s, "s"), _figure(wanted.away_s, "s")
    return f"{compute} to compute, {away} besides, {_in(wanted)}"


def _in(wanted: Expected) -> str:
    return f"in after {_figure(wanted.finish_s, 's')}, {_figure(wanted.joules, 'J')}"


def _asked(one: ClientExplanation) -> str:
    steps = "as many steps as fit" if one.steps is None else f"{one.steps} steps"
    batch = f" of {one.batch_size} examples" if one.batch_size else ""
    budget = f", {one.budget_seconds:g} s" if one.budget_seconds else ""
    return (
        f"{one.frequency_ghz:.3g} GHz of {one.min_ghz:.3g}–{one.max_ghz:.3g}, limit "
        f"{one.cpu_milli}m, {steps}{batch}{budget}"
    )


def _came(one: ClientExplanation) -> str:
    came = one.happened
    if came is None:
        return "nothing: the round ended without it" if one.lost else "the round runs"
    return (
        f"{_figure(came.frequency_ghz, 'GHz')}, {came.steps} steps in "
        f"{_figure(came.compute_s, 's')}, sent in {_figure(came.upload_s, 's')} "
        f"({_figure(came.mbps, 'Mbit/s')}), in after "
        f"{_figure(came.arrived_s, 's')}, {_figure(came.joules, 'J')}"
    )


def _why_edge(found: PlanExplanation, cluster: str) -> str:
    why = next((one.why for one in found.clusters if one.cluster == cluster), "")
    return f": {why}" if why else ""
