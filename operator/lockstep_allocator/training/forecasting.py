"""Fits the forecaster: the likelihood of upload times on the training traces."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import Fleet
from lockstep_allocator.forecast import Forecaster, forecast_features
from lockstep_allocator.observation import history_features
from lockstep_allocator.scenarios import Pool, Random, draw_fleet, paper
from lockstep_allocator.training.nets import ForecastNetwork, blend, exported

_ENVS, _DEVICES = 512, 8
_RATE = 1.5e-3
_AVERAGE = 300


@dataclass(frozen=True, slots=True)
class ForecastFit:
    """A fitted forecaster."""

    forecaster: Forecaster
    validation_loss: float
    """Negative log likelihood on the validation traces, nats."""


def fit_forecaster(
    train: Pool, validation: Pool, *, seed: int, seconds: float, tick: Callable[[str], None]
) -> ForecastFit:
    """Fits for `seconds`; the average of weights that is best on the validation traces is kept."""
    random = np.random.default_rng(seed)
    net = ForecastNetwork(_sample(train, random).features.shape[-1])
    average = copy.deepcopy(net).eval()
    optimizer = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=1e-3)
    held_out = [_batch(validation, np.random.default_rng(1)) for _ in range(4)]
    best, kept = float("inf"), exported(average)
    began, step, looked = time.monotonic(), 0, 0.0
    while (passed := time.monotonic() - began) < seconds:
        share = passed / seconds
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, step / 200) * (0.02 + 0.49 * (1 + np.cos(np.pi * share)))
        optimizer.zero_grad()
        net.loss(*_batch(train, random)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimizer.step()
        step += 1
        blend(average, net, share=1 / min(step + 1, _AVERAGE))
        if passed - looked > max(2.0, seconds / 40):
            looked = passed
            with torch.no_grad():
                loss = float(np.mean([average.loss(*batch).item() for batch in held_out]))
            if loss < best:
                best, kept = loss, exported(average)
            tick(f"forecaster: step {step}, validation {loss:.4f} nats")
    return ForecastFit(Forecaster(kept), best)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Uploads of devices, and what was known before them."""

    history: Array
    """(E, N, 20)."""
    upload_s: Array
    """(E, N) û."""
    compute_s: Array
    """(E, N)."""
    log_ratio: Array
    """(E, N) log(u/û)."""

    @property
    def features(self) -> NDArray[np.float32]:
        """(E, N, F) what the forecaster sees."""
        return forecast_features(self.history, self.upload_s, compute_s=self.compute_s)


def _sample(pool: Pool, random: Random) -> _Sample:
    """Devices that upload 0.25 … 25 MB."""
    shape = (_ENVS, _DEVICES)
    fleet: Fleet = draw_fleet(
        paper, pool, shape=shape, energy_weight=np.ones((_ENVS, 1)), random=random
    )
    size = np.exp(random.uniform(np.log(2), np.log(200), shape))
    size = np.where(random.random(shape) < 0.5, fleet.devices.upload, size)
    fleet = replace(fleet, devices=replace(fleet.devices, upload=size))
    at_s = np.zeros((_ENVS, 1))
    observation = fleet.observe(at_s)
    compute_s = np.exp(random.uniform(np.log(0.5), np.log(12), shape))
    upload_s = observation.upload_s(observation.recent_mbps)
    actual_s = fleet.upload_s(at_s, compute_s)
    history = history_features(observation.slots_mbps, observation.recent_mbps)
    return _Sample(
        history=history,
        upload_s=upload_s,
        compute_s=compute_s,
        log_ratio=np.log(actual_s / upload_s),
    )


def _batch(pool: Pool, random: Random) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = _sample(pool, random)
    return torch.from_numpy(drawn.features), torch.from_numpy(drawn.log_ratio.astype(np.float32))
