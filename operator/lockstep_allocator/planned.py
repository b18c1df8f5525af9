"""Steps and frequencies of a round, chosen together; `core/allocate` calls it.

Devices do unequal numbers of steps K_i, and a job needs rounds as a + b/K̄ with K̄ = Σ w_i K_i, so

    minimise  (1 + h/K̄) · (second_cost·T + λ·Σ E_i)     h = b/a,   K_i·cycles_i = f_i·(T - u_i)

with the allocator's own cost of a round. At the best point all devices have one price of a weighted
step, h·cost/(K̄(K̄ + h)): each runs at the clock at which a step's energy costs that much. For κ·f³
it is f_i = sqrt(price·w_i / (3λκ·cycles_i)): one efficient clock, which slow devices do not reach,
so that they run at their maximum, and at which fast ones do more steps in the same time.

The cost is quasi-convex in (T, K): T is sought by golden section, the price and the fewest steps
(which `ratio` ties to the most) as roots of what rises. Then steps are rounded: among whole plans
around, and those of equal steps, the cheapest is taken, each with the equaliser's frequencies; of
few devices, what a step more or less makes cheaper is tried too, and if they do few steps, two and
three times as many.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lockstep_allocator.devices import Array, Devices
from lockstep_allocator.equalize import equalize
from lockstep_allocator.powers import Powers

_GOLDEN = 0.5 * (np.sqrt(5) - 1)
_EXACT = 1e-3
"""Of price and fewest steps, relative: the cost, which is flat there, is off by its square."""
_EXACT_TIME = 3e-3
_NEAR = (1 / 1.02, 1.02, 1 / 1.2, 1.2, 1 / 2, 2)
_TURNS = 100
_TRIED = 12
_FEW, _TIMES = 8, (1, 2, 3)
"""Devices whose whole plans are tried one by one around the one found, and a few times as many."""
_FEW_STEPS = 30
"""Most steps of a device of whose plan a few times as many are tried: of more steps rounding costs
next to nothing, and the way back is walked step by step."""
_SCALES = np.geomspace(0.6, 1 / 0.6, 25)
"""Whole plans are sought where the last device has so much of its best time; one has it all."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a plan of steps is for, and what it has to keep to."""

    share: Array
    """(N,) weight of each device in the mean of updates; they need not sum to 1."""
    half_steps: float
    """h: with K̄ = h a job needs twice the rounds that it needs with very many steps."""
    least: int
    """Fewest steps of a device."""
    ratio: float
    """Most steps of a device, as a multiple of the fewest that one has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """Whole steps, and the round that they make at the equaliser's frequencies."""

    steps: NDArray[np.int64]
    """(N,)."""
    ghz: Array
    """(N,)."""
    finish_s: float
    """T."""
    cost: float
    """(1 + h/K̄) times the cost of the round in s."""
    bound: float
    """What it costs where steps need not be whole."""


def plan_steps(devices: Devices, upload_s: Array, *, wish: Wish) -> Planned:
    """The plan of least cost for upload times (1, N) that are known.

    Args:
        devices: one fleet; its work is that of one step.
        upload_s: of each device.
        wish: what the plan has to keep to.
    """
    task = _Task.of(devices, upload_s, wish=wish)
    best = task.best()
    around = np.array([task.bounded(plan) for plan in task.whole(best)])
    unequal = task.cheapest(np.unique(around, axis=0))
    equal = task.equal(most=4 * int(unequal.steps.max()))
    found = task.refined(min(unequal, equal, key=lambda choice: choice.cost))
    return Planned(
        steps=found.steps.astype(np.int64),
        ghz=devices.work[0] * found.steps / found.compute_s,
        finish_s=found.finish_s,
        cost=found.cost,
        bound=min(best.cost, found.cost),
    )


@dataclass(frozen=True, slots=True)
class _Point:
    """The best steps for a T."""

    cost: float
    steps: Array
    finish_s: float


