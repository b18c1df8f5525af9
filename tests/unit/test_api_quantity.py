"""Kubernetes quantities: what they are worth, what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lockstep_api.quantity import CEL_RULE, Quantity, format_cpu, parse_quantity

ADAPTER = TypeAdapter(Quantity)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", 0.5),
        ("2", 2.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1k", 1e3),
        ("1Ki", 1024.0),
        ("256Mi", 256.0 * 2**20),
        ("3M", 3e6),
        ("2Gi", 2.0 * 2**30),
        ("1T", 1e12),
        ("1Ei", 2.0**60),
        ("1E", 1e18),
        ("1e3", 1e3),
        ("1E3", 1e3),
        ("+25e-2", 0.25),
        ("250000u", 0.25),
        ("250000000n", 0.25),
    ],
)
def test_values(text: str, value: float) -> None:
    assert parse_quantity(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "-1", "1 Gi", "1gi", "1K", "Mi", "1e", "e3", "1e100", "one", "1mi", "1\n"]
)
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("cores", "text"), [(0.1, "100m"), (2, "2000m"), (0.12345, "123m"), (0.0, "1m"), (1e-9, "1m")]
)
def test_cpu_is_whole_millicores(cores: float, text: str) -> None:
    assert format_cpu(cores) == text


@given(st.integers(min_value=1, max_value=10**6))
def test_millicores_survive(milli: int) -> None:
    assert round(parse_quantity(format_cpu(milli / 1000)) * 1000) == milli


def test_numbers_become_text() -> None:
    assert ADAPTER.validate_python(2) == "2"
    assert ADAPTER.validate_python(0.5) == "0.5"


@pytest.mark.parametrize("value", ["0", "0m", "0.0Gi", 0, True, None, "1" * 33])
def test_what_a_field_refuses(value: object) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(value)


@given(st.from_regex(r"[0-9.]{0,6}(m|k|Ki|M|Mi|G|Gi|e3| )?", fullmatch=True))
def test_the_apiserver_and_the_model_agree(text: str) -> None:
    """The expression in the CRD accepts exactly the texts that the model accepts."""
    pattern = re.search(r"matches\(r'(.*)'\)", CEL_RULE)
    assert pattern is not None
    try:
        ADAPTER.validate_python(text)
    except ValidationError:
        assert not re.fullmatch(pattern[1], text)
    else:
        assert re.fullmatch(pattern[1], text)
