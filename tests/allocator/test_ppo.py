"""PPO: advantages and loss beside stable-baselines3's, credit by difference, and that it learns."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from lockstep_allocator.baselines import equalize_10s
from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import run_round
from lockstep_allocator.policy import FEATURES
from lockstep_allocator.scenarios import Pool, generic_phones, phones_of
from lockstep_allocator.training.collecting import Actor, collect, gae, marginal_costs
from lockstep_allocator.training.nets import exported
from lockstep_allocator.training.ppo import log_probability, new_networks, ppo_loss, update
from lockstep_allocator.training.rollouts import Draw, Rollouts
from lockstep_allocator.training.window import PpoSettings
from tests.allocator.fleets import fleet, random_traces, untrained

SETTINGS = PpoSettings(window=4, actions=6, minibatches=2)


def flags(
    shape: tuple[int, ...], *at: tuple[int, ...]
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    made = np.zeros(shape, dtype=np.bool_)
    for index in at:
        made[index] = True
    return made


def sb3_advantages(rewards: Array, values: Array, last: Array, starts: Array) -> Array:
    """stable-baselines3's GAE over a rollout buffer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gymnasium import spaces  # noqa: PLC0415
        from stable_baselines3.common.buffers import RolloutBuffer  # noqa: PLC0415
    steps, envs = rewards.shape
    box = spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(steps, box, box, device="cpu", gae_lambda=0.9, gamma=0.7, n_envs=envs)
    for t in range(steps):
        buffer.add(
            np.zeros((envs, 1)), np.zeros((envs, 1)), rewards[t], starts[t],
            torch.from_numpy(values[t]), torch.zeros(envs),
        )  # fmt: skip
    buffer.compute_returns_and_advantage(torch.from_numpy(last), starts[-1] * 0)
    return np.asarray(buffer.advantages)


def test_gae_is_stable_baselines3s() -> None:
    random = np.random.default_rng(0)
    rewards, values = random.standard_normal((2, 9, 3))
    last = random.standard_normal(3)
    ended = flags((9, 3), (3, 1), (6, 0))
    starts = np.zeros((9, 3))
    starts[1:] = ended[:-1]
    following = np.concatenate([values[1:], last[None]])
    got = gae(
        rewards,
        values,
        next_values=following,
        terminated=ended,
        truncated=flags((9, 3)),
        discount=0.7,
        trace_decay=0.9,
    )
    assert got == pytest.approx(sb3_advantages(rewards, values, last, starts), abs=1e-5)


def test_a_truncated_round_keeps_the_value_of_what_would_have_come() -> None:
    rewards, values = np.array([[1.0], [1.0]]), np.array([[0.5], [0.5]])
    following = np.array([[0.5], [10.0]])
    none, last = flags((2, 1)), flags((2, 1), (1, 0))
    ended = gae(
        rewards,
        values,
        next_values=following,
        terminated=last,
        truncated=none,
        discount=0.5,
        trace_decay=1.0,
    )
    cut = gae(
        rewards,
        values,
        next_values=following,
        terminated=none,
        truncated=last,
        discount=0.5,
        trace_decay=1.0,
    )
    assert ended[1, 0] == pytest.approx(0.5)
    assert cut[1, 0] == pytest.approx(0.5 + 0.5 * 10)
    with pytest.raises(ValueError, match="one shape"):
        gae(
            rewards,
            values[0],
            next_values=following,
            terminated=last,
            truncated=none,
            discount=0.5,
            trace_decay=1.0,
        )


def test_nothing_is_carried_over_a_cut() -> None:
    rewards = np.array([[0.0], [100.0]])
    zeros = np.zeros((2, 1))
    got = gae(
        rewards,
        zeros,
        next_values=zeros,
        terminated=flags((2, 1)),
        truncated=flags((2, 1), (0, 0)),
        discount=0.9,
        trace_decay=0.9,
    )
    assert got[0, 0] == 0


def actor_of(seed: int = 0, spread: float = 0.3) -> Actor:
    actor, critic = new_networks(len(FEATURES), seed=seed)
    return Actor(
        forecaster=untrained().forecaster,
        weights=exported(actor),
        critic=exported(critic),
        spread=spread,
    )


def test_a_difference_in_credit_is_the_difference_in_cost() -> None:
    drawn = fleet(3, 5, weight=4.0)
    start_s = np.zeros((3, 1))
    base = drawn.devices.work / equalize_10s(drawn.observe(start_s))
    random = np.random.default_rng(2)
    tried = random.uniform(
        drawn.devices.shortest[..., None], drawn.devices.longest[..., None], (3, 5, 4)
    )
    told = marginal_costs(
        drawn, start_s, compute_s=base, tried_s=np.concatenate([tried, base[..., None]], -1)
    )
    before = run_round(drawn, start_s, ghz=drawn.devices.work / base).cost
    for device in range(5):
        for k in range(4):
            other = base.copy()
            other[:, device] = tried[:, device, k]
            after = run_round(drawn, start_s, ghz=drawn.devices.work / other).cost
            difference = told[:, device, k] - told[:, device, -1]
            assert difference == pytest.approx(after - before, abs=1e-9)


