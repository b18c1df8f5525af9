"""A round that was really played, and the file in which a job's rounds are kept.

`experience` plays them again. A round is put into the file's columns once; what fits is reckoned
before anything is written, so that a file never becomes larger than it may be.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save

from lockstep_allocator.devices import Array, Devices
from lockstep_allocator.header import read
from lockstep_allocator.observation import EDGES_S, Observation

FORMAT = "lockstep-experience"
VERSION = 2
MAX_BYTES = 900_000
"""Size of the file: a Kubernetes object may have 1 MiB. Older rounds that do not fit are dropped:
100 rounds of 80 devices fit, 20 rounds of 400, …"""
MAX_ROUNDS = 100
"""Rounds kept, the newest."""
MAX_LINES = 65
"""Of an energy curve: of a table of 64 points and both ends of a device's range."""
OF_CURVE = ("kappa", "idle_watts", "transmit_watts")
"""Columns of the devices that belong to their energy curves."""
_OF_ROUND = ("round", "at_s", "seconds", "weight", "devices")
_OF_DEVICE = (
    "work", "upload", "min_ghz", "max_ghz", "last_mbps", "mean_mbps", "ghz", "joules", "upload_s",
)  # fmt: skip


class InvalidExperience(ValueError):
    """Bytes that are no experience, or one of another version."""


_Curve = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
"""An energy curve: its columns of `OF_CURVE`, alpha and beta of its lines."""


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """A round as the file has it, before its clients and curves have numbers."""

    row: tuple[float, ...]
    """The columns of `_OF_ROUND`."""
    curves: tuple[_Curve, ...]
    """Those that its devices have."""
    curve: NDArray[np.int64]
    """(N,) which of them a device has."""
    slots: NDArray[np.float32]
    """(N, 16)."""
    columns: Mapping[str, NDArray[np.float32]]
    """(N,) each: `_OF_DEVICE`."""

    @property
    def lines(self) -> int:
        """Lines of its curves."""
        return len(self.curves[0][1]) if self.curves else 0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Record:
    """A round that was played."""

    round: int
    at_s: float
    """When it was planned, in Unix seconds."""
    clients: tuple[str, ...]
    """N names."""
    observation: Observation
    """What was seen: one fleet of N devices."""
    ghz: Array
    """(N,) the frequencies that they had."""
    seconds: float
    """How long it took."""
    joules: Array
    """(N,) modelled energy of each."""
    upload_s: Array
    """(N,) upload times."""
    encoded: "_Encoded" = field(init=False, repr=False)
    """The same as a file has it: made once, however often the round is written."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoded", _encoded(self))


def _encoded(record: Record) -> _Encoded:
    seen, devices = record.observation, record.observation.devices
    powers = np.stack([getattr(devices, name)[0] for name in OF_CURVE], -1)
    alpha, beta = devices.alpha[0], devices.beta[0]
    rows = np.concatenate([powers, alpha, beta], -1)
    _, first, curve = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    columns = {
        name: np.ravel(getattr(source, name)).astype(np.float32)
        for name in _OF_DEVICE
        for source in (next(one for one in (record, seen, devices) if hasattr(one, name)),)
    }
    row = (
        record.round, record.at_s, record.seconds, float(devices.weight[0, 0]),
        len(record.clients),
    )  # fmt: skip
    parts = (powers[first].tolist(), alpha[first].tolist(), beta[first].tolist())
    curves = tuple((tuple(p), tuple(a), tuple(b)) for p, a, b in zip(*parts, strict=True))
    slots = seen.slots_mbps[0].astype(np.float32)
    return _Encoded(row, curves, curve.reshape(-1), slots, columns)


_BYTES_OF_ROUND = 8 * len(_OF_ROUND)
_BYTES_OF_DEVICE = 4 * (2 + (len(EDGES_S) - 1) + len(_OF_DEVICE))
_BYTES_OF_HEADER = 2_000
"""At most, without the clients' names."""


