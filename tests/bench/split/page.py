"""The page docs/benchmarks/split.md: numbers to reach, tables of settings, costs, conditions."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.bench.split.arms import (
    ALPHA,
    ARMS,
    BATCH,
    FEDAVG,
    KL,
    LABELS,
    MOMENTUM,
    STEPS,
    Arm,
    Setting,
)
from tests.bench.split.costs import rows as cost_rows
from tests.bench.split.figures import BySeed, accuracy, difference
from tests.bench.split.goals import goals
from tests.bench.split.plots import draw
from tests.bench.split.runs import Bench
from tests.bench.split.sections import SECTIONS
from tests.bench.strategies.figures import Mean

COMMAND = "make bench-split"
NOTES = Path(__file__).with_name("notes.md")
"""What was tried beside the arms, written by hand."""


def write_page(bench: Bench, folder: Path) -> Path:
    """Page and plots, from what is known; where the page is."""
    draw(bench, folder)
    path = folder / "split.md"
    path.write_text("\n".join(_lines(bench)) + "\n", encoding="utf-8")
    return path


def _lines(bench: Bench) -> Iterator[str]:
    yield "# Split training, measured"
    yield ""
    yield from _conditions(bench)
    yield "## Numbers to reach"
    yield ""
    yield "| setting | wanted | measured | |"
    yield "| --- | --- | --- | --- |"
    for row in goals(bench, bench.settings()):
        yield f"| {' | '.join(row)} |"
    yield ""
    yield from (
        "![accuracy](split-accuracy.png)",
        "",
        "![curves](split-curves.png)",
        "",
    )
    for setting in bench.settings():
        yield from _setting(bench, setting)
    yield "## What a cut costs and saves"
    yield ""
    yield from cost_rows()
    yield ""
    for title in SECTIONS:
        yield from (f"## {title}", "")
        yield from (*bench.results.sections.get(title, ["Not measured yet."]), "")
    yield from NOTES.read_text(encoding="utf-8").rstrip().splitlines()


def _conditions(bench: Bench) -> Iterator[str]:
    yield (
        f"Written by `{COMMAND}` on {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, torch {torch.__version__}, one thread; "
        f"{len(bench.results.curves)} runs took {bench.results.core_s / 60:.0f} core-minutes. "
        f"Data: {'; '.join(bench.identities.values())}."
    )
    yield ""
    yield (
        f"Every run plays the learning code of devices, edges and cloud in one process. Labels are "
        f"dealt out by Dirichlet({ALPHA:g}); every client does {STEPS} steps of {BATCH} examples a "
        f"round, whatever the arm, with momentum {MOMENTUM:g} that begins at 0 in each round. "
        f"Clusters are drawn anew each round. Activations and gradients are bfloat16 on the wire "
        f"unless an arm says otherwise. Seeds {', '.join(map(str, bench.seeds))} change partition, "
        "initial weights, clusters and mini-batches. Accuracy is on held-out images, the mean of "
        "the last 10 rounds; ± is one standard error over seeds; differences are paired by seed. "
        "Each arm stands at the learning rate of its grid that was best with the first seed († at "
        "an edge of the grid); arms that distil have kl's rate of training, and a grid for their "
        "own."
    )
    yield ""


def _setting(bench: Bench, setting: Setting) -> Iterator[str]:
    yield f"## {setting.name}: {setting.title}"
    yield ""
    arms = ARMS[setting.name]
    known = {name: runs for name, arm in arms.items() if (runs := bench.tuned(arm))}
    missing = [name for name in arms if len(known.get(name, ())) < len(bench.seeds)]
    lacking = f" Not (or not with all seeds) run yet: {', '.join(missing)}." if missing else ""
    yield f"{setting.rounds} rounds.{lacking}"
    yield ""
    yield (
        "| arm | lr | edge model, % | against fedavg | against kl | cloud model, % | cloud against "
        "labels only | KL of clusters | rounds edge / cloud was taught | seeds |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in sorted(known, key=lambda name: -accuracy(known[name]).value):
        yield _row(bench, arms[name], known)
    yield ""


def _row(bench: Bench, arm: Arm, known: dict[str, BySeed]) -> str:
    runs = known[arm.name]
    has_cloud = all(curve.cloud for curve in runs.values())
    curves = list(runs.values())

    def against(name: str, *, cloud: bool = False) -> str:
        found = difference(runs, known.get(name, {}), cloud=cloud)
        return "" if found is None or arm.name == name else _signed(found)

    def mean_of(values: list[float]) -> float:
        return sum(values) / len(values)

    taught = [mean_of([c.edge_taught for c in curves]), mean_of([c.cloud_taught for c in curves])]
    cells = (
        arm.name,
        _rates(bench, arm),
        str(accuracy(runs)),
        against(FEDAVG),
        against(KL),
        str(accuracy(runs, cloud=True)) if has_cloud else "",
        against(LABELS, cloud=True) if has_cloud else "",
        "" if arm.method == "fedavg" else f"{mean_of([c.divergence for c in curves]):.2f}",
        f"{taught[0]:.0f} / {taught[1]:.0f}" if has_cloud else "",
        str(len(runs)),
    )
    return f"| {' | '.join(cells)} |"


def _rates(bench: Bench, arm: Arm) -> str:
    rate, soft = bench.rate(arm), bench.distil_rate(arm)
    chosen = rate if soft is None else soft
    edge = "†" if arm.rates and chosen in (arm.rates[0], arm.rates[-1]) else ""
    return f"{rate:g}{edge}" if soft is None else f"{rate:g}, {soft:g}{edge}"


def _signed(value: Mean) -> str:
    return f"{'+' if value.value >= 0 else ''}{value}"
