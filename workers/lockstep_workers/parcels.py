"""Parcels: one body with named tensors and a text, what cloud pod and edges send each other.

A safetensors file whose metadata has the text (JSON of `lockstep_api.orders`). Written without a
copy, read as views of the body. Invariant: a body from elsewhere is looked at strictly, within
bounds that the reader names; its tensors follow one after another, and nothing is left over.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep_api.sessions import Refusal
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.tensors import Part, head

TEXT = "text"
MOST_TENSORS = 64
_PREFIX = struct.Struct("<Q")
_HEADER_BYTES = 256
"""Of a tensor in the header, at most, and of what is around them."""
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Tensor = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a body holds."""

    text: str
    tensors: Mapping[str, Tensor]
    """By name, as views of the body."""


def wrap(text: str, tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """The pieces of a body; those of the tensors are views of them, the widest values first."""
    wide_first = sorted(tensors, key=lambda name: -tensors[name].itemsize)
    whole = {name: np.ascontiguousarray(tensors[name]) for name in wide_first}
    parts = {n: Part(_NAMES[t.dtype], t.shape, t.nbytes) for n, t in whole.items()}
    values = [t.reshape(-1).view(np.uint8).data for t in whole.values() if t.nbytes]
    return [head(parts, {TEXT: text}), *values]


def size_of(pieces: list[bytes | memoryview]) -> int:
    """Bytes of a body."""
    return sum(len(piece) for piece in pieces)


def most_bytes(*, text: int, values: int) -> int:
    """The largest body with so many characters of text and bytes of values."""
    return _PREFIX.size + _most_header(text) + values


def _most_header(text: int) -> int:
    # JSON in JSON: what is not ASCII takes six bytes.
    return 6 * text + _HEADER_BYTES * (MOST_TENSORS + 1)


def unwrap(body: memoryview | bytearray | bytes, *, text: int) -> Parcel:
    """The parcel in a body, with at most so many characters of text.

    Raises:
        RefusedUpdate: it is none, or out of bounds.
    """
    said, start = _header(body, most=_most_header(text))
    metadata = said.pop("__metadata__", None)
    told = metadata.get(TEXT) if isinstance(metadata, dict) else None
    if not isinstance(told, str) or len(metadata) != 1:  # type: ignore[arg-type]
        raise _malformed(f"the metadata must hold one text named {TEXT!r}")
    if len(said) > MOST_TENSORS:
        raise _malformed(f"it has {len(said)} tensors, at most {MOST_TENSORS} are taken")
    tensors, at = {}, start
    for name, entry in said.items():
        tensors[name], at = _tensor(body, entry, start=start, at=at)
    if at != len(body):
        raise _malformed("the tensors' bytes do not fill the body")
    return Parcel(told, tensors)


def _header(body: memoryview | bytearray | bytes, *, most: int) -> tuple[dict[str, object], int]:
    if len(body) < _PREFIX.size:
        raise _malformed("the body is shorter than a safetensors header")
    (size,) = _PREFIX.unpack_from(body)
    if size > most or _PREFIX.size + size > len(body):
        raise _malformed(f"the header's length {size} is out of bounds")
    try:
        said = json.loads(bytes(body[_PREFIX.size : _PREFIX.size + size]))
    except (ValueError, RecursionError) as error:
        raise _malformed("the header is not JSON") from error
    if not isinstance(said, dict):
        raise _malformed("the header is not a JSON object")
    return said, _PREFIX.size + size


def _tensor(
    body: memoryview | bytearray | bytes, entry: object, *, start: int, at: int
) -> tuple[Tensor, int]:
    """The tensor whose bytes must begin at `at`, and where they end."""
    told = entry if isinstance(entry, dict) else {}
    dtype, shape = _DTYPES.get(str(told.get("dtype"))), told.get("shape")
    if dtype is None:
        raise RefusedUpdate(Refusal.DTYPE, f"dtype {told.get('dtype')!r:.40} is not taken")
    if not isinstance(shape, list) or not all(_is_size(one) for one in shape) or len(shape) > 8:
        raise RefusedUpdate(Refusal.SHAPE, f"shape {shape!r:.40} is none")
    count = math.prod(shape)
    end = at + count * dtype.itemsize
    if told.get("data_offsets") != [at - start, end - start] or end > len(body):
        raise _malformed("a tensor's bytes do not match its shape")
    return np.frombuffer(body, dtype, count=count, offset=at).reshape(shape), end


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _malformed(why: str) -> RefusedUpdate:
    return RefusedUpdate(Refusal.MALFORMED, why)
