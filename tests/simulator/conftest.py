"""Fixtures of the simulator's tests."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The CLI sends logs to the standard error stream of its run, which ends with the test."""
    yield
    structlog.reset_defaults()
