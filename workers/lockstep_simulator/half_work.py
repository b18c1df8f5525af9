"""How much CPU an example takes in either half of a model, in core-seconds of one thread.

`splitting` asks once the planner has said where the model is cut. It is given (of the whole model,
and dealt out by operations), taken from a cluster's history, or measured here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lockstep_api.settings import JobSettings
from lockstep_api.tiers import CutCandidate
from lockstep_api.wire import RoundReport
from lockstep_simulator.work import Work, front_on_this_machine, on_this_machine
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.cuts import candidates

_MOST_FRONT = 0.98
"""Of a step's work: two measurements differ."""


@dataclass(frozen=True, slots=True)
class HalfWork:
    """Core-seconds of an example, forward and backward."""

    front: Mapping[str, float]
    """By client."""
    back: float


HalvesOf = Callable[[Mapping[str, Client], CutCandidate], HalfWork]


def by_operations(clients: Mapping[str, Client], cut: CutCandidate, *, work: Work) -> HalfWork:
    """A step's work, dealt out by the operations of either half."""
    whole = cut.front_flops + cut.back_flops
    share = cut.front_flops / whole if whole else 0.5
    each = {name: work[name] / client.sgd.batch_size for name, client in clients.items()}
    front = {name: share * one for name, one in each.items()}
    return HalfWork(front, (1 - share) * median(each.values()))


def halves_on_this_machine(
    clients: Mapping[str, Client], cut: CutCandidate, *, memory: Path, anew: bool = False
) -> HalfWork:
    """A step's work as it was measured, less the front half's, which is measured once and kept."""
    client = next(iter(clients.values()))
    whole = next(iter(on_this_machine(clients, memory=memory).values()))
    found = front_on_this_machine(client, cut.layer, memory=memory, anew=anew)
    front, examples = min(found, _MOST_FRONT * whole), client.sgd.batch_size
    return HalfWork(dict.fromkeys(clients, front / examples), (whole - front) / examples)


def measure_fronts(job: JobSettings, client: Client, *, memory: Path) -> None:
    """Measures the front half of each cut, so that whoever asks later finds it kept."""
    own = job.model.entrypoint or job.model.front
    shape = client.examples.inputs.shape[1:]
    for cut in candidates(client.model.module, shape, entrypoint=own):
        front_on_this_machine(client, cut.layer, memory=memory)


def halves_from_history(clients: Iterable[str], reports: Iterable[RoundReport]) -> HalfWork:
    """The medians over the rounds; a client that never took part has that of the others.

    Raises:
        InvalidJob: it is not the history of a job in mode split.
    """
    seen: dict[str, list[float]] = {}
    back: list[float] = []
    for report in reports:
        for one in report.clients:
            if one.update.samples:
                work = one.update.cpu_seconds / one.update.samples
                seen.setdefault(one.update.client, []).append(work)
        back += [one.back_cpu_seconds / one.samples for one in report.clusters if one.samples]
    if not seen or not back:
        raise InvalidJob(
            "the history has no round of split training: give one of a job of mode split"
        )
    of = {client: median(values) for client, values in seen.items()}
    usual = median(of.values())
    return HalfWork({client: of.get(client, usual) for client in clients}, median(back))
