"""Windows of rounds for PPO, collected by several processes at once.

What is drawn depends on the seed alone, not on the number of processes.
"""

import math
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from lockstep_allocator.fleet import Fleet
from lockstep_allocator.scenarios import Pool, Random, Scenario, draw_fleet, paper, varied
from lockstep_allocator.training.collecting import Actor, collect
from lockstep_allocator.training.window import PpoSettings, Window

_SCENARIO_CHANCES = (0.6, 0.2, 0.2)
"""Of paper, phones and varied."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Draw:
    """Where the fleets of a run come from."""

    pool: Pool
    """Traces to train on."""
    phones: Scenario
    """Devices with measured power; the others are of `paper` and `varied`."""
    devices: tuple[int, int]
    """Fewest and most devices of a fleet, drawn log-uniformly."""
    energy_weight: tuple[float, float]
    """Least and greatest energy weight, drawn log-uniformly."""
    rows: int
    """Devices in a group."""
    ppo: PpoSettings
    """The algorithm."""

    def fleets(self, random: Random) -> Fleet:
        """A group of fleets of one size."""
        few, many = self.devices
        size = round(math.exp(random.uniform(math.log(few), math.log(many))))
        envs = max(4, self.rows // size)
        low, high = self.energy_weight
        weight = np.exp(random.uniform(math.log(low), math.log(high), (envs, 1)))
        scenarios: tuple[Scenario, ...] = (paper, self.phones, varied)
        scenario = scenarios[random.choice(3, p=_SCENARIO_CHANCES)]
        alike = bool(random.random() < 0.5)
        return draw_fleet(
            scenario,
            self.pool,
            shape=(envs, size),
            energy_weight=weight,
            random=random,
            alike=alike,
        )

    def window(self, actor: Actor, seed: np.random.SeedSequence) -> Window:
        """The window of a group."""
        random = np.random.default_rng(seed)
        return collect(self.fleets(random), actor, settings=self.ppo, random=random)


class Rollouts:
    """Collects windows in `cores` processes; a context, at whose end they are gone."""

    def __init__(self, draw: Draw, *, seed: int, cores: int) -> None:
        self._draw = draw
        self._seeds = np.random.SeedSequence(seed)
        self._processes: ProcessPoolExecutor | None = None
        if cores > 1:
            spawn = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(cores, spawn, _begin, (draw,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *about: object) -> None:
        if self._processes is not None:
            self._processes.shutdown()

    def windows(self, actor: Actor, groups: int) -> list[Window]:
        """A window of rounds for each of so many groups, all played by one actor."""
        seeds = self._seeds.spawn(groups)
        if self._processes is None:
            return [self._draw.window(actor, seed) for seed in seeds]
        packed = self._processes.map(partial(_packed_window, actor), seeds)
        return [pickle.loads(one) for one in packed]


_here: list[Draw] = []
"""What a collecting process draws from."""


def _begin(draw: Draw) -> None:
    torch.set_num_threads(1)
    # Each process has a core of its own: more threads would only wait for it.
    threadpool_limits(1)  # type: ignore[no-untyped-call]
    _here.append(draw)


def _packed_window(actor: Actor, seed: np.random.SeedSequence) -> bytes:
    """Packed here: the executor would pass tensors by file descriptors."""
    return pickle.dumps(_here[0].window(actor, seed))