def fitting(records: Sequence[Record]) -> int:
    """How many of the newest rounds fit into a file."""
    clients: set[str] = set()
    curves: set[_Curve] = set()
    size, lines = _BYTES_OF_HEADER, 0
    for count, record in enumerate(reversed(records)):
        size += _BYTES_OF_ROUND + _BYTES_OF_DEVICE * len(record.clients)
        size += sum(_bytes_of_name(client) for client in {*record.clients} - clients)
        clients.update(record.clients)
        curves.update(record.encoded.curves)
        lines = max(lines, record.encoded.lines)
        if size + 8 * len(curves) * (len(OF_CURVE) + 2 * lines) > MAX_BYTES:
            return count
    return len(records)


def _bytes_of_name(client: str) -> int:
    """In a list that is JSON within JSON; two quotes less, a comma and a space more."""
    return len(json.dumps(json.dumps(client)))


def file_of(records: Sequence[Record]) -> bytes:
    """A safetensors file with these rounds."""
    rounds = [record.encoded for record in records]
    clients = sorted({client for record in records for client in record.clients})
    number = {client: i for i, client in enumerate(clients)}
    lines = max((one.lines for one in rounds), default=0)
    curves: dict[tuple[float, ...], int] = {}
    curve = [_numbered(one, curves, lines=lines) for one in rounds]
    tensors: dict[str, NDArray[Any]] = {
        "rounds": np.array([one.row for one in rounds], np.float64).reshape(-1, len(_OF_ROUND)),
        "client": np.array([number[c] for record in records for c in record.clients], np.int32),
        "curve": np.concatenate([*curve, np.zeros(0, np.int32)]),
        "curves": np.array(list(curves), np.float64).reshape(
            len(curves), len(OF_CURVE) + 2 * lines
        ),
        "slots": np.concatenate(
            [*(one.slots for one in rounds), np.zeros((0, len(EDGES_S) - 1), np.float32)]
        ),
        **{
            name: np.concatenate([*(one.columns[name] for one in rounds), np.zeros(0, np.float32)])
            for name in _OF_DEVICE
        },
    }
    told = {FORMAT: json.dumps({"version": VERSION, "clients": clients})}
    return save(tensors, told)


def _numbered(
    one: _Encoded, curves: dict[tuple[float, ...], int], *, lines: int
) -> NDArray[np.int32]:
    """(N,) the devices' curves in the file's numbers; new ones are added to `curves`."""
    rows = (_row(curve, lines) for curve in one.curves)
    numbers = [curves.setdefault(row, len(curves)) for row in rows]
    return np.array(numbers, np.int32)[one.curve]


def _row(curve: _Curve, lines: int) -> tuple[float, ...]:
    """A curve with so many lines; no line at all is a line at 0."""
    powers, alpha, beta = curve
    if lines and not alpha:
        alpha, beta = (0.0,), (0.0,)
    missing = lines - len(alpha)
    return (*powers, *alpha, *(-np.inf,) * missing, *beta, *(0.0,) * missing)


# -- reading: others may have written the file -----------------------------------------------------


def records_in(content: bytes) -> list[Record]:
    """The rounds in a file.

    Raises:
        InvalidExperience: it is none, is damaged, of another version, or has what no job records.
    """
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"they have {len(content)} bytes, {MAX_BYTES} at most")
        tensors, text = read(content)
        told = json.loads(text[FORMAT])
        if told["version"] != VERSION:
            raise ValueError(f"it has version {told['version']}, this is for {VERSION}")
        clients = told["clients"]
        if not (isinstance(clients, list) and all(isinstance(one, str) for one in clients)):
            raise TypeError("its clients are no list of names")
        _check_tables(tensors)
        return _records(tensors, clients)
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise InvalidExperience(f"the recorded rounds cannot be read: {error}") from error


