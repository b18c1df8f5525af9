"""The best moment to send for a device that pays for sending and knows its bandwidth.

Between two moments at which the bandwidth changes at either end of its upload, the time of an
upload is linear in when it begins, so that the energy of computing and sending is convex there: its
least value lies at an end, where two lines of the energy curve meet, or where the derivative is
zero. These are all the compute times to look at, and there are a few for each second.
"""

from dataclasses import dataclass, fields

import numpy as np

from lockstep_allocator.devices import Array
from lockstep_allocator.fleet import Fleet
from lockstep_allocator.traces import Index


@dataclass(frozen=True, slots=True, kw_only=True)
class BestSending:
    """The least energy of each device by how long it may compute; (E, N, C) all."""

    until_s: Array
    """Compute times, rising from the shortest; infinite where there are no more."""
    least: Array
    """Least energy of computing and sending among all up to there, in J."""
    chosen_s: Array
    """The compute time that has it."""

    def rows(self, row: Index) -> "BestSending":
        """Some of the environments."""
        return BestSending(**{one.name: getattr(self, one.name)[row] for one in fields(self)})

    def until(self, compute_s: Array, spent: Array) -> tuple[Array, Array]:
        """The best of `compute_s` (E, N), which costs `spent` J, and all shorter compute times."""
        before = (self.until_s <= compute_s[..., None]).sum(-1, keepdims=True) - 1
        least = np.take_along_axis(self.least, before, -1)[..., 0]
        chosen_s = np.take_along_axis(self.chosen_s, before, -1)[..., 0]
        return np.where(least < spent, chosen_s, compute_s), np.minimum(least, spent)


def best_sending(fleet: Fleet, start_s: Array) -> BestSending:
    """What every device of rounds that begin at `start_s` (E, 1) can gain by sending early."""
    every = _looked_at(fleet, start_s)
    used = np.isfinite(every)
    at = np.where(used, every, fleet.devices.longest[..., None])
    spent = fleet.devices.joules(at) + fleet.devices.sending(fleet.upload_s(start_s, at))
    spent = np.where(used, spent, np.inf)
    least = np.minimum.accumulate(spent, -1)
    # The index of the running minimum is that of its newest improvement.
    newest = np.where(spent <= least, np.arange(spent.shape[-1]), 0)
    chosen = np.maximum.accumulate(newest, -1)
    return BestSending(until_s=every, least=least, chosen_s=np.take_along_axis(at, chosen, -1))


def _looked_at(fleet: Fleet, start_s: Array) -> Array:
    """(E, N, C) sorted compute times, infinite at the end of shorter rows."""
    devices = fleet.devices
    rows = [
        _of_device(fleet, start_s, env=env, number=number)
        for env, number in np.ndindex(*devices.shape)
    ]
    longest = max(len(row) for row in rows)
    padded = np.full((len(rows), longest), np.inf)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded.reshape(*devices.shape, longest)


def _of_device(fleet: Fleet, start_s: Array, *, env: int, number: int) -> Array:
    devices, traces = fleet.devices, fleet.traces
    which = int(fleet.which[env, number])
    begin_s = float(fleet.offset_s[env, number] + start_s[env, 0])
    work, size = devices.work[env, number], devices.upload[env, number]
    first, last = devices.shortest[env, number], devices.longest[env, number]

    def until_s(mbit: Array) -> Array:
        return traces.when(np.full(mbit.shape, which), mbit)

    def mbit_until(at_s: Array) -> Array:
        return traces.carried(np.full(at_s.shape, which), at_s)

    ends = until_s(mbit_until(begin_s + np.array([first, last])) + size)
    changes = traces.changes_s(which, begin_s + first, end_s=float(ends[1]))
    sent = np.maximum(mbit_until(changes) - size, 0.0)
    changed = np.concatenate([changes, until_s(sent)]) - begin_s
    kinks = work * _meetings(devices.alpha[env, number], devices.beta[env, number])
    borders = np.unique(np.clip(np.concatenate([changed, kinks, (first, last)]), first, last))
    # The slope of the upload time on each piece, from the upload at both of its ends.
    uploads = until_s(mbit_until(begin_s + borders) + size) - (begin_s + borders)
    slope = devices.transmit_watts[env, number] * np.diff(uploads) / np.diff(borders)
    slopes = slope[:, None] + np.append(devices.beta[env, number], 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # flat nowhere: outside
        flat = np.cbrt(2 * devices.kappa[env, number] * work**3 / slopes)
    inside = (flat > borders[:-1, None]) & (flat < borders[1:, None])
    return np.sort(np.concatenate([borders, flat[inside]]))


def _meetings(alpha: Array, beta: Array) -> Array:
    """Times per Gcycle at which two lines of an energy curve meet."""
    known = np.isfinite(alpha)
    a, b = alpha[known], beta[known]
    first, second = np.nonzero(b[:, None] < b)
    return np.asarray((a[first] - a[second]) / (b[second] - b[first]))
