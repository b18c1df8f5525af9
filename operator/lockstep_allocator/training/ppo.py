"""PPO as pure functions: collect rounds, credit actions, one loss, one update (CN113312169B).

A window of rounds is played with the current policy, the policy is updated from it, and the window
is thrown away. What an action is worth the simulator says itself: each device's action is compared
with other actions of the same device in the same round, while the others keep to their means
(difference rewards, Wolpert & Tumer 2001; counterfactual baseline, Foerster et al. 2018). That
leaves no noise of the traces in the credit; with discount 0, which rounds that couple only through
their start time allow, it needs no critic. With a discount, GAE credits the played actions.

Loss: Schulman et al. 2017, eq. 7, the ratio clipped per device.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lockstep_allocator.baselines import equalize_10s
from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import Fleet, run_round
from lockstep_allocator.forecast import Forecaster
from lockstep_allocator.networks import Weights, set_network
from lockstep_allocator.policy import (
    OUTPUTS,
    POSITIONS,
    REACH,
    Situation,
    asked_compute_s,
    borders,
    clipped_position,
    compute_at,
    situation,
)
from lockstep_allocator.scenarios import Random
from lockstep_allocator.training.nets import SetNetwork


@dataclass(frozen=True, slots=True)
class PpoSettings:
    """Settings of the algorithm; the patent's numbers where it names them."""

    window: int = 20
    """Rounds between two updates (N in CN113312169B)."""
    actions: int = 8
    """Actions tried for each device and round; the first is played."""
    discount: float = 0.0
    """γ. Rounds couple only through their start time: 0 … 0.7 are sensible."""
    trace_decay: float = 0.95
    """λ of GAE; of use with a discount only."""
    clip: float = 0.2
    """ε of the clipped ratio."""
    epochs: int = 2
    """Passes over a window."""
    minibatches: int = 16
    """Steps of a pass."""
    target_kl: float = 1.0
    """A step that has moved the policy further ends the update: a guard, the clip does the work."""
    gradient_norm: float = 0.5
    """Gradients are clipped to this."""
    value_weight: float = 0.5
    """Weight of the value loss."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Window:
    """Rounds of one group of fleets, rows = rounds × environments."""

    features: Tensor
    """(B, N, F)."""
    frame: "Frame"
    """What turns outputs into positions, (B, N)."""
    actions: Tensor
    """(B, N, K) logits of positions."""
    log_probability: Tensor
    """(B, N, K) under the policy that chose them."""
    advantage: Tensor
    """(B, N, K)."""
    returns: Tensor
    """(B, N) discounted reward from here on, of the played action."""

    def rows(self, index: Tensor) -> "Window":
        """Some of the rows."""
        return Window(
            features=self.features[index],
            frame=self.frame.rows(index),
            actions=self.actions[index],
            log_probability=self.log_probability[index],
            advantage=self.advantage[index],
            returns=self.returns[index],
        )

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Frame:
    """The equaliser's round and the borders, all (B, N)."""

    finish: Tensor
    upload: Tensor
    rest: Tensor
    shift: Tensor
    least: Tensor
    greatest: Tensor

    @classmethod
    def of(cls, at: Situation) -> "Frame":
        """From a situation."""
        least, greatest = borders(at.devices)
        rest = at.finish_s - at.seen.upload_s - at.seen.even.compute_s
        parts = {
            "finish": np.broadcast_to(at.finish_s, rest.shape), "upload": at.seen.upload_s,
            "rest": rest, "shift": at.shift_s, "least": least, "greatest": greatest,
        }  # fmt: skip
        return cls(**{n: torch.from_numpy(np.array(part, np.float32)) for n, part in parts.items()})

    def rows(self, index: Tensor) -> "Frame":
        """Some of the rows."""
        return Frame(**{name: getattr(self, name)[index] for name in Frame.__slots__})

    @staticmethod
    def stacked(frames: Sequence["Frame"]) -> "Frame":
        """One after the other."""
        return Frame(**{n: torch.cat([getattr(f, n) for f in frames]) for n in Frame.__slots__})


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