@dataclass(frozen=True, slots=True)
class _Choice:
    """A whole plan at the equaliser's frequencies."""

    cost: float
    steps: Array
    finish_s: float
    compute_s: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One fleet, with what its plan has to keep to."""

    devices: Devices
    powers: Powers
    cycles: Array
    """(N,) Gcycles of a step."""
    upload_s: Array
    """(N,)."""
    share: Array
    """(N,) sums to 1."""
    sending: float
    """J of all uploads."""
    half: float
    least: float
    ratio: float

    @classmethod
    def of(cls, devices: Devices, upload_s: Array, *, wish: Wish) -> "_Task":
        return cls(
            devices=devices,
            powers=Powers.of(devices),
            cycles=devices.work[0],
            upload_s=upload_s[0],
            share=wish.share / wish.share.sum(),
            sending=float(devices.sending(upload_s).sum()),
            half=wish.half_steps,
            least=float(wish.least),
            ratio=wish.ratio,
        )

    # -- whole plans -------------------------------------------------------------------------

    def whole(self, best: _Point) -> list[Array]:
        """Plans around: the same clocks, for times around the best one."""
        latest = self.upload_s.max()
        plans = []
        for scale in _SCALES:
            left = latest + scale * (best.finish_s - latest) - self.upload_s
            steps = best.steps * left / (best.finish_s - self.upload_s)
            plans += [np.floor(steps), np.floor(steps + 0.5)]
        return plans

    def bounded(self, steps: Array) -> Array:
        """Steps within the bounds."""
        steps = np.maximum(steps, self.least)
        return np.minimum(steps, np.floor(self.ratio * steps.min()))

    def refined(self, found: _Choice) -> _Choice:
        """The best plan around this one, and around a few times its steps, if these are few.

        Where devices do few steps each of them counts; where they are many, none does.
        """
        if len(self.cycles) > _FEW:
            return found
        few = found.steps.max() <= _FEW_STEPS
        plans = [self.bounded(found.steps * times) for times in (_TIMES if few else _TIMES[:1])]
        starts = [self.cheapest(plan[None]) for plan in plans]
        return min((self._best_around(one) for one in starts), key=lambda choice: choice.cost)

    def _best_around(self, found: _Choice) -> _Choice:
        """The plan that no step more or less of one or two devices makes cheaper."""
        count = len(self.cycles)
        ones = np.concatenate([np.zeros((1, count)), np.eye(count), -np.eye(count)])
        moves = np.unique((ones[:, None] + ones[None]).reshape(-1, count), axis=0)
        while True:
            around = np.array([self.bounded(found.steps + move) for move in moves])
            best = self.cheapest(np.unique(around, axis=0))
            if best.cost >= found.cost:
                return found
            found = best

    def equal(self, *, most: int) -> _Choice:
        """The best plan of equal steps: the cost is quasi-convex in their number."""
        low, high = int(self.least), max(int(self.least), most)
        while True:
            every = high - low < _TRIED
            some = np.arange(low, high + 1) if every else np.geomspace(low, high, _TRIED)
            tried = np.unique(np.round(some.astype(float)))
            best = self.cheapest(np.repeat(tried[:, None], len(self.cycles), axis=1))
            if every:
                return best
            at = int(np.searchsorted(tried, best.steps[0]))
            low, high = int(tried[max(at - 1, 0)]), int(tried[min(at + 1, len(tried) - 1)])

    def cheapest(self, steps: Array) -> _Choice:
        """Of plans (C, N)."""
        each = self.devices.rows(np.zeros(len(steps), dtype=np.int64))
        each = replace(each, work=each.work * steps)
        even = equalize(each, np.broadcast_to(self.upload_s, steps.shape))
        joules = each.joules(even.compute_s).sum(-1) + self.sending
        round_cost = (each.second_cost * even.finish_s)[:, 0] + each.weight[:, 0] * joules
        cost = round_cost * (1 + self.half / (steps @ self.share))
        i = int(cost.argmin())
        return _Choice(
            float(cost[i]), steps[i], float(even.finish_s[i, 0]), compute_s=even.compute_s[i]
        )

    # -- steps that need not be whole --------------------------------------------------------

    @property
    def weight(self) -> float:
        """λ."""
        return float(self.devices.weight[0, 0])

    def best(self) -> _Point:
        """The least cost over T, by golden section in the logarithm of what the last one has."""
        latest = float(self.upload_s.max())
        slowest = self.upload_s + self.least * self.cycles / self.devices.max_ghz[0]
        seek = _Seek(self, latest)
        points = [seek.at(float(slowest.max()) - latest)]
        while len(points) < 2 or points[-1].cost < points[-2].cost:
            points.append(seek.at(2 * (points[-1].finish_s - latest)))
        low = np.log(points[max(len(points) - 3, 0)].finish_s - latest)
        high = np.log(points[-1].finish_s - latest)
        wide = _GOLDEN * (high - low)
        left, right = seek.at(np.exp(high - wide)), seek.at(np.exp(low + wide))
        while high - low > _EXACT_TIME:
            if left.cost < right.cost:
                high, right = np.log(right.finish_s - latest), left
                left = seek.at(np.exp(high - _GOLDEN * (high - low)))
            else:
                low, left = np.log(left.finish_s - latest), right
                right = seek.at(np.exp(low + _GOLDEN * (high - low)))
        return min([*points, left, right], key=lambda point: point.cost)

    def cost(self, steps: Array, finish_s: float) -> tuple[float, float]:
        """The cost of a round, and K̄."""
        joules = self.powers.joules(steps * self.cycles, seconds=finish_s - self.upload_s).sum()
        second = float(self.devices.second_cost[0, 0])
        cost = second * finish_s + self.weight * (float(joules) + self.sending)
        return cost, float(self.share @ steps)

    def most(self, left_s: Array) -> Array:
        """(N,) what can be done; in the least time floats may have it a little below `least`."""
        return np.maximum(self.devices.max_ghz[0] * left_s / self.cycles, self.least)

    def steps_for(self, price: float, left_s: Array, *, near: float | None) -> Array:
        """The best steps when a weighted step is worth `price` s."""
        worth = price * self.share / np.maximum(self.weight * self.cycles, _TINY)
        wanted = np.maximum(self.powers.clock(worth) * left_s / self.cycles, self.least)
        most = self.most(left_s)
        fewest = float(wanted.min())
        if wanted.max() > self.ratio * fewest:
            fewest = self._fewest(price, wanted, left_s=left_s, near=near)
        return np.clip(wanted, fewest, np.minimum(self.ratio * fewest, most))

    def _fewest(self, price: float, wanted: Array, *, left_s: Array, near: float | None) -> float:
        """The best fewest steps: for more, who has them pays, and who may have the most gains."""

        def dearer(many: float, who: NDArray[np.bool_]) -> float:
            price_each = self.powers.price(many * self.cycles / left_s)
            return float((self.weight * self.cycles * price_each - price * self.share)[who].sum())

        def rising(fewest: float) -> float:
            most = self.ratio * fewest
            return dearer(fewest, wanted < fewest) + self.ratio * dearer(most, wanted > most)

        within = self.least, float(self.most(left_s).min())
        return _root(rising, within, near=near)[1]


@dataclass(slots=True)
class _Seek:
    """Looks for the best steps of one T after the other, from what was found for the last."""

    task: _Task
    latest_s: float
    price: float | None = None
    fewest: float | None = None

    def at(self, left_s: float) -> _Point:
        """Those for a T that leaves so much to the device of the longest upload."""
        task, finish_s = self.task, self.latest_s + left_s
        left = finish_s - task.upload_s

        def rising(price: float) -> float:
            steps = task.steps_for(price, left, near=self.fewest)
            self.fewest = float(steps.min())
            cost, mean = task.cost(steps, finish_s)
            return price * mean * (mean + task.half) - task.half * cost

        cost, _ = task.cost(task.most(left), finish_s)
        bound = task.half * cost / (task.least * (task.least + task.half))
        low, high = _root(rising, (0.0, bound), near=self.price)
        self.price = high
        ends = (task.steps_for(price, left, near=self.fewest) for price in (low, high))
        return self._between(*ends, finish_s=finish_s)

    def _between(self, fewer: Array, more: Array, *, finish_s: float) -> _Point:
        """Where energy is linear in steps, the best ones lie between those of two prices."""
        task = self.task
        (cost, mean), (most, last) = (task.cost(steps, finish_s) for steps in (fewer, more))
        part = 1.0
        if last > mean * (1 + _TINY):
            slope = max((most - cost) / (last - mean), _TINY)
            aim = np.sqrt(task.half * max(cost - slope * mean, 0.0) / slope)
            part = float(np.clip((aim - mean) / (last - mean), 0, 1))
        steps = fewer + part * (more - fewer)
        cost, mean = task.cost(steps, finish_s)
        return _Point(float((1 + task.half / mean) * cost), steps, finish_s)


def _root(
    rising: Callable[[float], float], within: tuple[float, float], *, near: float | None
) -> tuple[float, float]:
    """Points around the zero of a function that rises, also in jumps; or the end that is nearest.

    Regula falsi (Illinois), with a bisection at every third turn for the jumps.
    """
    low, high = within
    for guess in () if near is None else (near * factor for factor in _NEAR):
        if low < guess < high:
            low, high = (low, guess) if rising(guess) >= 0 else (guess, high)
    below, above = rising(low), rising(high)
    if below >= 0 or above <= 0:
        return (low, low) if below >= 0 else (high, high)
    side = 0
    for turn in range(_TURNS):
        chord = high - above * (high - low) / (above - below)
        at = 0.5 * (low + high) if turn % 3 == 2 else chord
        value = rising(at)
        if value >= 0:
            high, above, below = at, value, below / 2 if side > 0 else below
        else:
            low, below, above = at, value, above / 2 if side < 0 else above
        side = 1 if value >= 0 else -1
        if high - low <= _EXACT * high:
            break
    return low, high
