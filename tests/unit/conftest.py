"""Fixtures of the unit tests."""

from collections.abc import AsyncIterator

import pytest

from tests.support.planner import Setup, planner_of_a_job


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    async with planner_of_a_job() as made:
        yield made
