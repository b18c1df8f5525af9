"""`lockstep simulate`, `sweep` and `explain-cut`: a FederatedJob without a cluster.

`lockstep_cli` calls them. Results go to stdout, progress and errors to stderr.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from typer.core import TyperCommand

from lockstep_admission.errors import Refused
from lockstep_simulator.examples import adapted, cache_folder, load_examples
from lockstep_simulator.explain_cut import explained_cuts
from lockstep_simulator.grid import cases, read_seeds
from lockstep_simulator.manifest import (
    DataFile,
    Manifest,
    load_manifest,
    read_text,
    read_traces,
)
from lockstep_simulator.overrides import BadSetting
from lockstep_simulator.preparing import Options, setup_of
from lockstep_simulator.processes import usable_cores
from lockstep_simulator.progress import showing, table
from lockstep_simulator.rows import read_rows
from lockstep_simulator.running import FAILED, INTERRUPTED, Ended, run
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.simulation import Setup
from lockstep_simulator.summing_up import round_json, summary_json, summed_up
from lockstep_simulator.sweep import Base, Sweep, prepared, run_all
from lockstep_simulator.sweep_shown import draw, failures_of, showing_runs, table_of
from lockstep_workers.errors import JobFailed

app = typer.Typer(
    help="A FederatedJob in one process: a cluster's manifest, on a virtual clock.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
_CODES = {FAILED: 1, INTERRUPTED: 130}

JobFile = Annotated[Path, typer.Argument(help="The manifest, with the ConfigMaps that it names.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="path=value in the spec, as helm has it (repeatable)."),
]
TracesOf = Annotated[
    Path | None,
    typer.Option("--traces", help="ConfigMaps with bandwidth traces: YAML, or a folder of it."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="An npz file of examples (x, y, perhaps x_test, y_test, group) instead of spec.data."
    ),
]
WorkPerStep = Annotated[
    float | None,
    typer.Option(help="Core-seconds of a local step; measured when empty.", min=1e-9),
]
Failures = Annotated[
    float,
    typer.Option(help="Chance that a participant gives no update in a round.", min=0, max=0.999),
]


Standardise = Annotated[
    bool, typer.Option("--standardise", help="Each feature of --data less its mean, scaled.")
]
JobName = Annotated[
    str | None, typer.Option("--job", help="Which job, if the manifest has several.")
]
History = Annotated[
    Path | None, typer.Option(help="A cluster job's history.jsonl: its work per step.")
]
PolicyFile = Annotated[Path | None, typer.Option(help="Policy file for allocation.policy ppo.")]
OneByOneToo = Annotated[
    bool, typer.Option("--one-by-one", help="Train as devices do, one client after another.")
]


def _picture(path: Path | None) -> Path | None:
    """Refuses a picture of a kind that there is not, before anything runs."""
    if path is not None:
        from lockstep_pictures.files import check_suffix  # noqa: PLC0415 - altair takes a second

        if (wrong := check_suffix(path, option="--plot")) is not None:
            raise typer.BadParameter(wrong)
    return path


Plot = Annotated[
    Path | None,
    typer.Option(help="A picture of what came of it: .png, .svg or .html.", callback=_picture),
]


@app.callback()
def _commands() -> None:
    """A FederatedJob in one process: a cluster's manifest, on a virtual clock."""


