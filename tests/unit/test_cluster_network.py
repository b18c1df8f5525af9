"""The cluster's links take no name that something else has."""

from pathlib import Path

import pytest

from tests.cluster import network
from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(network, "LINKS", tmp_path / "links")
    monkeypatch.setattr(network, "NAMESPACES", tmp_path / "netns")
    monkeypatch.setattr("tests.cluster.cgroups.has_members", lambda name: name == "theirs-edge")
    return tmp_path


def test_free_names_are_taken(machine: Path) -> None:
    network.check_names_free(Layout())


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("links/lockstep-up", "a link lockstep-up"),
        ("netns/lockstep", "a network namespace lockstep "),
        ("netns/lockstep-device", "a network namespace lockstep-device"),
    ],
)
def test_a_name_that_is_taken_is_refused(machine: Path, path: str, said: str) -> None:
    (machine / path).mkdir(parents=True)
    with pytest.raises(ClusterError, match=f"{said}.*choose another name"):
        network.check_names_free(Layout())


def test_processes_of_others_are_not_taken_for_pods(machine: Path) -> None:
    with pytest.raises(ClusterError, match="a control group theirs-edge"):
        network.check_names_free(Layout(name="theirs"))
