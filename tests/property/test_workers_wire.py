"""The decoder of bodies from other pods: right or refused, never another error."""

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lockstep_api.sessions import Refusal
from lockstep_api.wire import UpdateReport
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.tensors import check_values, decode, encode, max_body_bytes, split

FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=64)


@given(values=FLOATS)
def test_what_is_encoded_comes_back(values: list[float]) -> None:
    vector = np.asarray(values, np.float32)
    body = encode([vector, vector])
    assert len(body) <= max_body_bytes(2 * vector.size)
    parts = split(decode(body, n_values=2 * vector.size), ("a", "b"))
    assert np.array_equal(parts["a"], vector, equal_nan=True)
    assert np.array_equal(parts["b"], vector, equal_nan=True)


@given(body=st.binary(max_size=300), n_values=st.integers(0, 100))
def test_any_bytes_are_decoded_or_refused(body: bytes, n_values: int) -> None:
    with suppress(RefusedUpdate):
        assert decode(body, n_values=n_values).size == n_values


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=4)
)


@given(entry=st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON))
def test_any_header_is_decoded_or_refused(entry: dict[str, object]) -> None:
    text = json.dumps({"flat": entry}).encode()
    with pytest.raises(RefusedUpdate):
        decode(struct.pack("<Q", len(text)) + text + bytes(16), n_values=4)


@given(values=FLOATS)
def test_what_is_not_finite_is_refused(values: list[float]) -> None:
    vector = np.asarray(values, np.float32)
    if not np.isfinite(vector).all():
        with pytest.raises(RefusedUpdate, match="not finite"):
            check_values(vector)
    elif np.abs(vector).max() < 1e18:
        check_values(vector)


def test_values_whose_sum_could_overflow_are_refused_for_that() -> None:
    with pytest.raises(RefusedUpdate, match="too large to be averaged"):
        check_values(np.full(4, 3e38, np.float32))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": "F16"}, Refusal.DTYPE),
        ({"shape": [5]}, Refusal.SHAPE),
        ({"data_offsets": [0, 8]}, Refusal.MALFORMED),
    ],
)
def test_each_wrong_field_has_its_reason(change: dict[str, object], reason: Refusal) -> None:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | change
    text = json.dumps({"flat": entry}).encode()
    with pytest.raises(RefusedUpdate) as caught:
        decode(struct.pack("<Q", len(text)) + text + bytes(16), n_values=4)
    assert caught.value.reason is reason


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999"])
@pytest.mark.parametrize("field", ["frequencyGHz", "computeSeconds", "model"])
def test_a_report_that_would_not_survive_json_is_none(field: str, number: str) -> None:
    """JSON has no infinity: written as null, it would spoil the plan request and the checkpoint."""
    seconds = ("download", "compute", "cpu", "throttled")
    report: dict[str, object] = {
        "client": "d-0",
        "round": 1,
        "examples": 1,
        "steps": 1,
        "frequencyGHz": 1.0,
    }
    report |= {f"{each}Seconds": 0.0 for each in seconds} | {"energyJoules": {"model": 1.0}}
    text = json.dumps(report)
    assert UpdateReport.model_validate_json(UpdateReport.model_validate_json(text).to_json())
    key = f'"{field}": '
    bad = text.replace(f"{key}1.0", key + number).replace(f"{key}0.0", key + number)
    assert bad != text
    with pytest.raises(ValidationError):
        UpdateReport.model_validate_json(bad)