def _check_tables(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Whether the tables are as `file_of` makes them; what is made of them is then not large.

    Each device gets its row of `curves`, so rows have a bound of their own.
    """
    rounds, devices, curves, lines = (
        _length(tensors["rounds"]), _length(tensors["client"]), _length(tensors["curves"]),
        (_length(tensors["curves"].T) - len(OF_CURVE)) // 2,
    )  # fmt: skip
    if rounds > MAX_ROUNDS:
        raise ValueError(f"there are {rounds} rounds, {MAX_ROUNDS} at most")
    if curves > devices:
        raise ValueError(f"there are {curves} energy curves for {devices} devices")
    if lines > MAX_LINES:
        raise ValueError(f"an energy curve has {lines} lines, {MAX_LINES} at most")
    expected: dict[str, tuple[type, tuple[int, ...]]] = {
        "rounds": (np.float64, (rounds, len(_OF_ROUND))),
        "client": (np.int32, (devices,)),
        "curve": (np.int32, (devices,)),
        "curves": (np.float64, (curves, len(OF_CURVE) + 2 * lines)),
        "slots": (np.float32, (devices, len(EDGES_S) - 1)),
        **dict.fromkeys(_OF_DEVICE, (np.float32, (devices,))),
    }
    for name, (kind, shape) in expected.items():
        table = tensors[name]
        if table.dtype != kind or table.shape != shape:
            kept = np.dtype(kind)
            raise ValueError(f"{name} is {table.dtype} {table.shape}, not {kept} {shape}")


def _length(table: NDArray[Any]) -> int:
    return table.shape[0] if table.ndim else 0


def _records(tensors: Mapping[str, Array], clients: Sequence[str]) -> list[Record]:
    rounds, total = tensors["rounds"], len(tensors["client"])
    finite = ("rounds", "slots", *_OF_DEVICE)
    are_finite = all(np.isfinite(tensors[name]).all() for name in finite)
    if not are_finite or not (tensors["curves"] < np.inf).all():  # padding has lines at -inf
        raise ValueError("a value is not finite")
    each = rounds[:, _OF_ROUND.index("devices")]
    if ((each < 1) | (each > total)).any() or each.astype(int).sum() != total:
        raise ValueError("its tables do not fit together")
    if any((tensors[name] <= 0).any() for name in ("work", "upload", "min_ghz", "max_ghz", "ghz")):
        raise ValueError("a device without work, update or frequency")
    found: list[Record] = []
    known: dict[_Curve, _Curve] = {}
    first = 0
    for row, count in zip(rounds, each.astype(int).tolist(), strict=True):
        record = _record(row, tensors, part=slice(first, first + count), clients=clients)
        shared = tuple(known.setdefault(curve, curve) for curve in record.encoded.curves)
        object.__setattr__(record, "encoded", replace(record.encoded, curves=shared))
        found.append(record)
        first += count
    return found


def _record(
    row: Array, tensors: Mapping[str, Array], *, part: slice, clients: Sequence[str]
) -> Record:
    column = {name: tensors[name][part].astype(np.float64) for name in _OF_DEVICE}
    told = dict(zip(_OF_ROUND, row, strict=True))
    curves = tensors["curves"][tensors["curve"][part]]
    powers = dict(zip(OF_CURVE, curves.T, strict=False))
    alpha, beta = np.split(curves[:, len(OF_CURVE) :], 2, axis=1)
    devices = Devices(
        work=column["work"][None],
        upload=column["upload"][None],
        min_ghz=column["min_ghz"][None],
        max_ghz=column["max_ghz"][None],
        kappa=powers["kappa"][None],
        alpha=alpha[None],
        beta=beta[None],
        idle_watts=powers["idle_watts"][None],
        transmit_watts=powers["transmit_watts"][None],
        weight=np.array([[told["weight"]]]),
    )
    seen = Observation(
        devices=devices,
        slots_mbps=tensors["slots"][part].astype(np.float64)[None],
        last_mbps=column["last_mbps"][None],
        mean_mbps=column["mean_mbps"][None],
    )
    named = tuple(clients[i] for i in tensors["client"][part])
    return Record(
        round=int(told["round"]),
        at_s=float(told["at_s"]),
        clients=named,
        observation=seen,
        ghz=column["ghz"],
        seconds=float(told["seconds"]),
        joules=column["joules"],
        upload_s=column["upload_s"],
    )
