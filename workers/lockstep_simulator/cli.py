"""`lockstep`: a FederatedJob without a cluster.

Results go to stdout, progress and errors to stderr.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console

from lockstep_simulator.manifest import DataFile, Manifest, Refused, load_manifest, read_traces
from lockstep_simulator.preparing import Options, setup_of
from lockstep_simulator.processes import usable_cores
from lockstep_simulator.progress import showing, table
from lockstep_simulator.running import FAILED, INTERRUPTED, Ended, run
from lockstep_simulator.simulation import Setup, SimulatedRound
from lockstep_simulator.summing_up import round_json, summary_json, summed_up
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


@app.callback()
def _commands() -> None:
    """A FederatedJob in one process: a cluster's manifest, on a virtual clock."""


@app.command()
def simulate(
    job: JobFile,
    *,
    data: Data = None,
    standardise: Annotated[
        bool, typer.Option("--standardise", help="Each feature of --data less its mean, scaled.")
    ] = False,
    strategy: Annotated[str | None, typer.Option(help="strategy.name")] = None,
    rounds: Annotated[int | None, typer.Option(help="training.rounds", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="training.seed", min=0)] = None,
    set_: Sets = None,
    name: Annotated[
        str | None, typer.Option("--job", help="Which job, if the manifest has several.")
    ] = None,
    traces: TracesOf = None,
    failures: Failures = 0.0,
    work_per_step: WorkPerStep = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the work of a step anew.")
    ] = False,
    history: Annotated[
        Path | None, typer.Option(help="A cluster job's history.jsonl: its work per step.")
    ] = None,
    plans: Annotated[
        Path | None, typer.Option(help="The same: its plans are played again, with its work.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Policy file for allocation.policy ppo.")
    ] = None,
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one", help="Train as devices do, one client after another.")
    ] = False,
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
        ended = _shown(setup, told, as_json=json_, model=save_model)
    raise typer.Exit(_CODES.get(ended.result, 0))


def _shown(setup: Setup, told: Console, *, as_json: bool, model: Path | None) -> Ended:
    """Runs a simulation, and shows what comes of it."""
    out = Console(highlight=False)
    began, rounds = time.monotonic(), setup.spec.training.rounds
    with showing(told if as_json else out, rounds=rounds, quiet=as_json) as show:

        def each(done: SimulatedRound) -> None:
            if as_json:
                _print_json(round_json(done))
            show(done)

        ended = run(setup, show=each, model=model)
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
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused([f"cannot read {file}: {error}"]) from error
    beside = None if traces is None else read_traces(traces)
    return load_manifest(text, sets=sets, traces=beside, job=name, data=data)


@contextmanager
def explained() -> Iterator[Console]:
    """For what people are told beside results; errors that they can mend end the program."""
    told = Console(stderr=True, highlight=False)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        yield told
    except Refused as error:
        for sentence in error.sentences:
            told.print(f"error: {sentence}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error
    except (JobFailed, OSError) as error:
        told.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error


def memory_file() -> Path:
    """Where the work of steps that was measured is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "lockstep" / "work-per-step.json"


def main() -> None:
    """The program `lockstep`; the user's own model and data may lie in the current folder."""
    sys.path.insert(0, "")
    app()


if __name__ == "__main__":
    main()