def log_probability(actions: Tensor, mean: Tensor, spread: float) -> Tensor:
    """(B, N, K) of Gaussian logits; the squashing is the same for all policies and cancels."""
    z = (actions - mean[..., None]) / spread
    return -0.5 * z**2 - math.log(spread) - 0.5 * math.log(2 * math.pi)


def gae(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    *,
    discount: float,
    trace_decay: float,
) -> Array:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16); all (T, …).

    A terminated step has no future; a truncated one has the value of its last observation
    (`next_values`), but nothing is carried over from beyond it.
    """
    if (
        not rewards.shape
        == values.shape
        == next_values.shape
        == terminated.shape
        == truncated.shape
    ):
        raise ValueError("gae: rewards, values and flags need one shape")
    advantage = np.zeros_like(rewards)
    following = np.zeros_like(rewards[0])
    for t in range(len(rewards) - 1, -1, -1):
        delta = rewards[t] + discount * next_values[t] * ~terminated[t] - values[t]
        carried = discount * trace_decay * ~(terminated[t] | truncated[t]) * following
        advantage[t] = following = delta + carried
    return advantage


# -- collecting ------------------------------------------------------------------------------


def marginal_costs(fleet: Fleet, start_s: Array, compute_s: Array, tried_s: Array) -> Array:
    """(E, N, K) cost of the round when one device takes another compute time, less the others'.

    cost_ik = second_cost·max(T without i, arrival of i) + λ·e_i, e_i for computing and sending:
    exact, and from the two latest arrivals alone.
    """
    devices = fleet.devices
    arrival = compute_s + fleet.upload_s(start_s, compute_s)
    latest_two = -np.partition(-arrival, min(1, arrival.shape[1] - 1), axis=1)[:, :2]
    latest = latest_two[:, :1]
    second = latest_two[:, 1:2] if arrival.shape[1] > 1 else np.zeros_like(latest)
    others = np.where(arrival >= latest, second, latest)[..., None]
    upload_s = fleet.upload_s(start_s, tried_s)
    round_s = devices.second_cost[..., None] * np.maximum(others, tried_s + upload_s)
    own = devices.joules(tried_s) + devices.sending(upload_s)
    return round_s + devices.weight[..., None] * own


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """What plays: forecaster, network, and how far it strays."""

    forecaster: Forecaster
    weights: Weights
    critic: Weights
    spread: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Tried:
    """Actions tried in the rounds of some fleets, and what each was worth."""

    actions: Array
    """(E, N, K) logits of positions."""
    log_probability: Array
    """(E, N, K) under the policy that chose them."""
    compute_s: Array
    """(E, N, K)."""
    reward: Array
    """(E, N, K) cost saved against the device's part of the equaliser's round, as a share of it."""

    @property
    def credit(self) -> Array:
        """(E, N, K) the reward less the mean over the device's other actions."""
        return np.asarray(self.reward - self.reward.mean(-1, keepdims=True))


def try_actions(
    at: Situation, fleet: Fleet, start_s: Array, *, actor: Actor, settings: PpoSettings,
    random: Random,
) -> Tried:  # fmt: skip
    """Draws and credits K actions for each device in rounds that begin at `start_s` (E, 1)."""
    outputs = set_network(actor.weights, at.features).astype(float)
    where = clipped_position(at.devices, asked_compute_s(at, outputs))
    mean_s, mean = compute_at(at.devices, where), np.log(where / (1 - where))
    noise = random.standard_normal((*mean.shape, settings.actions))
    actions = mean[..., None] + actor.spread * noise
    tried_s = compute_at(at.devices, 1 / (1 + np.exp(-actions)))
    even_s = at.seen.even.compute_s
    costs = marginal_costs(fleet, start_s, mean_s, np.concatenate([tried_s, even_s[..., None]], -1))
    devices = fleet.devices
    expected = at.finish_s + devices.weight * devices.joules(even_s).sum(-1, keepdims=True)
    reward = (costs[..., -1:] - costs[..., :-1]) / expected[..., None]
    chosen = -0.5 * noise**2 - math.log(actor.spread) - 0.5 * math.log(2 * math.pi)
    return Tried(actions=actions, log_probability=chosen, compute_s=tried_s, reward=reward)


