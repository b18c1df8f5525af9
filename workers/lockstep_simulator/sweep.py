"""`lockstep sweep`: a job with other values and seeds, into one csv and one picture.

Invariant: what stands in the csv does not depend on how many runs go on at a time: each has its own
process with one thread, and the work of a step is measured before, with nothing beside it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from lockstep_admission.errors import Refused
from lockstep_api.spec import Mode
from lockstep_simulator.grid import Case
from lockstep_simulator.half_work import measure_fronts
from lockstep_simulator.manifest import DataFile, Manifest, Traces, load_manifest
from lockstep_simulator.parallel import Came, Over, tasks_in_processes
from lockstep_simulator.preparing import Options, setup_of
from lockstep_simulator.rows import Outcome, Row, row_of, write_rows
from lockstep_simulator.simulation import settings_of, simulate
from lockstep_simulator.trainers import build_clients
from lockstep_workers.errors import JobFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What all runs of a sweep have in common."""

    text: str
    """The manifest."""
    traces: Traces
    job: str | None
    data: DataFile | None
    options: Options
    sets: Sequence[str] = ()
    """What all runs change of the manifest."""

    def manifest(self, case: Case) -> Manifest:
        """The job of one run.

        Raises:
            Refused: a cluster would refuse it.
        """
        return load_manifest(
            self.text,
            sets=[*self.sets, *case.sets()],
            traces=self.traces,
            job=self.job,
            data=self.data,
        )


@dataclass(frozen=True, slots=True)
class Task:
    """A run, as a process is told it."""

    base: Base
    case: Case


def rounds_of(task: Task) -> Iterator[Row]:
    """The rounds of a run, in the process that runs it."""
    torch.set_num_threads(1)
    setup = setup_of(task.base.manifest(task.case), task.base.options)
    return map(row_of, simulate(setup))


@dataclass(slots=True, kw_only=True)
class Sweep:
    """A sweep under way."""

    runs: list[tuple[str, Case]]
    """Id → run, in order."""
    tasks: dict[str, Task]
    """Those that can be run."""
    outcomes: dict[str, Outcome]
    """Those that are over."""
    rounds: dict[str, int]
    """How many each has at most."""


Say = Callable[[str], None]


def prepared(base: Base, cases: Sequence[Case], *, kept: Mapping[str, Outcome], say: Say) -> Sweep:
    """Checks all runs, and measures what a step takes where it is not given.

    Args:
        base: what they have in common.
        cases: the runs.
        kept: id → run that is over already.
        say: told what takes time.

    Raises:
        InvalidJob: the data cannot be had.
    """
    sweep = Sweep(runs=[], tasks={}, outcomes={}, rounds={})
    works: dict[str, float] = {}
    for case in cases:
        try:
            manifest = base.manifest(case)
            of_case = _with_work(base, manifest, works=works, say=say)
        except (Refused, JobFailed) as error:
            run = _id({"case": [*case.values, case.seed], "text": base.text})
            sweep.outcomes[run] = Outcome(error="; ".join(str(error).splitlines()))
        else:
            run = _id_of(of_case, manifest, case=case)
            sweep.tasks[run] = Task(of_case, case)
            if run in kept:
                sweep.outcomes[run] = kept[run]
            sweep.rounds[run] = manifest.spec.training.rounds
        sweep.runs.append((run, case))
    return sweep


def _with_work(base: Base, manifest: Manifest, *, works: dict[str, float], say: Say) -> Base:
    """The base with a given work per step: what was measured for another run like this one."""
    options, spec = base.options, manifest.spec
    if (options.work_per_step, options.history, options.plans) != (None, None, None):
        return base
    model, data = spec.model.to_json(), spec.data.model_dump_json(exclude={"partition"})
    alike = repr((model, data, spec.training.batch_size, spec.training.momentum > 0))
    if alike not in works:
        setup = setup_of(manifest, options, say=say)
        job = settings_of(setup)
        clients = build_clients(job, setup.dataset)
        works[alike] = median(setup.work(clients).values())
        if spec.mode is Mode.SPLIT:
            measure_fronts(job, next(iter(clients.values())), memory=options.memory)
    measured = replace(options, work_per_step=works[alike], is_measured=True, measure=False)
    return replace(base, options=measured)


def _id_of(base: Base, manifest: Manifest, *, case: Case) -> str:
    """What tells a run apart: all that its rounds depend on, and what its row says."""
    files = [base.options.history, base.options.plans, base.options.policy]
    files.append(base.data.path if base.data is not None else None)
    return _id(
        {
            "spec": manifest.spec.model_dump(mode="json"),
            "traces": {name: dict(data) for name, data in manifest.traces.items()},
            "case": [*case.values, case.seed],
            "work": base.options.work_per_step,
            "failures": base.options.failures,
            "one_by_one": base.options.one_by_one,
            "files": [None if one is None else _digest(one) for one in files],
        }
    )


def _id(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Progress:
    """Told of a sweep as it goes; does nothing."""

    def round(self, case: Case, row: Row) -> None:
        """A run has finished a round."""

    def over(self, case: Case, outcome: Outcome, *, unplayed: int) -> None:
        """A run is over, so many rounds before the most that it could have."""


def run_all(sweep: Sweep, out: Path, *, parallel: int, progress: Progress) -> None:
    """Runs what is not over yet, and writes the csv after each run.

    Raises:
        OSError: the csv cannot be written.
    """
    write_rows(out, sweep.runs, outcomes=sweep.outcomes)
    waiting = [(run, case) for run, case in sweep.runs if run not in sweep.outcomes]
    rows: dict[int, list[Row]] = {}
    tasks = [sweep.tasks[run] for run, _ in waiting]
    for event in tasks_in_processes(rounds_of, tasks, parallel=parallel):
        run, case = waiting[event.task]
        done = rows.setdefault(event.task, [])
        match event:
            case Came(piece=row):
                done.append(row)
                progress.round(case, row)
            case Over(error=error):
                outcome = Outcome(tuple(done), error or "")
                sweep.outcomes[run] = outcome
                progress.over(case, outcome, unplayed=sweep.rounds[run] - len(done))
                write_rows(out, sweep.runs, outcomes=sweep.outcomes)


def by_setting(sweep: Sweep) -> Mapping[str, list[Outcome]]:
    """Setting → the outcomes of its runs, one a seed, without those that failed before round 1."""
    found: dict[str, list[Outcome]] = {}
    for run, case in sweep.runs:
        if run in sweep.outcomes and sweep.outcomes[run].rows:
            found.setdefault(case.label(), []).append(sweep.outcomes[run])
    return found
