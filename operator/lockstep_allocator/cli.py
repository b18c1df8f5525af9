"""`lockstep-allocator`: train, evaluate and inspect policies, and make traces up.

Results go to stdout, progress and errors to stderr.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lockstep_allocator.bandwidth import InvalidTrace
from lockstep_allocator.evaluate import Result, evaluate, questions
from lockstep_allocator.generate import write_traces
from lockstep_allocator.policy import SHIPPED, InvalidPolicy, Policy, read_policy
from lockstep_allocator.scenarios import (
    Pool,
    Scenario,
    paper,
    phones_beside,
    phones_of,
    with_radio,
)
from lockstep_allocator.traces import NamedTrace, read_traces
from lockstep_api.text import printable

OF_LOCKSTEP = "the one that ships"

app = typer.Typer(
    help="Per-round CPU frequency allocation: policies, their training and their judgement.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
_told = Console(stderr=True, highlight=False)

Traces = Annotated[
    Path, typer.Option("--traces", help="Folder tree of traces; each folder is a family.")
]
Include = Annotated[
    list[str] | None, typer.Option("--family", help="Only these families (glob; repeatable).")
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", help="Not these families (glob; repeatable).")
]


class _Wrong(typer.BadParameter):
    """Something that the user can put right."""


def _read(
    traces: Path, include: list[str] | None, *, exclude: list[str] | None
) -> list[NamedTrace]:
    try:
        return read_traces(traces, include=include or (), exclude=exclude or (), tell=_told.print)
    except InvalidTrace as error:
        raise _Wrong(str(error)) from error


def _policy(file: Path) -> Policy:
    try:
        return read_policy(file)
    except InvalidPolicy as error:
        raise _Wrong(str(error)) from error


def _list(text: str, kind: type[int] | type[float], *, option: str, least: float) -> list[float]:
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise _Wrong(f"{option} {text}: give numbers with commas between them") from error
    if any(value < least for value in values):
        raise _Wrong(f"{option} {text}: no less than {least:g}")
    return values


def _range(text: str, option: str, *, least: float) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in (text.split(":") * 2)[:2])
    except ValueError as error:
        raise _Wrong(f"{option} {text}: give low:high, or one number") from error
    if not least <= low <= high:
        raise _Wrong(f"{option} {text}: needs {least:g} <= low <= high")
    return low, high


def _shown() -> Console:
    """stdout; wide enough for the tables where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(), BarColumn(bar_width=30), TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(), TextColumn("{task.description}"), console=_told,
    )  # fmt: skip


