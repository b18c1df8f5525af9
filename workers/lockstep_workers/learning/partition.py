"""Deals the training examples out to the clients: deterministic, disjoint, complete, none empty.

Every client computes the whole partition from the labels and the seed and takes its own part, so
nobody has to send it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lockstep_api.spec import Partition, PartitionScheme
from lockstep_workers.errors import InvalidJob

Indices = NDArray[np.int64]
Labels = NDArray[np.integer]

DEFAULT_ALPHA = 0.5
DEFAULT_SHARDS = 2


def partition(
    labels: Labels,
    shares: Sequence[float],
    *,
    spec: Partition,
    seed: int,
    users: Indices | None = None,
) -> list[Indices]:
    """The indices of each client's examples.

    Args:
        labels: (n,) the label of each example.
        shares: the relative amount of examples of each client.
        spec: the scheme and its parameters; its own seed wins over `seed`.
        seed: the job's seed.
        users: (n,) whose example each is, for scheme natural.

    Raises:
        InvalidJob: fewer examples than clients, or a scheme that this data set does not have.
    """
    if len(labels) < len(shares):
        raise InvalidJob(
            f"{len(labels)} training examples cannot be dealt out to {len(shares)} devices: "
            "lower devices[].replicas"
        )
    rng = np.random.default_rng(seed if spec.seed is None else spec.seed)
    weights = np.asarray(shares, dtype=np.float64)
    weights /= weights.sum()
    if spec.scheme is PartitionScheme.NATURAL:
        return _natural(users, weights, rng=rng)
    parts = _deal(labels, weights, spec=spec, rng=rng)
    return [np.sort(part) for part in _none_empty(parts)]


def _deal(
    labels: Labels, weights: NDArray[np.float64], *, spec: Partition, rng: np.random.Generator
) -> list[Indices]:
    match spec.scheme:
        case PartitionScheme.IID:
            return _cut(rng.permutation(len(labels)), weights)
        case PartitionScheme.DIRICHLET:
            alpha = spec.alpha or DEFAULT_ALPHA
            return _dirichlet(labels, weights, alpha=alpha, rng=rng)
        case PartitionScheme.SHARDS:
            each = spec.shards_per_client or DEFAULT_SHARDS
            return _shards(labels, weights, per_client=each, rng=rng)
    raise InvalidJob(f"data.partition.scheme {spec.scheme} is not in this version")


def _natural(
    users: Indices | None, weights: NDArray[np.float64], *, rng: np.random.Generator
) -> list[Indices]:
    """All examples of a user go to one client; clients get about their share of the examples.

    The users with most examples are dealt first, each to the client that lacks most.
    """
    if users is None:
        raise InvalidJob(
            "data.partition.scheme natural needs a data set with users, and this one has "
            "none: use iid, dirichlet or shards"
        )
    names, counts = np.unique(users, return_counts=True)
    if len(names) < len(weights):
        raise InvalidJob(
            f"the data of {len(names)} users cannot be dealt out to {len(weights)} devices with "
            "data.partition.scheme natural: lower devices[].replicas"
        )
    shuffled = rng.permutation(len(names))
    order = shuffled[np.argsort(-counts[shuffled], kind="stable")]
    lacking = weights * len(users)
    owned: list[list[int]] = [[] for _ in weights]
    for place, user in enumerate(order):
        left = len(order) - place
        empty = [i for i, mine in enumerate(owned) if not mine]
        choice = empty if left <= len(empty) else range(len(weights))
        client = max(choice, key=lambda i: lacking[i])
        owned[client].append(int(user))
        lacking[client] -= counts[user]
    return [np.flatnonzero(np.isin(users, names[mine])) for mine in owned]


def _cut(order: Indices, weights: NDArray[np.float64]) -> list[Indices]:
    """Cuts a sequence into consecutive pieces in proportion to `weights`."""
    bounds = np.round(np.cumsum(weights)[:-1] * len(order)).astype(np.int64)
    return list(np.split(order, bounds))


def _dirichlet(
    labels: Labels, weights: NDArray[np.float64], *, alpha: float, rng: np.random.Generator
) -> list[Indices]:
    """Per label, shares ~ Dirichlet(α · n · weight) over the n clients (Hsu et al. 2019)."""
    parts: list[list[Indices]] = [[] for _ in weights]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        drawn = rng.dirichlet(np.maximum(alpha * len(weights) * weights, 1e-9))
        for part, piece in zip(parts, _cut(members, drawn), strict=True):
            part.append(piece)
    return [np.concatenate(pieces) for pieces in parts]


def _shards(
    labels: Labels, weights: NDArray[np.float64], *, per_client: int, rng: np.random.Generator
) -> list[Indices]:
    """Sorts by label, cuts into `per_client` blocks a client, deals the blocks out at random."""
    by_label = rng.permutation(len(labels))
    by_label = by_label[np.argsort(labels[by_label], kind="stable")]
    owners = rng.permutation(np.repeat(np.arange(len(weights)), per_client))
    blocks = _cut(by_label, weights[owners] / per_client)
    return [
        np.concatenate([blocks[i] for i in np.flatnonzero(owners == client)])
        for client in range(len(weights))
    ]


def _none_empty(parts: list[Indices]) -> list[Indices]:
    """Gives each empty client one example of the largest."""
    out = list(parts)
    for client, part in enumerate(out):
        if len(part) == 0:
            largest = max(range(len(out)), key=lambda i: len(out[i]))
            out[client], out[largest] = out[largest][-1:], out[largest][:-1]
    return out
