"""From a manifest and what is said beside it to a simulation's setup; the CLI's commands call it.

What is not in the manifest (work per step, plans, a policy) is an option.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lockstep_allocator.policy import InvalidPolicy, Policy, read_policy
from lockstep_api.spec import Mode
from lockstep_api.wire import RoundReport
from lockstep_simulator.examples import adapted, load_examples
from lockstep_simulator.half_work import HalvesOf, halves_from_history, halves_on_this_machine
from lockstep_simulator.manifest import Manifest
from lockstep_simulator.replay import Replay, read_history
from lockstep_simulator.simulation import Setup, WorkOf, one_by_one, together
from lockstep_simulator.work import from_history, given, on_this_machine
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.client import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a simulation is told beside its manifest."""

    memory: Path
    """Where the work that was measured is kept."""
    work_per_step: float | None = None
    """Core-seconds of a step; None: as the history says, or measured."""
    is_measured: bool = False
    """Whether that was measured here, for a sweep."""
    measure: bool = False
    """Measures it anew."""
    history: Path | None = None
    """A cluster job's, for work per step."""
    plans: Path | None = None
    """A cluster job's history, whose plans are played again."""
    policy: Path | None = None
    failures: float = 0.0
    one_by_one: bool = False
    processes: int = 1


def setup_of(
    manifest: Manifest, options: Options, *, say: Callable[[str], None] = lambda _: None
) -> Setup:
    """The simulation of a job.

    Args:
        manifest: the job.
        options: what is said beside it.
        say: told what takes time, or looks wrong.

    Raises:
        InvalidJob: a file cannot be used, or the job's data cannot be had.
    """
    dataset = load_examples(manifest.spec, say=say)
    spec = adapted(manifest.spec, dataset)
    if options.plans is not None and spec.mode is not Mode.FEDERATED:
        raise InvalidJob(
            f"--plans: rounds of mode {spec.mode} are not played again; leave it out, or give the "
            "history with --history"
        )
    plans = None if options.plans is None else _history(options.plans)
    return Setup(
        spec=spec,
        dataset=dataset,
        work=_work(options, plans=plans),
        halves=_halves(options) if spec.mode is Mode.SPLIT else None,
        name=manifest.name,
        namespace=manifest.namespace,
        traces=manifest.traces,
        policy=_policy(options.policy),
        failures=options.failures,
        planner=None if plans is None else Replay.of(spec, plans),
        way=one_by_one if options.one_by_one else together,
        processes=options.processes,
    )


def _work(options: Options, *, plans: list[RoundReport] | None) -> WorkOf:
    if options.work_per_step is not None:
        return given(options.work_per_step)
    reports = plans if options.history is None else _history(options.history)
    if reports is not None:
        return partial(_from_history, reports=reports)
    return partial(on_this_machine, memory=options.memory, anew=options.measure)


def _halves(options: Options) -> HalvesOf | None:
    if options.work_per_step is not None and not options.is_measured:
        return None
    if options.history is None:
        return partial(halves_on_this_machine, memory=options.memory, anew=options.measure)
    reports = _history(options.history)
    return lambda clients, _: halves_from_history(clients, reports)


def _from_history(
    clients: Mapping[str, Client], *, reports: list[RoundReport]
) -> Mapping[str, float]:
    return from_history(clients, reports)


def _history(file: Path) -> list[RoundReport]:
    try:
        return read_history(file.read_text(encoding="utf-8"), source=str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidJob(f"cannot read the history {file}: {error}") from error


def _policy(file: Path | None) -> Policy | None:
    if file is None:
        return None
    try:
        return read_policy(file)
    except (InvalidPolicy, OSError) as error:
        raise InvalidJob(f"--policy {file}: {error}") from error
