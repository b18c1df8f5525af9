"""Tensors on the wire: a safetensors body with one flat float32 tensor, read without a copy.

The header is parsed strictly, since it comes from another pod; nothing is ever unpickled.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep_api.sessions import Refusal
from lockstep_workers.errors import RefusedUpdate

TENSOR = "flat"
MAX_HEADER_BYTES = 1024
_PREFIX = struct.Struct("<Q")

Flat = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of a file."""

    dtype: str
    """As safetensors names it."""
    shape: Sequence[int]
    n_bytes: int


def head(parts: Mapping[str, Part], metadata: Mapping[str, str] | None = None) -> bytes:
    """The length prefix and header of tensors that follow one after another."""
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    start = 0
    for name, part in parts.items():
        end = start + part.n_bytes
        offsets = [start, end]
        entries[name] = {"dtype": part.dtype, "shape": list(part.shape), "data_offsets": offsets}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _PREFIX.size) % 8)  # the tensor starts at a multiple of 8
    return _PREFIX.pack(len(text)) + text


def header(shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None) -> bytes:
    """The same of float32 tensors."""
    parts = {name: Part("F32", shape, 4 * math.prod(shape)) for name, shape in shapes.items()}
    return head(parts, metadata)


def body_bytes(n_values: int) -> int:
    """Size of the body of so many values."""
    return len(header({TENSOR: [n_values]})) + 4 * n_values


def encode(vectors: Sequence[Flat]) -> bytearray:
    """One body with the vectors one after another."""
    first = header({TENSOR: [sum(v.size for v in vectors)]})
    body = bytearray(len(first) + 4 * sum(v.size for v in vectors))
    body[: len(first)] = first
    flat = np.frombuffer(body, np.float32, offset=len(first))
    start = 0
    for vector in vectors:
        flat[start : start + vector.size] = vector
        start += vector.size
    return body


def max_body_bytes(n_values: int) -> int:
    """The largest body that a tensor of `n_values` values may need."""
    return _PREFIX.size + MAX_HEADER_BYTES + 4 * n_values


def decode(body: memoryview | bytearray | bytes, *, n_values: int) -> Flat:
    """The flat tensor of a body, as a view of it.

    Raises:
        RefusedUpdate: malformed, another dtype, or not `n_values` values.
    """
    entry, start = _entry(body)
    if entry.get("dtype") != "F32":
        raise RefusedUpdate(Refusal.DTYPE, f"dtype is {entry.get('dtype')!r:.40}, expected 'F32'")
    if entry.get("shape") != [n_values]:
        shape = entry.get("shape")
        raise RefusedUpdate(Refusal.SHAPE, f"shape is {shape!r:.40}, expected [{n_values}]")
    if entry.get("data_offsets") != [0, 4 * n_values] or len(body) != start + 4 * n_values:
        raise RefusedUpdate(Refusal.MALFORMED, "the tensor's bytes do not match its shape")
    return np.frombuffer(body, np.float32, count=n_values, offset=start)


def _entry(body: memoryview | bytearray | bytes) -> tuple[Mapping[str, object], int]:
    """The header's entry of the one tensor, and where its bytes start."""
    if len(body) < _PREFIX.size:
        raise RefusedUpdate(Refusal.MALFORMED, "the body is shorter than a safetensors header")
    (size,) = _PREFIX.unpack_from(body)
    if size > MAX_HEADER_BYTES or _PREFIX.size + size > len(body):
        raise RefusedUpdate(Refusal.MALFORMED, f"the header's length {size} is out of bounds")
    try:
        said = json.loads(bytes(body[_PREFIX.size : _PREFIX.size + size]))
    except (ValueError, RecursionError) as error:
        raise RefusedUpdate(Refusal.MALFORMED, "the header is not JSON") from error
    entry = said.get(TENSOR) if isinstance(said, dict) else None
    if not isinstance(entry, dict) or set(said) - {TENSOR, "__metadata__"}:
        raise RefusedUpdate(Refusal.MALFORMED, f"the body must hold one tensor named {TENSOR!r}")
    return entry, _PREFIX.size + size


def split(flat: Flat, names: Sequence[str]) -> dict[str, Flat]:
    """The named vectors of a flat tensor: views of equal length, in order."""
    return dict(zip(names, np.split(flat, len(names)), strict=True))


def check_values(flat: Flat, what: str = "the update has values") -> None:
    """One pass over a vector: ‖x‖² is finite only if every value is, and none is huge.

    A huge vector (a norm above 1.8e19) is refused too: its weighted sum could overflow.

    Raises:
        RefusedUpdate: values that are not finite, or huge.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.dot(flat, flat)
    if not np.isfinite(square):
        wrong = "too large to be averaged" if np.isfinite(flat).all() else "not finite"
        raise RefusedUpdate(Refusal.NON_FINITE, f"{what} that are {wrong}")
