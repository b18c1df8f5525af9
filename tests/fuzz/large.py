"""Inputs as large as the objects of a cluster hold, which are made rather than kept.

A fuzzer's inputs are short. What a reader makes of sizes that multiply each other shows here.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from lockstep_allocator.header import read
from lockstep_allocator.observation import EDGES_S
from lockstep_allocator.policy import SHIPPED
from lockstep_allocator.records import FORMAT, MAX_LINES, VERSION

_OF_DEVICE = (
    "work", "upload", "min_ghz", "max_ghz", "last_mbps", "mean_mbps", "ghz", "joules", "upload_s",
)  # fmt: skip


# -- recorded rounds -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Recorded rounds as a file has them."""

    counts: tuple[int, ...]
    """Devices of each."""
    lines: int
    """Of each energy curve."""
    curves: int = 1
    clients: Any = ("a",)
    real: type[np.floating[Any]] = np.float32
    """Of what devices have."""
    curve: type[np.floating[Any]] = np.float64

    def file(self) -> bytes:
        """The file."""
        devices = sum(self.counts)
        rows: NDArray[Any] = np.zeros((self.curves, 3 + 2 * self.lines), self.curve)
        rows[:, 0] = np.arange(self.curves)
        heads = [[i, 1 + i, 1, 0.5, count] for i, count in enumerate(self.counts)]
        tensors: dict[str, NDArray[Any]] = {
            "rounds": np.array(heads, np.float64),
            "client": np.arange(devices, dtype=np.int32) % len(self.clients),
            "curve": np.arange(devices, dtype=np.int32) % self.curves,
            "curves": rows,
            "slots": np.ones((devices, len(EDGES_S) - 1), self.real),
            **{name: np.ones(devices, self.real) for name in _OF_DEVICE},
        }
        told = {"version": VERSION, "clients": self.clients}
        return save(tensors, {FORMAT: json.dumps(told)})


def _full(*counts: int, curves: int) -> Rounds:
    """What a job may really have recorded, with the longest curves that there are."""
    clients = [f"d-{i}" for i in range(max(counts))]
    return Rounds(counts=counts, lines=MAX_LINES, curves=curves, clients=clients)


_LONG_LINES = Rounds(counts=(2000,), lines=20_000, real=np.float16, curve=np.float16)
"""Each of 2,000 devices has the one curve, of 20,000 lines: 640 MB."""
_NAMED_BY_A_LIST = Rounds(counts=(2000,), lines=0, clients=[[0] * 200_000])
"""Each of 2,000 devices has the text of a list for its name: 1 GB."""


# -- policies --------------------------------------------------------------------------------------


def _shipped_with(changed: Mapping[str, NDArray[Any]]) -> bytes:
    """The shipped policy with some other weights."""
    content = SHIPPED.read_bytes()
    tensors, told = read(content)
    return save({**tensors, **changed}, told)


def _broad_bias() -> bytes:
    """A bias that makes the outputs of every layer 300,000 times as many: 1.3 GB."""
    return _shipped_with({"policy.enter.2.bias": np.zeros((300_000, 1, 1), np.int8)})


def _many_weights() -> bytes:
    """As many weights without a value as a file holds."""
    return _shipped_with({f"{i}": np.zeros(0, np.int8) for i in range(10_000)})


@dataclass(frozen=True, slots=True)
class Large:
    """An input of a target."""

    target: str
    make: Callable[[], bytes]
    """The file."""
    is_taken: bool = False


LARGE: Mapping[str, Large] = {
    "rounds whose curves are long": Large("experience", _LONG_LINES.file),
    "rounds whose clients are lists": Large("experience", _NAMED_BY_A_LIST.file),
    "one round": Large("experience", _full(7000, curves=1).file, is_taken=True),
    "many rounds": Large("experience", _full(*(70,) * 100, curves=1).file, is_taken=True),
    "many curves": Large("experience", _full(*(35,) * 100, curves=400).file, is_taken=True),
    "a policy whose bias is broad": Large("policy", _broad_bias),
    "a policy of many weights": Large("policy", _many_weights),
    "a policy": Large("policy", SHIPPED.read_bytes, is_taken=True),
}
