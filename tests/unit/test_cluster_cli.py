"""The command line of the embedded cluster: which cluster and node its words mean."""

import subprocess

import pytest

from tests.cluster import cli, lifecycle


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is run instead of being run."""
    made: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        made.append(command)
        return subprocess.CompletedProcess(command, returncode=7)

    monkeypatch.setattr("subprocess.run", run)
    for name in ("CLUSTER", "LOCKSTEP_CLUSTER_NAME", "LOCKSTEP_NODES"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.mark.parametrize(
    ("options", "namespace"),
    [
        ([], "lockstep-device"),
        (["--name", "unseen"], "unseen-device"),
        (["--name", "unseen", "--node", "device=cloud"], "unseen-device"),
    ],
)
def test_exec_runs_on_a_node_of_the_cluster(
    commands: list[list[str]], options: list[str], namespace: str
) -> None:
    assert cli.main([*options, "exec", "device", "--", "tc", "-s", "qdisc"]) == 7
    assert commands == [["nsenter", f"--net=/run/netns/{namespace}", "--", "tc", "-s", "qdisc"]]


def test_exec_names_the_nodes_there_are(
    commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--name", "unseen", "exec", "fog", "--", "true"]) == 1
    assert "no node 'fog': the nodes are cloud, edge, device" in capsys.readouterr().err
    assert commands == []


def test_a_broken_cluster_is_said_with_what_mends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CLUSTER", raising=False)
    monkeypatch.setattr(lifecycle, "status", lambda _: "broken")
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().out == "cluster is broken: make cluster-up mends it\n"
