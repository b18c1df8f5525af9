"""docs/benchmarks/joint.md and its picture: what each plan took until the target."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from lockstep_pictures.curves import Axis, Point
from lockstep_pictures.files import rendered
from lockstep_pictures.panels import stacked
from lockstep_pictures.theme import Picture
from lockstep_pictures.trade_offs import trade_offs
from tests.bench.joint.plans import SEEDS, WAYS, Plan, Run, Setting, plans
from tests.bench.joint.runs import Reached, Results, World

PAGE, PLOT = "joint.md", "joint.png"
_TIME_GOAL, _ENERGY_GOAL, _MOST_ENERGY = 0.6, 0.4, 2.5


@dataclass(frozen=True, slots=True)
class Line:
    """A plan in a setting, with all seeds."""

    plan: Plan
    runs: tuple[Reached, ...]

    @property
    def seconds(self) -> float:
        """Mean."""
        return fmean(one.seconds for one in self.runs)

    @property
    def joules(self) -> float:
        """Mean."""
        return fmean(one.joules for one in self.runs)

    @property
    def all_reached(self) -> bool:
        """Whether every seed came to the target."""
        return all(one.reached for one in self.runs)


def lines(setting: Setting, results: Results, world: World) -> list[Line]:
    """What is known of all seeds of a setting, in the order of ways and times."""
    found = []
    for plan in plans(setting):
        keys = [Run(setting, plan, seed).key(world.identity) for seed in SEEDS]
        if all(key in results.known for key in keys):
            found.append(Line(plan, tuple(results.known[key] for key in keys)))
    return sorted(found, key=lambda line: (line.plan.kind, line.plan.method, line.seconds))


def best(of: Iterable[Line], kind: str, method: str = "fedavg") -> Line | None:
    """The fastest of a way; best steps and learning rate."""
    some = [one for one in of if one.plan.kind == kind and one.plan.method == method]
    return min(some, key=lambda one: one.seconds, default=None)


def write(settings: Sequence[Setting], *, results: Results, world: World, folder: Path) -> None:
    """Page and picture, of the settings that are known."""
    known = {one: found for one in settings if (found := lines(one, results, world))}
    if not known:
        return
    notes = Path(__file__).with_name("notes.md").read_text()
    parts = [notes.format(data=world.identity, seeds=len(SEEDS), plot=PLOT)]
    parts += [_section(setting, found) for setting, found in known.items()]
    (folder / PAGE).write_text("\n".join(parts))
    _draw(known, folder / PLOT)


# -- text ------------------------------------------------------------------------------------


def _section(setting: Setting, found: list[Line]) -> str:
    head = f"## {setting.title}\n\nUntil {100 * setting.target:g} % on the held-out images.\n"
    table = [
        "| plan | method | learning rate | steps, price | rounds | time, s | energy, J | steps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(line) for line in found),
    ]
    return "\n".join([head, *table, "", *_judged(found), ""])


def _row(line: Line) -> str:
    plan, runs = line.plan, line.runs
    missed = sum(not one.reached for one in runs)
    late = f" ({missed} of {len(runs)} given up)" if missed else ""
    steps = f"{min(one.least_steps for one in runs)} to {max(one.most_steps for one in runs)}"
    return (
        f"| ({plan.kind}) {WAYS[plan.kind]} | {plan.method} | {plan.rate:g} | {plan.told} "
        f"| {_mean([one.rounds for one in runs])}{late} | {_mean([one.seconds for one in runs])} "
        f"| {_mean([one.joules for one in runs])} | {steps} |"
    )


def _mean(values: Sequence[float]) -> str:
    error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{fmean(values):.3g} ± {error:.2g}"


def _judged(found: list[Line]) -> list[str]:
    """What planned steps are against (a) and (b) at their best steps, price by price."""
    planned = [
        one
        for one in found
        if one.plan.kind == "d" and one.plan.method != "fedavg" and _least(one.plan) == 2
    ]
    methods = {"fedavg", *(one.plan.method for one in planned)}
    told = []
    for kind, method in (("a", "fedavg"), *(("b", name) for name in sorted(methods, reverse=True))):
        if (other := best(found, kind, method)) is None or not planned:
            continue
        told += [
            f"Planned, against ({kind}) with {method} at its fastest ({other.plan.told}, learning "
            f"rate {other.plan.rate:g}: {other.seconds:.0f} s, {other.joules:.1f} J):",
            "",
            "| price in s/J | time | energy | |",
            "| --- | --- | --- | --- |",
            *(_against(one, other) for one in sorted(planned, key=lambda one: one.plan.price)),
            "",
        ]
    return told


def _least(plan: Plan) -> int:
    return int(plan.steps["planned"]["minSteps"])


def _against(one: Line, other: Line) -> str:
    time, energy = one.seconds / other.seconds, one.joules / other.joules
    goal = (_ENERGY_GOAL if other.plan.kind == "a" else _MOST_ENERGY) >= energy
    verdict = "better in both" if time < 1 and energy < 1 else ""
    if time <= _TIME_GOAL and goal:
        verdict = f"{verdict}, goal reached" if verdict else "goal reached"
    return (
        f"| {one.plan.price:g} | {100 * (time - 1):+.0f} % | {100 * (energy - 1):+.0f} % "
        f"({energy:.2g} times) | {verdict} |"
    )


# -- picture ---------------------------------------------------------------------------------


def _draw(known: Mapping[Setting, list[Line]], file: Path) -> None:
    """Time and energy, a panel a setting; planned steps are a line over prices."""
    every = sorted({_look(line) for found in known.values() for line in found if _shown(line)})
    panels = [_panel(setting, found, every=every) for setting, found in known.items()]
    rows = [panels[begin : begin + 2] for begin in range(0, len(panels), 2)]
    picture = stacked(*rows, width=400, height=280, one_legend=True)
    file.write_bytes(rendered(picture, "png", title="Until the target", scale=1.2))


def _shown(line: Line) -> bool:
    return line.plan.kind != "d" or _least(line.plan) == 2


def _look(line: Line) -> str:
    return f"({line.plan.kind}) {line.plan.method}"


def _panel(setting: Setting, found: list[Line], *, every: Sequence[str]) -> Picture:
    shown = sorted(filter(_shown, found), key=lambda one: one.plan.price)
    series = {
        name: [Point(x=one.seconds, y=one.joules) for one in shown if _look(one) == name]
        for name in every
    }
    return trade_offs(
        series,
        joined=[name for name in every if name.startswith("(d)")],
        x=Axis(title="time in s"),
        y=Axis(title="energy in J"),
        title=setting.title,
    )
