"""Frames of a split connection, which device and edge exchange in a round of split training.

A frame is a head of 16 bytes and what belongs to it; both sides know beforehand how long that is
(`Shape`), so nothing is parsed. Over one connection, a device (>) and its edge (<):

front updated each step   < FRONT  > ACTIVATIONS  < GRADIENT  > FRONT_GRADIENT   and again
front updated each round  < FRONT  > ACTIVATIONS  < GRADIENT  > ACTIVATIONS …
at the end                < DONE   > END          < TAKEN

REFUSED, with a reason, may stand in the place of any frame of the edge; then it closes.
Invariant: a head that is not the expected one is refused before a byte behind it is used.
"""

import json
import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

from lockstep_api.sessions import Refusal
from lockstep_api.spec import WireDtype
from lockstep_workers.errors import RefusedUpdate

HEAD = struct.Struct("<BBHIII")
HEAD_BYTES = HEAD.size
MOST_TEXT_BYTES = 1 << 16
"""Of a report or a reason."""
_MOST_REASON = 1000
_MAGIC = 0x4C53
_LABEL = np.dtype("<i4")

Flat = NDArray[np.float32]
Labels = NDArray[np.int64]


class Kind(IntEnum):
    """What a frame carries."""

    FRONT = 1
    """The front half's values, float32; its step says which batch to draw."""
    ACTIVATIONS = 2
    """Labels (int32) of a step's examples, then their activations."""
    GRADIENT = 3
    """Of the loss, by these activations."""
    FRONT_GRADIENT = 4
    """Of the loss, by the front half's values, float32."""
    DONE = 5
    """There is no further step."""
    END = 6
    """The device's own front, where it steps it itself, float32; then its report."""
    TAKEN = 7
    """The end is known: the connection may be closed."""
    REFUSED = 8
    """Why the connection is closed."""


class Dtype(IntEnum):
    """How a frame's values travel."""

    NONE = 0
    FLOAT32 = 1
    BFLOAT16 = 2


@dataclass(frozen=True, slots=True)
class Head:
    """The 16 bytes that a frame begins with."""

    kind: Kind
    round: int
    step: int
    count: int = 0
    """Rows of activations or gradients; values of a front; bytes of a text."""
    dtype: Dtype = Dtype.NONE


def unpacked(data: bytes | bytearray | memoryview) -> Head:
    """A head.

    Raises:
        RefusedUpdate: it is none.
    """
    kind, dtype, magic, number, step, count = HEAD.unpack_from(data)
    try:
        if magic == _MAGIC:
            return Head(Kind(kind), number, step, count, Dtype(dtype))
    except ValueError:
        pass
    raise RefusedUpdate(Refusal.MALFORMED, "what came is no head of a frame")


