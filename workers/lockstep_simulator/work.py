"""How much CPU a step of a job's training takes: measured here, given, or from a cluster's history.

The CLI asks once, before round 1. In core-seconds of one thread, by client.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

import torch

from lockstep_api.spec import FrontUpdate
from lockstep_api.wire import RoundReport
from lockstep_simulator.emulation import USUAL
from lockstep_workers.errors import InvalidJob
from lockstep_workers.files import write_whole
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.front import front_half
from lockstep_workers.learning.training import train

Work = Mapping[str, float]
"""Client → core-seconds of a step."""

_MEASURED_S = 1.0
_STEPS = 8
"""Steps between two looks at the clock."""


def measured(
    clients: Mapping[str, Client],
    *,
    cpu: Callable[[], float] = time.process_time,
    seconds: float = _MEASURED_S,
) -> Work:
    """What this machine needs for the first client's steps, on one thread; for all clients.

    The client's model is trained meanwhile, and stands where it stood afterwards.
    """
    client = next(iter(clients.values()))
    before = client.model.vector.clone()
    _steps(client)  # the first ones load code and warm caches
    began, done = cpu(), 0
    while (used := cpu() - began) < seconds or not done:
        _steps(client)
        done += _STEPS
    client.model.vector.copy_(before)
    return dict.fromkeys(clients, used / done)


def on_this_machine(clients: Mapping[str, Client], *, memory: Path, anew: bool = False) -> Work:
    """As `measured`, but once: what was measured is kept in the file `memory`.

    So a simulation that is done again has the same times. `anew` forgets it.
    """
    key = _key(next(iter(clients.values())))
    measure = partial(_first_of, clients)
    return dict.fromkeys(clients, _remembered(key, measure, memory=memory, anew=anew))


def front_on_this_machine(client: Client, layer: str, *, memory: Path, anew: bool = False) -> float:
    """What the front half of a step takes, cut behind this layer; measured once, and kept."""
    key, measure = f"{_key(client)}/{layer}", partial(_front, client, layer)
    return _remembered(key, measure, memory=memory, anew=anew)


def _first_of(clients: Mapping[str, Client]) -> float:
    return next(iter(measured(clients).values()))


def _front(client: Client, layer: str) -> float:
    half = front_half(client, layer, update=FrontUpdate.STEP)

    def run() -> None:
        for step in range(_STEPS):
            made, _ = half.forward(0, step, batch_size=client.sgd.batch_size)
            half.backward(made)

    run()  # loads code and warms caches
    began, done = time.process_time(), 0
    while (used := time.process_time() - began) < _MEASURED_S / 2 or not done:
        run()
        done += _STEPS
    return used / done


def _remembered(key: str, measure: Callable[[], float], *, memory: Path, anew: bool) -> float:
    kept = _kept(memory)
    if anew or key not in kept:
        kept[key] = measure()
        with suppress(OSError):  # a folder that cannot be written to: it is measured each time
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_whole(memory, json.dumps(kept, indent=1).encode())
    return kept[key]


def _kept(memory: Path) -> dict[str, float]:
    try:
        found = json.loads(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    numbers = found.items() if isinstance(found, dict) else ()
    return {key: one for key, one in numbers if isinstance(one, float) and one > 0}


def _key(client: Client) -> str:
    """What the work of a step depends on."""
    shape, kind = client.examples.inputs.shape[1:], client.examples.inputs.dtype
    batch = min(client.sgd.batch_size, len(client.examples))
    parts = [client.model.module, shape, kind, batch, client.sgd.momentum > 0, torch.__version__]
    text = "\n".join(str(part) for part in [*parts, platform.machine(), _cpu()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "")


def given(seconds: float) -> Callable[[Iterable[str]], Work]:
    """The same for all clients."""
    return lambda clients: dict.fromkeys(clients, seconds)


def _steps(client: Client) -> None:
    sgd, examples = client.sgd, client.examples
    train(client.model, examples, steps=_STEPS, sgd=sgd, correction=None, seed=(0,))


def from_history(
    clients: Iterable[str], reports: Iterable[RoundReport], *, aside_s: float = USUAL.aside_s
) -> Work:
    """The median over the rounds of each client; one that never took part has that of the others.

    Of a training `aside_s` core-seconds are none of its steps, half of all at most.

    Raises:
        InvalidJob: nobody took part.
    """
    seen: dict[str, list[float]] = {}
    for report in reports:
        for one in report.clients:
            update = one.update
            cpu_s = max(update.cpu_seconds - aside_s, update.cpu_seconds / 2)
            seen.setdefault(update.client, []).append(cpu_s / update.steps)
    if not seen:
        raise InvalidJob("the history has no round with an update: give one of a job that trained")
    of = {client: median(values) for client, values in seen.items()}
    usual = median(of.values())
    return {client: of.get(client, usual) for client in clients}