@app.command()
def train(
    traces: Traces,
    out: Annotated[Path, typer.Option("--out", help="The policy file to write.")],
    *,
    family: Include = None,
    exclude: Exclude = None,
    devices: Annotated[str, typer.Option(help="Fewest:most devices of a fleet.")] = "2:128",
    energy_weight: Annotated[str, typer.Option(help="Least:greatest energy weight.")] = "1:10",
    seed: Annotated[int, typer.Option(help="Seed of weights and fleets.")] = 0,
    split: Annotated[int, typer.Option(help="Seed of the split by trace.")] = 0,
    budget_minutes: Annotated[float, typer.Option(help="Hard limit of the run.", min=0.05)] = 25.0,
    cores: Annotated[
        int | None, typer.Option(help="CPU cores to use; all that there are if empty.", min=1)
    ] = None,
) -> None:
    """Train a policy with PPO; a third of the traces of each family is held out.

    Beside the policy file a csv and (with Altair) a PNG of the curves are written.
    """
    try:
        import torch  # noqa: PLC0415 - evaluate and inspect do without

        from lockstep_allocator.training import curves  # noqa: PLC0415
        from lockstep_allocator.training.train import TrainSettings  # noqa: PLC0415
        from lockstep_allocator.training.train import train as run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _Wrong(
            f"train needs {error.name}: pip install '.[train]' in a checkout of Lockstep"
        ) from error
    used = cores or torch.get_num_threads()
    torch.set_num_threads(used)
    found = _read(traces, family, exclude=None)
    few, many = _range(devices, "--devices", least=2)
    settings = TrainSettings(
        seed=seed,
        split=split,
        exclude=tuple(exclude or ()),
        minutes=budget_minutes,
        cores=used,
        devices=(int(few), int(many)),
        energy_weight=_range(energy_weight, "--energy-weight", least=1e-3),
    )
    if not out.parent.is_dir():
        raise _Wrong(f"--out {out}: there is no folder {out.parent}")
    with _progress() as bar:
        task = bar.add_task(f"{len(found)} traces", total=1.0)
        try:
            done = run(
                found, phones_beside(traces), settings=settings,
                tick=lambda share, text: bar.update(task, completed=share, description=text),
            )  # fmt: skip
        except ValueError as error:
            raise _Wrong(str(error)) from error
        bar.update(task, completed=1.0)
    out.write_bytes(done.policy.to_bytes())
    curves.write_csv(done.curve, out.with_suffix(".csv"))
    try:
        curves.write_png(done.curve, out.with_suffix(".png"))
    except ModuleNotFoundError:
        _told.print("no PNG of the curves: Altair is not installed")
    told = done.policy.training
    _told.print(
        f"{out}: {told.updates} updates in {told.minutes:.1f} min, stopped by "
        f"{told.stopped}; closes {told.metrics['gap closed']:.1f} % of the gap on "
        f"{len(told.validation_sha256)} validation traces"
    )


@app.command("evaluate")
def evaluate_(
    traces: Traces,
    policy: Annotated[
        Path, typer.Option("--policy", help="Policy file.", show_default=OF_LOCKSTEP)
    ] = SHIPPED,
    *,
    scenario: Annotated[str, typer.Option(help="paper or phones.")] = "paper",
    devices: Annotated[str, typer.Option(help="Devices of a fleet.")] = "3,10,50,200",
    energy_weight: Annotated[str, typer.Option(help="Energy weights.")] = "1,3,10",
    rounds: Annotated[int, typer.Option(help="Rounds of each fleet.", min=1)] = 100,
    seeds: Annotated[str, typer.Option(help="Seeds of the fleets.")] = "0,1,2,3",
    fleets: Annotated[
        int | None, typer.Option(help="Fleets a seed; 16, 8 or 4 by size if empty.", min=1)
    ] = None,
    family: Include = None,
    exclude: Exclude = None,
    transmit_watts: Annotated[
        float, typer.Option(help="Power of each device's radio while it uploads.", min=0)
    ] = 0.0,
    all_traces: Annotated[
        bool, typer.Option("--all-traces", help="Also traces that the policy was trained on.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
) -> None:
    """Compare the policy with every baseline and with the hindsight optimum, on the same rounds.

    Traces that the policy was trained or chosen on are left out.
    """
    chosen = _policy(policy)
    draw = with_radio(_scenario(scenario, traces), transmit_watts)
    sizes = [int(size) for size in _list(devices, int, option="--devices", least=1)]
    weights = _list(energy_weight, float, option="--energy-weight", least=0)
    numbers = [int(seed) for seed in _list(seeds, int, option="--seeds", least=0)]
    judged, tuning = _held_out(_read(traces, family, exclude=exclude), chosen, every=all_traces)
    cells = [
        *questions(scenario, sizes, weights=weights, rounds=rounds, seeds=numbers, fleets=fleets)
    ]  # fmt: skip
    results: list[Result] = []
    with _progress() as bar:
        task = bar.add_task("", total=8 * len(cells))
        for cell in cells:
            where = f"{scenario}, {cell.devices} devices, weight {cell.energy_weight:g}"

            def tick(method: str, where: str = where) -> None:
                bar.update(task, advance=1, description=f"{where}: {method}")

            results += evaluate(
                cell, scenario=draw, pool=Pool.of(judged), tuning=Pool.of(tuning), policy=chosen,
                tick=tick,
            )  # fmt: skip
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=1))  # noqa: T201
    else:
        _shown().print(_table(results))