@app.command()
def simulate(
    job: JobFile,
    *,
    data: Data = None,
    standardise: Standardise = False,
    strategy: Annotated[str | None, typer.Option(help="strategy.name")] = None,
    rounds: Annotated[int | None, typer.Option(help="training.rounds", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="training.seed", min=0)] = None,
    set_: Sets = None,
    name: JobName = None,
    traces: TracesOf = None,
    failures: Failures = 0.0,
    work_per_step: WorkPerStep = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the work of a step anew.")
    ] = False,
    history: History = None,
    plans: Annotated[
        Path | None, typer.Option(help="The same: its plans are played again, with its work.")
    ] = None,
    policy: PolicyFile = None,
    one_by_one: OneByOneToo = False,
    processes: Annotated[
        int | None,
        typer.Option(help="That train; all cores when empty. Results are the same.", min=1),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object a round, then one with the summary.")
    ] = False,
    save_model: Annotated[
        Path | None, typer.Option(help="Where to write the final model (safetensors).")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(help="A folder for history.jsonl and clients.json, as on a job's volume."),
    ] = None,
    plot: Plot = None,
) -> None:
    """Run a FederatedJob in this process: its plans, its training, a virtual clock and energy."""
    said = {"strategy.name": strategy, "training.rounds": rounds, "training.seed": seed}
    sets = [
        *(set_ or []),
        *(f"{path}={value}" for path, value in said.items() if value is not None),
    ]
    options = Options(
        memory=memory_file(),
        work_per_step=work_per_step,
        measure=measure,
        history=history,
        plans=plans,
        policy=policy,
        failures=failures,
        one_by_one=one_by_one,
        processes=usable_cores() if processes is None else processes,
    )
    with explained() as told:
        file = None if data is None else DataFile(data, standardise=standardise)
        manifest = read_manifest(job, sets, name=name, traces=traces, data=file)
        setup = setup_of(manifest, options, say=told.print)
        ended = _shown(setup, told, as_json=json_, model=save_model, records=records)
        if plot is not None and ended.rounds:
            draw_run(setup, ended.rounds, path=plot)
    raise typer.Exit(_CODES.get(ended.result, 0))


def _shown(
    setup: Setup, told: Console, *, as_json: bool, model: Path | None, records: Path | None
) -> Ended:
    """Runs a simulation, and shows what comes of it."""
    out = Console(highlight=False)
    began, rounds = time.monotonic(), setup.spec.training.rounds
    with showing(told if as_json else out, rounds=rounds, quiet=as_json) as show:

        def each(done: SimulatedRound) -> None:
            if as_json:
                _print_json(round_json(done))
            show(done)

        ended = run(setup, show=each, model=model, records=records)
    if ended.result == FAILED or not ended.rounds:
        told.print(f"error: {ended.message}", style="red", soft_wrap=True)
    if ended.rounds:
        summary = summed_up(
            ended.rounds,
            result=ended.result,
            message=ended.message,
            work_per_step=ended.work_per_step,
        )
        if as_json:
            _print_json(summary_json(summary))
        else:
            out.print(table(summary, real_s=time.monotonic() - began), markup=False, soft_wrap=True)
    return ended


def draw_run(setup: Setup, rounds: list[SimulatedRound], *, path: Path) -> None:
    """Draws a run.

    Raises:
        OSError: it cannot be written.
    """
    from lockstep_pictures.figures import JobParts, figures_of  # noqa: PLC0415 - as above
    from lockstep_simulator.plots import plot_run  # noqa: PLC0415

    spec = setup.spec
    title = (
        f"{setup.name}: strategy {spec.strategy.name}, {spec.clients()} devices, "
        f"frequencies by {spec.allocation.policy}"
    )
    parts = JobParts(name=setup.name, spec=spec)
    plot_run(figures_of(parts, [one.record for one in rounds]), path, title=title)


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, separators=(",", ":")))


def read_manifest(
    file: Path,
    sets: list[str],
    *,
    name: str | None = None,
    traces: Path | None = None,
    data: DataFile | None = None,
) -> Manifest:
    """The job of a manifest.

    Raises:
        Refused: it cannot be read, or a cluster would refuse it.
    """
    beside = None if traces is None else read_traces(traces)
    return load_manifest(read_text(file), sets=sets, traces=beside, job=name, data=data)


class _Command(TyperCommand):
    """`--parallel` without a number means all cores."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the number in."""
        bare = [
            place
            for place, one in enumerate(args)
            if one == "--parallel" and not "".join(args[place + 1 : place + 2]).isdecimal()
        ]
        for place in reversed(bare):
            args[place] = f"--parallel={usable_cores()}"
        return super().parse_args(ctx, args)