def test_a_window_is_as_long_as_asked_and_its_credit_has_no_bias() -> None:
    window = collect(fleet(3, 5), actor_of(), settings=SETTINGS, random=np.random.default_rng(0))
    assert window.actions.shape == (4 * 3, 5, 6)
    assert window.advantage.mean(-1).abs().max() < 1e-6
    mean = torch.zeros(12, 5)
    assert window.log_probability.shape == log_probability(window.actions, mean, spread=0.3).shape


def test_the_loss_of_an_unchanged_policy_is_nothing_and_its_ratio_one() -> None:
    actor, critic = new_networks(len(FEATURES), seed=0)
    window = collect(fleet(3, 5), actor_of(), settings=SETTINGS, random=np.random.default_rng(0))
    losses = ppo_loss(actor, critic, batch=window, spread=0.3, scale=1.0, settings=SETTINGS)
    assert losses.policy == pytest.approx(0.0, abs=1e-4)
    assert losses.kl == pytest.approx(0.0, abs=1e-5)
    assert losses.clipped == 0


def test_the_clipped_loss_is_stable_baselines3s() -> None:
    """The same tensors through the formula of stable_baselines3.ppo (clip_range 0.2)."""
    actor, critic = new_networks(len(FEATURES), seed=0)
    window = collect(fleet(3, 5), actor_of(), settings=SETTINGS, random=np.random.default_rng(0))
    shifted = replace(window, log_probability=window.log_probability - 0.35)
    losses = ppo_loss(actor, critic, batch=shifted, spread=0.3, scale=2.0, settings=SETTINGS)
    advantages = window.advantage.flatten() / 2.0
    ratio = torch.full_like(advantages, float(np.exp(0.35)))
    first = advantages * ratio
    second = advantages * torch.clamp(ratio, 0.8, 1.2)
    expected = -torch.min(first, second).mean() * 5  # summed over a fleet's five devices
    assert losses.policy == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
    assert losses.clipped == 1.0


def test_with_a_discount_the_played_action_is_credited_by_gae() -> None:
    discounted = replace(SETTINGS, discount=0.5)
    window = collect(fleet(3, 5), actor_of(), settings=discounted, random=np.random.default_rng(0))
    assert (window.advantage[..., 1:] == 0).all()
    assert (window.advantage[..., 0] != 0).any()


def test_updates_make_rounds_cheaper() -> None:
    """From the equaliser on, on fleets of three at the paper's weight: there is much to gain."""
    settings = PpoSettings(window=8, actions=8, minibatches=4)
    actor, critic = new_networks(len(FEATURES), seed=1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=2e-3)
    forecaster = untrained().forecaster
    random, orders = np.random.default_rng(0), torch.Generator().manual_seed(0)
    gained = []
    for turn in range(14):
        playing = Actor(
            forecaster=forecaster, weights=exported(actor), critic=exported(critic), spread=0.3
        )
        window = collect(fleet(64, 3, seed=turn), playing, settings=settings, random=random)
        gained.append(float(window.returns.mean()))
        for _ in update(
            actor,
            critic,
            optimizer=optimizer,
            windows=[window],
            spread=0.3,
            settings=settings,
            random=orders,
        ):
            pass
    assert np.mean(gained[-3:]) > np.mean(gained[:3]) + 0.003


def test_the_number_of_processes_changes_nothing() -> None:
    """Two windows by this process and by two others, from one seed."""
    policy = untrained(3, output_scale=0.1)
    critic = exported(new_networks(len(FEATURES), seed=0)[1])
    actor = Actor(forecaster=policy.forecaster, weights=policy.weights, critic=critic, spread=0.3)
    draw = Draw(
        pool=Pool.of(random_traces(4)),
        phones=phones_of(generic_phones()[:3]),
        devices=(2, 9),
        energy_weight=(1.0, 10.0),
        rows=24,
        ppo=PpoSettings(window=3, actions=4),
    )
    made = []
    for cores in (1, 2):
        with Rollouts(draw, seed=5, cores=cores) as rollouts:
            made.append([*rollouts.windows(actor, 2), *rollouts.windows(actor, 1)])
    alone, together = made
    assert len({len(window) for window in alone}) > 1  # each group drew its own
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.actions, other.actions)
        assert torch.equal(one.advantage, other.advantage)
        assert torch.equal(one.frame.upload, other.frame.upload)
