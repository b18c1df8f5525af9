"""What the docs tell people to type on a cluster does what it should there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import api
from tests.docs.commands import Command, How, those
from tests.docs.markdown import blocks
from tests.docs.on_cluster import Scene, adapted
from tests.docs.running import prepared
from tests.e2e.running import apply, lone_job, past_round, query, watch
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.cluster

JOB = "documented"


@pytest.fixture(scope="module")
def scene(lockstep: str) -> Scene:
    """A job that runs."""
    apply(lockstep, lone_job(JOB, training={"rounds": 100_000}))
    watch(lockstep, JOB, past_round(1))
    node = api.kubectl("get", "nodes", "-o", "name").split()[0].removeprefix("node/")
    return Scene(namespace=lockstep, system=lockstep, job=JOB, pod=f"{JOB}-cloud-0", node=node)


def said(command: Command, scene: Scene, folder: Path) -> str:
    """What a command says if it fails."""
    program, *words = adapted(command.words, scene)
    config = f"--kubeconfig={api.kubeconfig()}"
    if program == "lockstep":
        argv = [sys.executable, "-m", "lockstep_cli", *words, config, "-n", scene.namespace]
    else:
        argv = [str(api.tools() / program), config, *words]
    done = subprocess.run(
        argv, cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False,
        timeout=PATIENCE_S,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    where = f"{command.block.where}: {' '.join(argv[1:])}"
    return f"{where}: exit code {done.returncode}: {done.stderr.strip()[-300:]}"


def test_commands_of_the_docs_work_on_a_cluster(scene: Scene, tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    found = [said(command, scene, folder) for command in those(How.CLUSTER)]
    assert len(found) > 20
    assert [one for one in found if one] == []


def test_queries_of_the_docs_are_understood_by_prometheus(scene: Scene) -> None:
    asked = [block.text for block in blocks() if block.language == "promql"]
    assert asked
    for text in asked:
        query(scene.namespace, text)