@app.command(cls=_Command)
def sweep(
    job: JobFile,
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="path=one,two: each value is run (repeatable: each with each)."),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="training.seed of the runs of each setting: 0,1,2 or 0-9.")
    ] = "",
    parallel: Annotated[
        int | None,
        typer.Option(help="Runs at a time; as many as there are cores when empty.", min=1),
    ] = None,
    out: Annotated[Path, typer.Option(help="The csv: a row for each run and round.")] = Path(
        "sweep.csv"
    ),
    plot: Plot = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the runs that the csv has already.")
    ] = False,
    rounds: Annotated[int | None, typer.Option(help="training.rounds", min=1)] = None,
    data: Data = None,
    standardise: Standardise = False,
    name: JobName = None,
    traces: TracesOf = None,
    failures: Failures = 0.0,
    work_per_step: WorkPerStep = None,
    history: History = None,
    policy: PolicyFile = None,
    one_by_one: OneByOneToo = False,
) -> None:
    """Run a FederatedJob with each combination of values and each seed: a csv and a picture."""
    options = Options(
        memory=memory_file(),
        work_per_step=work_per_step,
        history=history,
        policy=policy,
        failures=failures,
        one_by_one=one_by_one,
    )
    with explained() as told:
        base = Base(
            text=read_text(job),
            traces={} if traces is None else read_traces(traces),
            job=name,
            data=None if data is None else DataFile(data, standardise=standardise),
            options=options,
            sets=() if rounds is None else (f"training.rounds={rounds}",),
        )
        runs = cases(set_ or [], read_seeds(seeds) if seeds else [])
        kept = read_rows(out) if resume else {}
        ready = prepared(base, runs, kept=kept, say=told.print)
        _swept(ready, out, parallel=parallel or usable_cores(), told=told)
        drawn = plot or out.with_suffix(".png")
        if draw(ready, drawn, name=job.stem):
            told.print(f"{out} and {drawn} are written", soft_wrap=True, markup=False)
        typer.echo(table_of(ready))
        for sentence in (failed := failures_of(ready)):
            told.print(f"failed: {sentence}", style="red", soft_wrap=True, markup=False)
    raise typer.Exit(1 if failed else 0)


@app.command("explain-cut")
def explain_cut(
    *,
    file: Annotated[
        Path, typer.Option("--filename", "-f", help="The manifest of a job of mode split.")
    ],
    set_: Sets = None,
    name: JobName = None,
    data: Data = None,
) -> None:
    """Tell where a job's model can be cut for split training, what that means, what auto takes."""
    with explained() as told:
        examples = None if data is None else DataFile(data)
        spec = read_manifest(file, set_ or [], name=name, data=examples).spec
        dataset = load_examples(spec, say=told.print)
        typer.echo(explained_cuts(adapted(spec, dataset), dataset))


def _swept(ready: Sweep, out: Path, *, parallel: int, told: Console) -> None:
    """Runs a sweep; Ctrl-C ends it with what there is."""
    try:
        with showing_runs(told, ready) as progress:
            run_all(ready, out, parallel=parallel, progress=progress)
    except KeyboardInterrupt as error:
        done = len(ready.outcomes)
        told.print(f"stopped: {out} has {done} of {len(ready.runs)} runs, --resume goes on with it")
        raise typer.Exit(130) from error


def _standard_error(*_: object) -> structlog.PrintLogger:
    """Where it is when something is logged: whoever runs this in a process may replace it."""
    return structlog.PrintLogger(sys.stderr)


@contextmanager
def explained() -> Iterator[Console]:
    """For what people are told beside results; errors that they can mend end the program."""
    told = Console(stderr=True, highlight=False)
    structlog.configure(logger_factory=_standard_error)
    try:
        yield told
    except BadSetting as error:
        told.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error
    except Refused as error:
        for sentence in error.sentences:
            told.print(f"error: {sentence}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error
    except (JobFailed, OSError) as error:
        told.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error


def memory_file() -> Path:
    """Where the work of steps that was measured is kept."""
    return cache_folder() / "work-per-step.json"
