"""How commands of the docs are run against a cluster: on the job there, changing nothing."""

import shlex

import pytest

from tests.docs.on_cluster import Scene, adapted, example_names

SCENE = Scene(namespace="team", system="system", job="mine", pod="mine-cloud-0", node="node-1")


@pytest.mark.parametrize(
    ("said", "run"),
    [
        ("kubectl get fj --watch", "kubectl -n team get fj"),
        ("kubectl describe fj fashion-mnist", "kubectl -n team describe fj mine"),
        ("kubectl -n NAMESPACE logs POD --previous", "kubectl -n team logs mine-cloud-0"),
        ("kubectl -n SYSTEM logs deploy/x", "kubectl -n system logs deploy/x"),
        (
            "kubectl apply -f docs/examples/split.yaml",
            "kubectl -n team apply -f docs/examples/split.yaml --dry-run=server",
        ),
        (
            "kubectl -n NAMESPACE patch fj JOB --type=merge -p x",
            "kubectl -n team patch fj mine --type=merge -p x --dry-run=server",
        ),
        (
            "kubectl label node NODE lockstep.dev/tier=edge",
            "kubectl -n team label node node-1 lockstep.dev/tier=edge --overwrite --dry-run=server",
        ),
        (
            "kubectl get pods -l lockstep.dev/job=split -L lockstep.dev/cluster",
            "kubectl -n team get pods -l lockstep.dev/job=mine -L lockstep.dev/cluster",
        ),
        (
            "helm install lockstep charts/lockstep --namespace lockstep-system --create-namespace",
            "helm template lockstep charts/lockstep --namespace system",
        ),
        ("lockstep watch fashion-mnist", "lockstep watch mine"),
    ],
)
def test_a_command_is_run_on_the_job_that_is_there(said: str, run: str) -> None:
    assert shlex.join(adapted(shlex.split(said), SCENE)) == run


def test_examples_are_known_by_name() -> None:
    assert {"fashion-mnist", "split", "hierarchical"} <= example_names()
