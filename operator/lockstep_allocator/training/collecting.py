"""Plays windows of rounds with a policy and says what its actions were worth (CN113312169B).

What an action is worth the simulator says itself: each device's action is compared with other
actions of the same device in the same round, while the others keep to their means (difference
rewards, Wolpert & Tumer 2001; counterfactual baseline, Foerster et al. 2018). That leaves no noise
of the traces in the credit; with discount 0, which rounds that couple only through their start time
allow, it needs no critic. With a discount, GAE credits the played actions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lockstep_allocator.baselines import equalize_10s
from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import Fleet, run_round
from lockstep_allocator.forecast import Forecaster
from lockstep_allocator.networks import Weights, set_network
from lockstep_allocator.policy import (
    Situation,
    asked_compute_s,
    clipped_position,
    compute_at,
    situation,
)
from lockstep_allocator.scenarios import Random
from lockstep_allocator.training.window import Frame, PpoSettings, Window


def gae(
    rewards: Array,
    values: Array,
    *,
    next_values: Array,
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
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


def marginal_costs(fleet: Fleet, start_s: Array, *, compute_s: Array, tried_s: Array) -> Array:
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
    at: Situation, fleet: Fleet, *, start_s: Array, actor: Actor, settings: PpoSettings,
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
    costs = marginal_costs(
        fleet, start_s, compute_s=mean_s, tried_s=np.concatenate([tried_s, even_s[..., None]], -1)
    )
    devices = fleet.devices
    expected = at.finish_s + devices.weight * devices.joules(even_s).sum(-1, keepdims=True)
    reward = (costs[..., -1:] - costs[..., :-1]) / expected[..., None]
    chosen = -0.5 * noise**2 - math.log(actor.spread) - 0.5 * math.log(2 * math.pi)
    return Tried(actions=actions, log_probability=chosen, compute_s=tried_s, reward=reward)


def collect(fleet: Fleet, actor: Actor, *, settings: PpoSettings, random: Random) -> Window:
    """Plays `window` rounds after one of the equaliser's, and credits every action."""
    at_s = np.zeros((len(fleet.which), 1))
    first = run_round(fleet, at_s, ghz=equalize_10s(fleet.observe(at_s)))
    at_s = at_s + first.seconds[:, None]
    last = fleet.met_mbps(first)
    situations: list[Situation] = []
    rounds: list[Tried] = []
    values: list[Array] = []
    for _ in range(settings.window + 1):
        at = situation(actor.forecaster, fleet.observe(at_s, last))
        values.append(set_network(actor.critic, at.features)[..., 0].astype(float))
        if len(values) > settings.window:
            break
        tried = try_actions(at, fleet, start_s=at_s, actor=actor, settings=settings, random=random)
        done = run_round(fleet, at_s, ghz=fleet.devices.work / tried.compute_s[..., 0])
        situations.append(at)
        rounds.append(tried)
        at_s = at_s + done.seconds[:, None]
        last = fleet.met_mbps(done)
    return window_of(situations, rounds, values=values, settings=settings)


def window_of(
    situations: Sequence[Situation],
    rounds: Sequence[Tried],
    *,
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
        reward,
        value[:-1],
        next_values=value[1:],
        terminated=ends,
        truncated=cut,
        discount=settings.discount,
        trace_decay=settings.trace_decay,
    )
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
