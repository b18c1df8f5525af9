"""PPO's loss and its update, as pure functions (Schulman et al. 2017, eq. 7; CN113312169B).

`train` and `online` update actor and critic from windows of rounds that `collecting` made; a window
is thrown away after its update. The ratio is clipped per device.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lockstep_allocator.policy import OUTPUTS, POSITIONS, REACH
from lockstep_allocator.training.nets import SetNetwork
from lockstep_allocator.training.window import Frame, PpoSettings, Window


class _Clip(torch.autograd.Function):
    """A hard clip whose gradient passes outside the box when a descent step would lead back in."""

    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.box = (low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        low, high = ctx.box
        away = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
        return gradient * ~away, None, None


def mean_action(outputs: Tensor, frame: Frame) -> Tensor:
    """(B, N) the logit of the position that the network asks for; `policy` has it in NumPy."""
    a, d, g = (REACH * torch.tanh(outputs / REACH)).unbind(-1)
    compute = frame.finish * a.exp() - frame.upload * d.exp() - frame.rest + g * frame.shift
    compute = _Clip.apply(compute / frame.least, 0.3, 1e6)  # logarithms need a positive number
    where = compute.log() / (frame.greatest / frame.least).log()
    return torch.logit(_Clip.apply(where, *POSITIONS))


def log_probability(actions: Tensor, mean: Tensor, *, spread: float) -> Tensor:
    """(B, N, K) of Gaussian logits; the squashing is the same for all policies and cancels."""
    z = (actions - mean[..., None]) / spread
    return -0.5 * z**2 - math.log(spread) - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What one loss was made of."""

    total: Tensor
    policy: float
    value: float
    kl: float
    clipped: float


def ppo_loss(
    actor: SetNetwork, critic: SetNetwork, *, batch: Window, spread: float, scale: float,
    settings: PpoSettings,
) -> Losses:  # fmt: skip
    """The clipped surrogate, summed over the devices of a fleet, and the value loss."""
    mean = mean_action(actor(batch.features), batch.frame)
    new = log_probability(batch.actions, mean, spread=spread)
    difference = new - batch.log_probability
    ratio = difference.exp()
    limited = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    gain = torch.minimum(ratio * batch.advantage, limited * batch.advantage) / scale
    policy = -gain.mean(-1).sum(-1).mean()
    value = nn.functional.mse_loss(critic(batch.features)[..., 0], batch.returns) / scale**2
    with torch.no_grad():
        # Of the devices whose action made a difference: the others may drift, nothing holds them.
        mattered = batch.advantage.abs().amax(-1, keepdim=True) > 1e-4 * scale
        moved = (((ratio - 1) - difference) * mattered).sum()
        kl = float(moved / (mattered.sum() * ratio.shape[-1] + 1))
        clipped = ((ratio - 1).abs() > settings.clip).float().mean().item()
    return Losses(
        total=policy + settings.value_weight * value,
        policy=policy.item(),
        value=value.item(),
        kl=kl,
        clipped=clipped,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """One update."""

    policy_loss: float
    value_loss: float
    """Normalised: mean squared error of the critic over the variance of the returns."""
    kl: float
    clip_fraction: float


def update(
    actor: SetNetwork,
    critic: SetNetwork,
    *,
    optimizer: torch.optim.Optimizer,
    windows: Sequence[Window],
    spread: float,
    settings: PpoSettings,
    random: torch.Generator,
) -> Iterator[UpdateStats]:
    """Passes over the windows; yields after every step, so that the caller can average weights."""
    scale = float(torch.cat([window.advantage.flatten() for window in windows]).std()) + 1e-12
    returns = torch.cat([window.returns.flatten() for window in windows])
    variance = float(returns.var()) / scale**2 + 1e-12
    for _ in range(settings.epochs):
        orders = [torch.randperm(len(window), generator=random) for window in windows]
        for part in range(settings.minibatches):
            chosen = [
                window.rows(order[part :: settings.minibatches])
                for window, order in zip(windows, orders, strict=True)
            ]
            losses = [
                ppo_loss(actor, critic, batch=batch, spread=spread, scale=scale, settings=settings)
                for batch in chosen
            ]
            optimizer.zero_grad()
            torch.stack([loss.total for loss in losses]).mean().backward()  # type: ignore[no-untyped-call]
            for network in (actor, critic):
                nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_norm)
            optimizer.step()
            kl = float(np.mean([loss.kl for loss in losses]))
            yield UpdateStats(
                policy_loss=float(np.mean([loss.policy for loss in losses])),
                value_loss=float(np.mean([loss.value for loss in losses])) / variance,
                kl=kl,
                clip_fraction=float(np.mean([loss.clipped for loss in losses])),
            )
            if kl > settings.target_kl:
                return


def new_networks(features: int, *, seed: int) -> tuple[SetNetwork, SetNetwork]:
    """Actor and critic, before any training."""
    torch.manual_seed(seed)
    return SetNetwork(features, OUTPUTS), SetNetwork(features, 1, width=32)
