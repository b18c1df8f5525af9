"""Measures the shipped policy beside every baseline and the optimum; writes docs/benchmarks.

    python -m tests.bench.allocator --traces DIR [--policy FILE …] [--quick]

Only traces that a policy does not know are judged on. DIR has a folder for each family. With
several policies, trained on different splits of the traces, the tables have the means.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from lockstep_allocator.baselines import equalize_10s, maximum
from lockstep_allocator.evaluate import Question, Result, evaluate
from lockstep_allocator.fleet import Fleet, Method, run_round
from lockstep_allocator.observation import Observation
from lockstep_allocator.optimum import optimum
from lockstep_allocator.policy import SHIPPED, Policy, read_policy
from lockstep_allocator.scenarios import Pool, Scenario, draw_fleet, paper, phones_beside, phones_of
from lockstep_allocator.traces import read_traces
from lockstep_pictures import curves
from lockstep_pictures.bars import Span, spans
from lockstep_pictures.curves import Axis, Point
from lockstep_pictures.files import rendered
from lockstep_pictures.panels import stacked

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "benchmarks"
BASELINES = ("max", "static", "equalize", "equalize-10s", "slack")
METHODS = (*BASELINES, "forecast", "ppo")
BEST_CAUSAL = {
    "one family": (84, 78, 68, 56, 42, 45, 62, 49, 35, 27, 11, 15, 24, 17, 12, 6, 13, 17),
    "all families": (77, 72, 69, 57, 56, 57, 53, 47, 37, 40, 46, 47, 21, 17, 16, 22, 20, 14),
}
"""Share of the gap, in %, that the better of a pathwise-trained policy and a distribution planner
of another implementation closed: Ghent 4G, and all families of the trace collection but FCC; by
weight, then by size. Measured on one split."""
SIZES = (3, 5, 10, 50, 100, 200)
WEIGHTS = (1.0, 3.0, 10.0)


def cells(sizes: Sequence[int], rounds: int, scenario: str) -> list[Question]:
    """As many fleets as the reference had: 64 small ones, 32 and 16 larger ones."""
    every = []
    for weight in WEIGHTS:
        for size in sizes:
            fleets = 16 if size <= 10 else 8 if size <= 50 else 4
            every.append(Question(scenario, size, weight, rounds, (0, 1, 2, 3), fleets))
    return every


@dataclass(frozen=True)
class Line:
    """A method in a cell: means over the splits."""

    excess: float
    """Over the optimum, in %."""
    sem: float
    """Standard error of it."""
    gaps: tuple[float | None, ...]
    """Share of the gap closed in each split, in %."""
    gap_sem: float


Splits = Sequence[list[list[Result]]]
"""For each split the cells of a table, each with a result for every method."""


def line(of: Sequence[Result]) -> Line:
    """One method in one cell, from each split."""
    count = len(of)

    def sem(values: Sequence[float | None]) -> float:
        return 100 * float(np.sqrt(sum((v or 0) ** 2 for v in values))) / count

    return Line(
        100 * float(np.mean([r.regret for r in of])), sem([r.regret_sem for r in of]),
        tuple(None if r.gap_closed is None else 100 * r.gap_closed for r in of),
        sem([r.gap_closed_sem for r in of]),
    )  # fmt: skip


def cells_of(splits: Splits) -> Iterator[tuple[Result, dict[str, Line]]]:
    """Each cell's optimum (of the first split) and the methods' lines."""
    for cell in zip(*splits, strict=True):
        methods = [result.method for result in cell[0]]
        lines = {
            method: line([one[number] for one in cell]) for number, method in enumerate(methods)
        }
        yield next(r for r in cell[0] if r.method == "optimum"), lines


def table(splits: Splits, best_causal: Mapping[tuple[float, int], int]) -> str:
    """Excess over the optimum of each method, and what ppo and forecast close of the gap."""
    head = "| λ | N | J* | " + " | ".join(METHODS) + " | gap: forecast | gap: ppo |"
    shown = ["in each split"] * (len(splits) > 1) + ["best causal known"] * bool(best_causal)
    head += "".join(f" {name} |" for name in shown)
    rows = [head, "|---" * (len(METHODS) + 5 + len(shown)) + "|"]
    for best, lines in cells_of(splits):
        row = [f"×{best.energy_weight:g}", str(best.devices), f"{best.cost:.2f}"]
        row += [
            f"{lines[m].excess:.1f}±{lines[m].sem:.1f}{'†' if beats(lines, m) else ''}"
            for m in METHODS
        ]
        row += [_gap(lines["forecast"]), f"**{_gap(lines['ppo'])}**"]
        if len(splits) > 1:
            row.append(" ".join("-" if g is None else f"{g:.0f}" for g in lines["ppo"].gaps))
        if best_causal:
            row.append(str(best_causal.get((best.energy_weight, best.devices), "-")))
        rows.append("| " + " | ".join(row) + " |")
    return "\n".join(rows)


def beats(lines: Mapping[str, Line], method: str) -> bool:
    """Whether a baseline is better than ppo by more than one standard error."""
    mine, other = lines["ppo"], lines[method]
    return method in BASELINES and other.excess + np.hypot(mine.sem, other.sem) < mine.excess


def _gap(of: Line) -> str:
    known = [gap for gap in of.gaps if gap is not None]
    return f"{np.mean(known):.0f}±{of.gap_sem:.0f}" if known else "-"


def saved(splits: Splits) -> str:
    """What a user asks first: joules and seconds against max."""
    lines = ["| λ | N | time at max | energy at max | ppo: time | ppo: energy |", "|---" * 6 + "|"]
    for cell in zip(*splits, strict=True):
        tops = [next(r for r in one if r.method == "max") for one in cell]
        mine = [next(r for r in one if r.method == "ppo") for one in cell]
        pairs = list(zip(mine, tops, strict=True))
        time_change = 100 * float(np.mean([m.time_s / t.time_s - 1 for m, t in pairs]))
        energy_change = 100 * float(np.mean([m.energy_j / t.energy_j - 1 for m, t in pairs]))
        top = tops[0]
        lines.append(
            f"| ×{top.energy_weight:g} | {top.devices} | {top.time_s:.2f} s | {top.energy_j:.1f} J "
            f"| {time_change:+.1f} % | {energy_change:+.1f} % |"
        )
    return "\n".join(lines)


def plot_regret(splits: Splits, title: str, file: Path) -> None:
    """Excess by number of devices, one panel a weight."""
    every = list(cells_of(splits))
    panels = []
    for weight in WEIGHTS:
        mine = [(best.devices, lines) for best, lines in every if best.energy_weight == weight]
        series = {
            name: [Point(x=size, y=lines[name].excess) for size, lines in mine] for name in METHODS
        }
        y = Axis(title=f"λ×{weight:g}: excess over the optimum, %", log=True)
        panels.append(curves.lines(series, x=Axis(title="devices", log=True), y=y))
    picture = stacked(panels, width=300, height=240, one_legend=True)
    file.write_bytes(rendered(picture, "png", title=title, scale=1.2))


def hindsight(fleet: Fleet, start_s: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Method:
    """The optimum as a method, for the picture."""

    def method(observation: Observation) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        return fleet.devices.work / optimum(fleet, start_s).compute_s

    return method


def plot_round(pool: Pool, policy: Policy, file: Path) -> None:
    """A Gantt chart of one round of eight devices: compute and upload, at max, ppo, optimum."""
    random = np.random.default_rng(4)
    fleet = draw_fleet(paper, pool, shape=(1, 8), energy_weight=np.full((1, 1), 3.0), random=random)
    start_s = np.zeros((1, 1))
    start_s = start_s + run_round(fleet, start_s, ghz=fleet.devices.max_ghz).seconds[:, None]
    observation = fleet.observe(start_s)
    methods: dict[str, Method] = {
        "max": maximum, "equalize-10s": equalize_10s, "ppo": policy,
        "optimum": hindsight(fleet, start_s),
    }  # fmt: skip
    played = {
        name: run_round(fleet, start_s, ghz=method(observation)) for name, method in methods.items()
    }
    longest = max(float(done.seconds[0]) for done in played.values())
    panels = []
    for name, done in played.items():
        computed, sent = done.compute_s[0], done.upload_s[0]
        shown = [
            span
            for place in range(8)
            for span in (
                Span(name=f"{place}", part="compute", begin=0.0, end=float(computed[place])),
                Span(
                    name=f"{place}", part="upload", begin=float(computed[place]),
                    end=float(computed[place] + sent[place]),
                ),
            )
        ]  # fmt: skip
        text = f"{name}: {done.seconds[0]:.2f} s, {done.joules[0]:.2f} J, cost {done.cost[0]:.2f}"
        panels.append(
            spans(
                shown, parts=("compute", "upload"), x=Axis(title="seconds"),
                end=float(done.seconds[0]), longest=longest, title=text,
            )
        )  # fmt: skip
    picture = stacked(panels[:2], panels[2:], width=420, one_legend=True)
    file.write_bytes(rendered(picture, "png", title="One round of eight devices", scale=1.2))


def judge(
    name: str, questions: list[Question], scenario: Scenario, pool: Pool, tuning: Pool,
    policy: Policy,
) -> list[list[Result]]:  # fmt: skip
    """All cells of one table; says how it goes."""
    results = []
    for question in questions:
        began = time.monotonic()
        results.append(
            evaluate(question, scenario=scenario, pool=pool, tuning=tuning, policy=policy)
        )
        mine = results[-1][-1]
        print(
            f"split {policy.training.split}, {name} x{question.energy_weight:g} "
            f"N={question.devices}: excess {100 * mine.regret:.2f} %, gap "
            f"{_gap(line([mine]))} ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
    return results


@dataclass(frozen=True)
class Asked:
    """What to measure."""

    traces: Path
    only: str
    exclude: str
    sizes: tuple[int, ...]
    rounds: int

    def pools(self, policy: Policy, *, only: bool) -> tuple[Pool, Pool]:
        """The traces that a policy does not know, and those that it does."""
        known = policy.training.known_sha256
        include = [self.only] if only else []
        mine = read_traces(self.traces, include=include, exclude=[self.exclude])
        held_out = [trace for trace in mine if trace.sha256 not in known]
        return Pool.of(held_out), Pool.of([t for t in mine if t.sha256 in known] or held_out)


def measure(asked: Asked, file: Path) -> dict[str, list[list[Result]]]:
    """All tables for one policy; a process of its own runs it."""
    policy = read_policy(file)
    alone, mixed = asked.pools(policy, only=True), asked.pools(policy, only=False)
    phones = phones_of(phones_beside(asked.traces))
    return {
        title: judge(
            title, cells(asked.sizes, asked.rounds, name), scenario, *pools, policy
        )
        for title, name, scenario, pools in (
            ("one family", "paper", paper, alone),
            ("all families", "paper", paper, mixed),
            ("phones, all families", "phones", phones, mixed),
        )
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--policy", type=Path, action="append", help="repeat for other splits")
    parser.add_argument("--only", default="ghent*", help="a family to show apart (glob)")
    parser.add_argument("--exclude", default="fcc*", help="families to leave out (glob)")
    parser.add_argument("--quick", action="store_true", help="N up to 50, 30 rounds")
    parser.add_argument("--rounds", type=int, default=100, help="rounds a fleet")
    given = parser.parse_args()
    sizes, rounds = (SIZES[:4], 30) if given.quick else (SIZES, given.rounds)
    asked = Asked(given.traces, given.only, given.exclude, sizes, rounds)
    files = given.policy or [SHIPPED]
    OUT.mkdir(exist_ok=True)
    with ProcessPoolExecutor(min(len(files), os.cpu_count() or 1)) as processes:
        found = list(processes.map(partial(measure, asked), files))
    tables = {title: [one[title] for one in found] for title in found[0]}
    for title, splits in tables.items():
        plot_regret(splits, title, OUT / f"allocator-{_file(title)}.png")
    policies = [read_policy(file) for file in files]
    plot_round(asked.pools(policies[0], only=True)[0], policies[0], OUT / "allocator-round.png")
    (OUT / "allocator.md").write_text(page(asked, policies, tables))


def _file(title: str) -> str:
    return title.replace(", ", "-").replace(" ", "-")


def page(asked: Asked, policies: Sequence[Policy], tables: Mapping[str, Splits]) -> str:
    families = ", ".join(policies[0].training.families)
    ships = read_policy(SHIPPED).training.split
    trained = "; ".join(
        f"split {p.training.split}: {p.training.updates} updates in {p.training.minutes:.1f} min, "
        f"seed {p.training.seed}"
        for p in policies
    )
    parts = [
        "# The allocation policy, measured\n",
        f"Written by `python -m tests.bench.allocator` on {os.cpu_count()} cores, Python "
        f"{platform.python_version()}. Closed loop, {asked.rounds} rounds a fleet, 64 fleets at "
        "N ≤ 10, 32 at N = 50, 16 above, in each split; ± is one standard error over fleets, which "
        "does not contain the choice of traces. Only traces that a policy was neither trained nor "
        "chosen on.\n",
        f"Policies, one for each split of the traces; the one of split {ships} ships: "
        f"{trained}. Families: {families}. `forecast` is the plan without the network; `slack` "
        "was tuned for every cell on the traces of training (privileged).\n",
        "Columns: J* is the mean cost of the hindsight optimum (in the first split), then each "
        "method's excess over it in %, then the share of the gap from equalize-10s to J* that is "
        "closed, in %. Where the excess of equalize-10s is about 1 %, shares are shares of very "
        "little. At N ≤ 5 and λ×1 `max` is within 1–3 % of the optimum: there is little for anyone "
        "to win. † marks a baseline that is better than ppo by more than one standard error.\n",
    ]
    for title, splits in tables.items():
        known = dict(zip(product(WEIGHTS, SIZES), BEST_CAUSAL.get(title, ()), strict=False))
        parts += [f"## {title}\n", table(splits, known) + "\n"]
        parts += [f"![excess](allocator-{_file(title)}.png)\n"]
        if splits[0][0][0].scenario == "phones":
            parts += ["Against `max`, what a user asks first:\n", saved(splits) + "\n"]
    parts += ["## One round\n", "![one round](allocator-round.png)\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
