"""Learning on the job: PPO continues on the rounds that a job really played (CN113312169B, [0049]).

Nobody explores on real devices: actions are drawn here, and played against the bandwidth that the
links of the recorded round had. Every other block of rounds is not learnt from: it says when what
was learnt from the others is good for more than these.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lockstep_allocator.devices import Array
from lockstep_allocator.experience import Experience, Replay, costs
from lockstep_allocator.networks import set_network
from lockstep_allocator.policy import FEATURES, OUTPUTS, Policy, Training, situation
from lockstep_allocator.scenarios import Random
from lockstep_allocator.training.collecting import Actor, try_actions, window_of
from lockstep_allocator.training.nets import SetNetwork, blend, exported, imported
from lockstep_allocator.training.ppo import update
from lockstep_allocator.training.window import PpoSettings, Window

BLOCK = 5
"""Rounds that follow each other are alike: they are held out together."""
SURE = 3.0
"""Standard errors by which a gain must exceed 0: the best of many looks is taken."""


@dataclass(frozen=True, slots=True)
class OnlineSettings:
    """How to learn from recorded rounds."""

    updates: int = 30
    """Updates, each from actions drawn anew."""
    seconds: float = 120.0
    """Hard budget."""
    learning_rate: float = 2e-4
    """Of Adam; small, since 20 rounds say little."""
    spread: float = 0.12
    """Standard deviation of actions (logits): where training ended."""
    seed: int = 0
    """Seed of actions and orders."""
    ppo: PpoSettings = field(
        default_factory=lambda: PpoSettings(actions=32, epochs=1, minibatches=4)
    )
    """The algorithm."""


@dataclass(frozen=True, slots=True)
class Improved:
    """A policy after learning."""

    policy: Policy
    """With the weights of before when no others were surely better."""
    saved_s: float
    """What it surely saves in a round that it did not learn from (`SURE` standard errors less
    than the mean), in s of cost; 0: nothing."""


def improve(
    policy: Policy,
    experience: Experience,
    *,
    settings: OnlineSettings,
    tick: Callable[[float, str], None] = lambda share, text: None,
) -> Improved:
    """Updates a policy from recorded rounds.

    Args:
        policy: the policy that the job has.
        experience: its rounds.
        settings: see there.
        tick: told the share of the updates that is done, and how it goes.

    Raises:
        ValueError: there are no recorded rounds.
    """
    if not len(experience):
        raise ValueError("there are no recorded rounds to learn from")
    began = time.monotonic()
    newest = experience.records[-1].round
    replays = experience.replays(lambda number: not _held_out(number, newest))
    judged = experience.replays(lambda number: _held_out(number, newest))
    torch.manual_seed(settings.seed)
    width = len(policy.weights["enter.0.bias"])
    actor = SetNetwork(len(FEATURES), OUTPUTS, width=width)
    critic = SetNetwork(len(FEATURES), 1, width=32)
    imported(actor, policy.weights)
    average = copy.deepcopy(actor)
    optimizer = torch.optim.Adam(
        [*actor.parameters(), *critic.parameters()], lr=settings.learning_rate
    )
    random, orders = np.random.default_rng(settings.seed), torch.Generator()
    orders.manual_seed(settings.seed)
    before = costs(judged, policy)
    if not replays:  # all rounds are in the block that is held out
        return Improved(policy, 0.0)
    best, weights, done = 0.0, policy.weights, 0
    for done in range(1, settings.updates + 1):
        player = Actor(
            forecaster=policy.forecaster,
            weights=exported(actor),
            critic=exported(critic),
            spread=settings.spread,
        )
        windows = [
            _window(replay, player, settings=settings.ppo, random=random) for replay in replays
        ]
        for _ in update(
            actor,
            critic,
            optimizer=optimizer,
            windows=windows,
            spread=settings.spread,
            settings=settings.ppo,
            random=orders,
        ):
            blend(average, actor, share=0.2)
        saved = before - costs(judged, replace(policy, weights=exported(average)))
        sure = _surely(saved)
        if sure > best:
            best, weights = sure, exported(average)
        tick(done / settings.updates, f"saved {saved.mean():.4f} s of {before.mean():.3f} s")
        if time.monotonic() - began > settings.seconds:
            break
    told = _told(
        policy.training, len(experience), updates=done, minutes=(time.monotonic() - began) / 60
    )
    return Improved(replace(policy, weights=weights, training=told), best)


def _held_out(number: int, newest: int) -> bool:
    """Every other block of five rounds, the newest one among them: learnt from the others."""
    return (newest - number) // BLOCK % 2 == 0


def _surely(saved: Array) -> float:
    """The mean less the error that is likely; with few rounds as Student's t has it."""
    count = len(saved)
    if count < 2:
        return 0.0
    errors = SURE + (SURE**3 + SURE) / (4 * (count - 1))  # its quantile, first order in 1/n
    return float(saved.mean() - errors * saved.std(ddof=1) / np.sqrt(count))


def _window(replay: Replay, player: Actor, *, settings: PpoSettings, random: Random) -> Window:
    """Recorded rounds as a window of one round of many fleets."""
    start_s = np.zeros((len(replay.fleet.which), 1))
    at = situation(player.forecaster, replay.observation)
    tried = try_actions(
        at, replay.fleet, start_s=start_s, actor=player, settings=settings, random=random
    )
    value = set_network(player.critic, at.features)[..., 0].astype(float)
    return window_of([at], [tried], values=[value, value], settings=settings)


def _told(before: Training, rounds: int, *, updates: int, minutes: float) -> Training:
    metrics = before.metrics | {"recorded rounds": float(rounds)}
    told = {
        "updates": before.updates + updates, "minutes": before.minutes + minutes,
        "stopped": "on the job", "metrics": metrics,
    }  # fmt: skip
    return Training(**{**dict(before), **told})