def _scenario(name: str, traces: Path) -> Scenario:
    match name:
        case "paper":
            return paper
        case "phones":
            phones = phones_beside(traces)
            if phones[0].name.startswith("generic"):
                _told.print("no devices/cpu_dvfs_freqbench.csv beside the traces: made-up phones")
            return phones_of(phones)
    raise _Wrong(f"--scenario {name}: paper or phones")


def _held_out(
    found: list[NamedTrace], policy: Policy, *, every: bool
) -> tuple[list[NamedTrace], list[NamedTrace]]:
    """The traces to judge on, and those to tune slack on."""
    known = policy.training.known_sha256
    judged = [trace for trace in found if every or trace.sha256 not in known]
    tuning = [trace for trace in found if trace.sha256 in known] or judged
    if not judged:
        raise _Wrong("the policy was trained on all of these traces: give others, or --all-traces")
    _told.print(f"{len(judged)} traces; {len(found) - len(judged)} that the policy knows left out")
    return judged, tuning


def _table(results: list[Result]) -> Table:
    table = Table(
        title="Mean of a round; excess over the hindsight optimum; share of the gap closed"
    )
    for name in (
        "scenario",
        "N",
        "weight",
        "method",
        "cost",
        "time s",
        "energy J",
        "excess %",
        "gap %",
    ):
        left = name in {"scenario", "method"}
        table.add_column(name, justify="left" if left else "right")
    before: tuple[int, float] | None = None
    for result in results:
        cell = (result.devices, result.energy_weight)
        if before not in {None, cell}:
            table.add_section()
        before = cell
        table.add_row(
            result.scenario, str(result.devices), f"{result.energy_weight:g}", result.method,
            f"{result.cost:.3f}" + _error(result.cost_sem, 1, digits=3), f"{result.time_s:.2f}",
            f"{result.energy_j:.1f}",
            f"{100 * result.regret:.2f}" + _error(result.regret_sem, 100, digits=2),
            _percent(result.gap_closed, result.gap_closed_sem),
        )  # fmt: skip
    return table


def _percent(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.0f}" + _error(error, 100, digits=0)


def _error(value: float | None, times: int, *, digits: int) -> str:
    return "" if value is None else f"±{times * value:.{digits}f}"


@app.command()
def inspect(
    policy: Annotated[
        Path, typer.Argument(help="Policy file.", show_default=OF_LOCKSTEP)
    ] = SHIPPED,
) -> None:
    """Say what a policy file is and how it was trained."""
    chosen = _policy(policy)
    told = chosen.training
    table = Table(show_header=False, title=str(policy))
    weights = sum(value.size for value in chosen.weights.values())
    rows = {
        "trained": f"{told.updates} updates, {told.minutes:.1f} min, seed {told.seed}, split "
        f"{told.split}, stopped by {told.stopped}",
        "families": ", ".join(told.families),
        "traces": f"{len(told.train_sha256)} to train, {len(told.validation_sha256)} to choose",
        "weights": f"{weights} in the policy, "
        f"{sum(v.size for v in chosen.forecaster.weights.values())} in the forecaster",
        **{name: f"{value:.2f}" for name, value in told.metrics.items()},
        "settings": json.dumps(told.settings),
    }
    for name, value in rows.items():
        table.add_row(*(Text(printable(cell)) for cell in (name, value)))
    _shown().print(table)


@app.command()
def generate(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    traces: Annotated[int, typer.Option(help="Traces of each family.", min=1)] = 20,
    *,
    seconds: Annotated[int, typer.Option(help="Length of a trace.", min=60)] = 600,
    seed: Annotated[int, typer.Option(help="Seed.", min=0)] = 0,
) -> None:
    """Make traces up (Markov-modulated), for machines that have none."""
    written = write_traces(out, traces=traces, seconds=seconds, seed=seed)
    _told.print(f"{len(written)} traces in {out}")


def main() -> None:
    """The console script."""
    app()
