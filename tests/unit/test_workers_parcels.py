"""Parcels: what goes in comes out; what is none, or out of bounds, is refused with a reason."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from lockstep_api.sessions import Refusal
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.parcels import most_bytes, size_of, unwrap, wrap

TENSORS: dict[str, Any] = {
    "labels": np.arange(5),
    "front": np.linspace(-1, 1, 7, dtype=np.float32),
    "sums": np.random.default_rng(0).normal(size=(3, 4)),
    "half": np.arange(6, dtype=np.uint16).reshape(2, 3),
    "bytes": np.arange(3, dtype=np.uint8),
    "none": np.zeros((0, 4), np.float32),
}


def body(text: str = "{}", tensors: dict[str, Any] | None = None) -> bytes:
    """A whole parcel."""
    return b"".join(bytes(one) for one in wrap(text, TENSORS if tensors is None else tensors))


def made(header: object, values: bytes = b"") -> bytes:
    """A body with any header."""
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(told)) + told + values


def test_what_goes_in_comes_out() -> None:
    text = '{"words": "żółw \\"quoted\\""}'
    parcel = unwrap(body(text), text=100)
    assert parcel.text == text
    assert parcel.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert parcel.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(parcel.tensors[name], tensor)


def test_it_is_a_file_that_others_read_and_nothing_is_copied() -> None:
    values = np.ones(100, np.float32)
    pieces = wrap("x", {"v": values})
    np.testing.assert_array_equal(load(b"".join(map(bytes, pieces)))["v"], values)
    values[:] = 7
    whole = b"".join(map(bytes, pieces))
    assert len(whole) == size_of(pieces)
    assert unwrap(whole, text=1).tensors["v"][0] == 7
    buffer = bytearray(whole)
    view = unwrap(buffer, text=1).tensors["v"]
    assert np.may_share_memory(view, np.frombuffer(buffer, np.uint8))


def test_the_bound_has_room_for_the_widest_text() -> None:
    text, many = "ż" * 1000, {f"tensor-{i}" * 8: np.zeros(1, np.float32) for i in range(64)}
    assert len(body(text, many)) <= most_bytes(text=1000, values=4 * 64)
    assert unwrap(body(text, many), text=1000).text == text


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
META = {"text": "t"}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (b"", Refusal.MALFORMED),
        (struct.pack("<Q", 2**40), Refusal.MALFORMED),
        (struct.pack("<Q", 9) + b"{}", Refusal.MALFORMED),
        (made(b"no JSON"), Refusal.MALFORMED),
        (made(b"[" * 9000), Refusal.MALFORMED),
        (made([]), Refusal.MALFORMED),
        (made({"v": ENTRY}, bytes(8)), Refusal.MALFORMED),
        (made({"__metadata__": {"text": 3}}), Refusal.MALFORMED),
        (made({"__metadata__": META | {"more": "x"}}), Refusal.MALFORMED),
        (made({"__metadata__": META, "v": ENTRY}, bytes(7)), Refusal.MALFORMED),
        (made({"__metadata__": META, "v": ENTRY}, bytes(9)), Refusal.MALFORMED),
        (made({"__metadata__": META, "v": ENTRY, "w": ENTRY}, bytes(16)), Refusal.MALFORMED),
        (made({"__metadata__": META, "v": ENTRY | {"shape": [3]}}, bytes(8)), Refusal.MALFORMED),
        (made({"__metadata__": META, "v": ENTRY | {"shape": [-2]}}, bytes(8)), Refusal.SHAPE),
        (made({"__metadata__": META, "v": ENTRY | {"shape": [True]}}, bytes(8)), Refusal.SHAPE),
        (made({"__metadata__": META, "v": ENTRY | {"shape": [1] * 9}}, bytes(8)), Refusal.SHAPE),
        (made({"__metadata__": META, "v": ENTRY | {"shape": [2**41]}}, bytes(8)), Refusal.SHAPE),
        (made({"__metadata__": META, "v": ENTRY | {"dtype": "F8"}}, bytes(8)), Refusal.DTYPE),
        (made({"__metadata__": META, "v": 7}, bytes(8)), Refusal.DTYPE),
        (
            made({"__metadata__": META} | {f"v{i}": ENTRY for i in range(65)}, bytes(8)),
            Refusal.MALFORMED,
        ),
    ],
)
def test_what_is_none_is_refused(wrong: bytes, reason: Refusal) -> None:
    with pytest.raises(RefusedUpdate) as caught:
        unwrap(wrong, text=100)
    assert caught.value.reason is reason


def test_a_text_out_of_bounds_is_refused_unread() -> None:
    with pytest.raises(RefusedUpdate, match="out of bounds"):
        unwrap(body("x" * 120_000, {}), text=100)