@dataclass(frozen=True, slots=True)
class Shape:
    """What both sides know of one device's frames in a round."""

    round: int
    rows: int
    """Examples of each of its steps."""
    values: int
    """Activation values of an example."""
    front_values: int
    """Values of the front half."""
    wire: WireDtype
    keeps_front: bool = False
    """The device steps its own front, and ends with it (frontUpdate round)."""

    @property
    def is_wide(self) -> bool:
        """Whether activations travel as they are computed."""
        return self.wire is WireDtype.FLOAT32

    @property
    def label_bytes(self) -> int:
        """The labels of a step."""
        return _LABEL.itemsize * self.rows

    @property
    def cut_bytes(self) -> int:
        """Activations, or their gradient, of a step."""
        return (4 if self.is_wide else 2) * self.rows * self.values

    @property
    def front_bytes(self) -> int:
        """The front half's values."""
        return 4 * self.front_values

    @property
    def end_front_bytes(self) -> int:
        """The front in an END."""
        return self.front_bytes if self.keeps_front else 0

    def head(self, kind: Kind, step: int, *, text_bytes: int = 0) -> bytes:
        """The head of a frame in this round, as it travels."""
        count, dtype = self._count(kind, text_bytes)
        return HEAD.pack(kind, dtype, _MAGIC, self.round, step, count)

    def _count(self, kind: Kind, text_bytes: int) -> tuple[int, Dtype]:
        if kind is Kind.ACTIVATIONS or kind is Kind.GRADIENT:
            return self.rows, Dtype.FLOAT32 if self.is_wide else Dtype.BFLOAT16
        if kind is Kind.FRONT or kind is Kind.FRONT_GRADIENT:
            return self.front_values, Dtype.FLOAT32
        return text_bytes, Dtype.NONE

    def body_bytes(self, head: Head) -> int:
        """What follows a head that was checked."""
        match head.kind:
            case Kind.ACTIVATIONS:
                return self.label_bytes + self.cut_bytes
            case Kind.GRADIENT:
                return self.cut_bytes
            case Kind.FRONT | Kind.FRONT_GRADIENT:
                return self.front_bytes
            case Kind.END:
                return self.end_front_bytes + head.count
            case Kind.REFUSED:
                return head.count
            case _:
                return 0

    def check(self, found: Head, kind: Kind, *, step: int | None) -> None:
        """Whether a head is that of the frame to come; any step when None.

        Raises:
            RefusedUpdate: it is not.
        """
        if found.kind is not kind:
            what = f"a frame {found.kind.name} came where {kind.name} was expected"
            raise RefusedUpdate(Refusal.MALFORMED, what)
        if found.round != self.round:
            what = f"a frame of round {found.round} came in round {self.round}"
            raise RefusedUpdate(Refusal.WRONG_ROUND, what)
        if step is not None and found.step != step:
            what = f"{kind.name} of step {found.step} came where step {step} was expected"
            raise RefusedUpdate(Refusal.MALFORMED, what)
        is_text = kind is Kind.END or kind is Kind.REFUSED
        if is_text and found.count > MOST_TEXT_BYTES:
            what = f"a text of {found.count} bytes came, at most {MOST_TEXT_BYTES} are taken"
            raise RefusedUpdate(Refusal.TOO_LARGE, what)
        count, dtype = self._count(kind, found.count if is_text else 0)
        if found.count != count:
            what = f"{kind.name} has {found.count} rows or values, {count} were expected"
            raise RefusedUpdate(Refusal.SHAPE, what)
        if found.dtype is not dtype:
            what = f"{kind.name} is {found.dtype.name}, {dtype.name} was expected"
            raise RefusedUpdate(Refusal.DTYPE, what)


def write_labels(labels: Labels, into: memoryview) -> None:
    """Labels as they travel."""
    np.frombuffer(into, _LABEL)[:] = labels


def read_labels(data: memoryview, into: Labels, *, classes: int) -> None:
    """Labels that came.

    Raises:
        RefusedUpdate: one is none of so many classes.
    """
    labels = np.frombuffer(data, _LABEL)
    wrong = labels.view(np.uint32) >= classes  # a negative one is large
    if wrong.any():
        what = f"label {labels[wrong][0]} is not one of {classes} classes"
        raise RefusedUpdate(Refusal.MALFORMED, what)
    into[:] = labels


def narrow(values: NDArray[np.float32], into: memoryview) -> None:
    """Rounds to the nearest bfloat16."""
    target = torch.frombuffer(into, dtype=torch.bfloat16)
    target.copy_(torch.from_numpy(values.reshape(-1)))


def widen(data: memoryview, into: NDArray[np.float32]) -> None:
    """Makes float32 (one behind another) of bfloat16, exactly."""
    source = torch.frombuffer(data, dtype=torch.bfloat16)
    torch.from_numpy(into).copy_(source)


def as_bytes(values: NDArray[np.float32]) -> memoryview:
    """The bytes of values, which must lie one behind another."""
    return values.data.cast("B")


def refusal(shape: Shape, error: RefusedUpdate) -> bytes:
    """The frame that says why a connection is closed."""
    said = {"reason": error.reason.value, "message": str(error)[:_MOST_REASON]}
    text = json.dumps(said).encode()
    return shape.head(Kind.REFUSED, 0, text_bytes=len(text)) + text


def refused(text: bytes) -> RefusedUpdate:
    """What such a frame says, whatever stands in it."""
    try:
        said = json.loads(text)
        return RefusedUpdate(Refusal(said["reason"]), str(said["message"])[:_MOST_REASON])
    except (ValueError, TypeError, KeyError, RecursionError):
        return RefusedUpdate(Refusal.MALFORMED, "the edge refuses without a reason")
