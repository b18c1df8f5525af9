"""Fixtures of the tests of the program `lockstep`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apiserver import FakeApi, running
from tests.support.cli import Lockstep


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """An apiserver that has the CRD and no job."""
    with running(FakeApi()) as served:
        yield served


@pytest.fixture
def lockstep(api: FakeApi, tmp_path: Path) -> Lockstep:
    """The program, whose kubeconfig names that apiserver."""
    return Lockstep(api, api.kubeconfig(tmp_path))