def collect(fleet: Fleet, actor: Actor, settings: PpoSettings, random: Random) -> Window:
    """Plays `window` rounds after one of the equaliser's, and credits every action."""
    at_s = np.zeros((len(fleet.which), 1))
    first = run_round(fleet, at_s, equalize_10s(fleet.observe(at_s)))
    at_s = at_s + first.seconds[:, None]
    last = fleet.devices.upload / np.maximum(first.upload_s, 1e-9)
    situations: list[Situation] = []
    rounds: list[Tried] = []
    values: list[Array] = []
    for _ in range(settings.window + 1):
        at = situation(actor.forecaster, fleet.observe(at_s, last))
        values.append(set_network(actor.critic, at.features)[..., 0].astype(float))
        if len(values) > settings.window:
            break
        tried = try_actions(at, fleet, at_s, actor=actor, settings=settings, random=random)
        done = run_round(fleet, at_s, fleet.devices.work / tried.compute_s[..., 0])
        situations.append(at)
        rounds.append(tried)
        at_s = at_s + done.seconds[:, None]
        last = fleet.devices.upload / np.maximum(done.upload_s, 1e-9)
    return window_of(situations, rounds, values, settings)


def window_of(
    situations: Sequence[Situation],
    rounds: Sequence[Tried],
    values: Sequence[Array],
    settings: PpoSettings,
) -> Window:
    """The window of T rounds of the same fleets.

    Args:
        situations: (T) what was seen.
        rounds: (T) what was tried.
        values: (T + 1) the critic's values (E, N), the last of them after the last round.
        settings: of the algorithm.
    """
    value = np.array(values)
    reward = np.array([tried.reward[..., 0] for tried in rounds])
    ends = np.zeros(reward.shape, dtype=np.bool_)
    cut = ends.copy()
    cut[-1] = True  # training never ends by itself: the window is cut
    advantage = gae(
        reward, value[:-1], value[1:], ends, cut, discount=settings.discount,
        trace_decay=settings.trace_decay,
    )  # fmt: skip
    credited = np.array([tried.credit for tried in rounds])
    if settings.discount > 0:
        credited[:] = 0
        credited[..., 0] = advantage
    return Window(
        features=_rows(np.array([at.features for at in situations])),
        frame=Frame.stacked([Frame.of(at) for at in situations]),
        actions=_rows(np.array([tried.actions for tried in rounds])),
        log_probability=_rows(np.array([tried.log_probability for tried in rounds])),
        advantage=_rows(credited),
        returns=_rows(advantage + value[:-1]),
    )


def _rows(values: NDArray[np.floating]) -> Tensor:
    """(T, E, …) → (T·E, …)."""
    return torch.from_numpy(values.reshape(-1, *values.shape[2:]).astype(np.float32))


# -- learning --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What one loss was made of."""

    total: Tensor
    policy: float
    value: float
    kl: float
    clipped: float


def ppo_loss(
    actor: SetNetwork, critic: SetNetwork, batch: Window, *, spread: float, scale: float,
    settings: PpoSettings,
) -> Losses:  # fmt: skip
    """The clipped surrogate, summed over the devices of a fleet, and the value loss."""
    mean = mean_action(actor(batch.features), batch.frame)
    new = log_probability(batch.actions, mean, spread)
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
    optimizer: torch.optim.Optimizer,
    windows: Sequence[Window],
    *,
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
                ppo_loss(actor, critic, batch, spread=spread, scale=scale, settings=settings)
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


__all__ = [
    "Actor", "Policy", "PpoSettings", "Tried", "UpdateStats", "Window", "collect", "gae",
    "log_probability", "marginal_costs", "mean_action", "new_networks", "ppo_loss", "try_actions",
    "update", "window_of",
]  # fmt: skip
