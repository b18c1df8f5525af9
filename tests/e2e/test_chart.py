"""The chart with the real helm: what it installs, what the operator may do, what it leaves behind.

Installed for one namespace only, so that it takes no job away from another operator in the cluster.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from images.cli import push_target
from images.recipe import project_version, reference
from lockstep_api.names import Role, service_account_name
from lockstep_operator.rights import RIGHTS, Scope
from tests.cluster import api
from tests.e2e.polled import wait_until_allowed
from tests.e2e.running import eventually
from tests.support.patience import PATIENCE_S, TIMEOUT

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
CHART = str(ROOT / "charts" / "lockstep")
CRD_FILE = ROOT / "crds" / "lockstep.dev_federatedjobs.yaml"
CRD_NAME = "federatedjobs.lockstep.dev"
KINDS = (
    "deployments,replicasets,pods,services,configmaps,serviceaccounts,roles,rolebindings,"
    "persistentvolumeclaims,clusterroles,clusterrolebindings,networkpolicies,"
    "validatingadmissionpolicies,validatingadmissionpolicybindings"
)

Json = dict[str, Any]


def tool(name: str, *words: str, stdin: str | None = None) -> tuple[int, str]:
    """Exit code and all that kubectl or helm said: here errors are results, too."""
    done = subprocess.run(
        [str(api.tools() / name), f"--kubeconfig={api.kubeconfig()}", *words],
        input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def rendered(*words: str, namespace: str = "lockstep-system") -> dict[tuple[str, str], Json]:
    """What `helm template` makes, by kind and name."""
    text = api.helm("template", "lockstep", CHART, "--namespace", namespace, *words)
    made = [document for document in yaml.safe_load_all(text) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in made}


def test_lint(cluster: Path) -> None:
    code, said = tool("helm", "lint", "--strict", CHART)
    assert code == 0, said


VALUES = {
    "defaults": [],
    "list-of-namespaces": ["--set", "watchNamespaces={default,kube-public}"],
    "persistent": ["--set", "prometheus.storage.persistent=true"],
    "two-operators": ["--set", "operator.replicas=2"],
    "no-prometheus": ["--set", "prometheus.enabled=false,rbac.aggregate=false"],
    "everything": [
        "--set", "image.registry=registry.example.org/team/,image.tag=v2,image.pullSecrets={key}",
        "--set", "operator.cpuWatts=3.5,operator.planner.auth=false,operator.logFormat=json",
        "--set", "priorityClassName=system-cluster-critical,nodeSelector.disk=ssd",
        "--set", "operator.podAnnotations.a=b,prometheus.podAnnotations.c=d",
        "--set-json", 'tolerations=[{"key":"x","operator":"Exists"}]',
        "--set-json", "operator.resources={}",
    ],
}  # fmt: skip


@pytest.mark.parametrize("words", VALUES.values(), ids=VALUES.keys())
def test_the_apiserver_takes_what_it_renders(namespace: str, words: list[str]) -> None:
    manifests = api.helm("template", "lockstep", CHART, "--namespace", namespace, *words)
    apply = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-")
    code, said = tool("kubectl", *apply, stdin=manifests)
    assert code == 0, said
    assert "Warning" not in said


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("image.pullPolicy=Sometimes", "value must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("operator.cpuWatts=0", "exclusiveMinimum: got 0, want 0"),
        ("operator.boostCores=-0.5", "does not match pattern"),
        ("operator.planner.auth=maybe", "got string, want boolean"),
        ("promtheus.enabled=false", "additional properties 'promtheus' not allowed"),
        ("operator.allowedImages={two words}", "does not match pattern"),
        ("operator.allowedPriorityClasses=high", "got string, want array"),
        ("prometheus.limits.bodySize=4", "got number, want string"),
        ("admissionPolicy.enabled=maybe", "got string, want boolean"),
        ("operator.copies=2", "additional properties 'copies' not allowed"),
        ("watchNamespaces={Team_A}", "does not match pattern"),
        ("watchNamespaces=default", "got string, want array"),
        ("prometheus.scrapeInterval=often", "does not match pattern"),
        ("prometheus.evaluationInterval=0", "got number, want string"),
        ("prometheus.alertmanagers={two words}", "does not match pattern"),
        ("alerts.runbookBase=https://x/#y", "does not match pattern"),
        ("alerts.rules.LockstepJobStuck.for=long", "does not match pattern"),
        ("alerts.rules.LockstepStuck.for=1m", "LockstepStuck: there is no such alert"),
        ("monitoring.podMonitor.every=1s", "additional properties 'every' not allowed"),
        ("operator.resources.limits.cpu=lots", "does not match pattern"),
        ("dashboards.label=no spaces", "does not match pattern"),
        ("dashboards.grafanaOperator.selector=x", "additional properties 'selector' not allowed"),
    ],
)
def test_a_wrong_value_is_refused(cluster: Path, value: str, message: str) -> None:
    code, said = tool("helm", "template", "lockstep", CHART, "--set", value)
    assert code != 0
    assert message in said
    assert re.split("[.=]", value, maxsplit=1)[0] in said


def test_every_value_is_explained_and_in_the_schema(cluster: Path) -> None:
    text = (ROOT / "charts" / "lockstep" / "values.yaml").read_text()
    schema = json.loads((ROOT / "charts" / "lockstep" / "values.schema.json").read_text())
    values = yaml.safe_load(text)
    assert set(values) == set(schema["properties"]) - {"global"}
    for name in (
        "image", "crds", "operator", "worker", "tls", "prometheus", "alerts", "monitoring", "rbac",
        "admissionPolicy",
        "dashboards",
    ):  # fmt: skip
        assert set(values[name]) == set(schema["properties"][name]["properties"])
        block = text.split(f"\n{name}:\n", 1)[1].split("\n\n", 1)[0].splitlines()
        for key in values[name]:
            line = next(i for i, found in enumerate(block) if found.startswith(f"  {key}:"))
            parts = isinstance(values[name][key], dict) and block[line].endswith(":")
            assert "#" in block[line - 1] or (parts and "#" in block[line + 1]), f"{name}.{key}"


def scraping(*words: str) -> Json:
    """How Prometheus scrapes the pods of jobs."""
    made = rendered(*words)
    config = made["ConfigMap", "lockstep-prometheus"]["data"]["prometheus.yml"]
    found: Json = yaml.safe_load(config)["scrape_configs"][0]
    return found


def relabelled(job: Json, target: str) -> Json:
    return next(one for one in job["relabel_configs"] if one.get("target_label") == target)


@pytest.mark.parametrize(
    ("interval", "taken", "left"),
    [
        ("1s", ["2s", "5s", "60s"], ["1s", "05s", "61s", "5ms", "5m", ""]),
        ("500ms", ["1s", "5s"], ["0s"]),
        ("5s", ["6s", "10s"], ["1s", "5s"]),
    ],
)
def test_a_pod_may_ask_to_be_scraped_less_often_only(
    cluster: Path, interval: str, taken: list[str], left: list[str]
) -> None:
    job = scraping("--set", f"prometheus.scrapeInterval={interval}")
    for target in ("__scrape_interval__", "__scrape_timeout__"):
        rule = relabelled(job, target)
        pattern = re.compile(rule["regex"])
        assert all(pattern.fullmatch(one) for one in taken)
        assert not any(pattern.fullmatch(one) for one in left)
        assert pattern.fullmatch(taken[0])[1] + "s" == taken[0]  # type: ignore[index]
        assert rule.get("replacement", "$1") == "${1}s"


@pytest.mark.parametrize(
    ("size", "most"), [("2Gi", 1610612736), ("500M", 375000000), ("1000000000", 750000000)]
)
def test_samples_go_before_the_volume_is_full(cluster: Path, size: str, most: int) -> None:
    made = rendered("--set", f"prometheus.storage.size={size}")
    pod = made["Deployment", "lockstep-prometheus"]["spec"]["template"]["spec"]
    assert f"--storage.tsdb.retention.size={most}B" in pod["containers"][0]["args"]


def images_of(made: dict[tuple[str, str], Json]) -> list[str]:
    """The images of the operator, of jobs' pods and of Prometheus."""
    operator, prometheus = (
        made["Deployment", f"lockstep-{name}"]["spec"]["template"]["spec"]["containers"][0]
        for name in ("operator", "prometheus")
    )
    env = {variable["name"]: variable.get("value") for variable in operator["env"]}
    return [operator["image"], env["LOCKSTEP_WORKER_IMAGE"], prometheus["image"]]


def test_images_are_those_that_make_builds_or_pushes(cluster: Path) -> None:
    parts = ("operator", "worker", "prometheus")
    assert images_of(rendered()) == [reference(part, project_version()) for part in parts]
    registry = ("--set", "image.registry=registry.example.org/team")
    pushed = [
        push_target("registry.example.org/team", part, version=project_version()) for part in parts
    ]
    assert images_of(rendered(*registry)) == pushed
    own = images_of(rendered(*registry, "--set", "worker.image=mine:1"))
    assert own == [pushed[0], "mine:1", pushed[2]]


def test_the_crd_is_that_of_the_models_and_stays(cluster: Path) -> None:
    made = rendered()["CustomResourceDefinition", CRD_NAME]
    assert made["spec"] == yaml.safe_load(CRD_FILE.read_text())["spec"]
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    unkept = rendered("--set", "crds.keep=false")["CustomResourceDefinition", CRD_NAME]
    assert "annotations" not in unkept["metadata"]
    assert ("CustomResourceDefinition", CRD_NAME) not in rendered("--set", "crds.install=false")


def test_pods_are_locked_down(cluster: Path) -> None:
    for name in ("operator", "prometheus"):
        pod = rendered()["Deployment", f"lockstep-{name}"]["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_rights_follow_the_namespaces(cluster: Path) -> None:
    """For all namespaces one ClusterRole; for a list Roles there, and little in the cluster."""
    everywhere = rendered()
    own = "lockstep-operator-own"
    assert [name for kind, name in everywhere if kind == "Role"] == [own]
    text = api.helm("template", "lockstep", CHART, "--set", "watchNamespaces={a,b}")
    made = [document for document in yaml.safe_load_all(text) if document]
    roles = [d for d in made if d["kind"] == "Role" and d["metadata"]["name"].endswith("operator")]
    assert [role["metadata"]["namespace"] for role in roles] == ["a", "b"]
    cluster_role = next(
        d for d in made if d["kind"] == "ClusterRole" and d["metadata"]["name"].endswith("operator")
    )
    assert {verb for rule in cluster_role["rules"] for verb in rule["verbs"]} == {
        "get", "list", "watch", "create",
    }  # fmt: skip
    read = {"/.well-known/openid-configuration", "/openid/v1/jwks"}
    assert read == {
        url for rule in cluster_role["rules"] for url in rule.get("nonResourceURLs", ())
    }
    created = [rule["resources"] for rule in cluster_role["rules"] if "create" in rule["verbs"]]
    assert created == [["tokenreviews"], ["subjectaccessreviews"]]


def test_operators_know_each_other_by_a_right_that_nobody_else_is_given(cluster: Path) -> None:
    """A Lease counts where its account may write what became of jobs."""
    made = rendered()
    writes = {"create", "update", "patch"}
    given = [
        name
        for (kind, name), one in made.items()
        if kind in {"ClusterRole", "Role"}
        for rule in one["rules"]
        if "federatedjobs/status" in rule.get("resources", ()) and writes & {*rule["verbs"]}
    ]
    assert given == ["lockstep-system:lockstep-operator"]
    pod = made["Deployment", "lockstep-operator"]["spec"]["template"]["spec"]
    (account,) = (one for one in pod["containers"][0]["env"] if one["name"] == "LOCKSTEP_ACCOUNT")
    assert account["valueFrom"] == {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}


@pytest.mark.parametrize("makes", [True, False])
def test_secrets_are_touched_only_where_certificates_are_made(cluster: Path, makes: bool) -> None:
    role = rendered("--set", f"tls.enabled={str(makes).lower()}")["Role", "lockstep-operator-own"]
    secrets = [rule["verbs"] for rule in role["rules"] if rule["resources"] == ["secrets"]]
    assert secrets == ([["create"], ["get"]] if makes else [])


@pytest.fixture(scope="module")
def installed(cluster: Path) -> Iterator[str]:
    """The chart, installed in a namespace of its own and for that only."""
    name = f"test-chart-{time.time_ns() % 10**8}"
    only = f"watchNamespaces={{{name}}}"
    api.kubectl("create", "namespace", name)
    api.helm("install", "lockstep", CHART, "--namespace", name, "--set", only)
    operator = f"system:serviceaccount:{name}:lockstep-operator"
    wait_until_allowed(operator, "list", "federatedjobs", within=name)
    wait_until_allowed(operator, "create", "tokenreviews", within="kube-public")
    yield name
    api.kubectl("-n", name, "delete", "fj", "--all")
    api.helm("uninstall", "lockstep", "--namespace", name)
    api.kubectl("delete", "namespace", name, "--wait=false")


def test_a_second_release_for_the_same_namespace_is_refused(installed: str) -> None:
    """In words, before anything of it is there; for other namespaces it is welcome."""
    words = ("install", "second", CHART, "--namespace", "kube-public", "--dry-run=server")
    code, said = tool("helm", *words, "--set", f"watchNamespaces={{default,{installed}}}")
    assert code != 0
    where = f"release lockstep in namespace {installed}"
    assert f"{where} runs the jobs of namespace {installed} already: take it out" in said
    code, said = tool("helm", *words, "--set", "watchNamespaces={default}")
    assert code == 0, said


def test_a_second_release_for_all_namespaces_is_refused(namespace: str) -> None:
    """The first is played by the one object of it that says what it looks after."""
    notes = {
        "lockstep.dev/namespaces": "[]",
        "meta.helm.sh/release-name": "first",
        "meta.helm.sh/release-namespace": namespace,
    }
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": f"{namespace}:lockstep-operator", "annotations": notes},
    }
    api.kubectl("apply", "-f", "-", stdin=json.dumps(role))
    try:
        words = ("install", "second", CHART, "--namespace", "kube-public", "--dry-run=server")
        code, said = tool("helm", *words)
        assert code != 0
        first = f"release first in namespace {namespace}"
        assert f"{first} runs the jobs of all namespaces already: set watchNamespaces" in said
        code, said = tool("helm", *words, "--set", "watchNamespaces={default}")
        assert code == 0, said
    finally:
        api.kubectl("delete", "clusterrole", f"{namespace}:lockstep-operator")


def may(namespace: str, account: str, question: str, *, within: str) -> bool:
    """The apiserver's answer to "may this account …", such as `patch pods/resize`."""
    verb, resource = question.split()
    resource, _, part = resource.partition("/")
    words = ["auth", "can-i", verb, resource, f"--as=system:serviceaccount:{namespace}:{account}"]
    words += [f"--subresource={part}"] if part else []
    words += ["--namespace", within] if within else ["--all-namespaces"]
    return tool("kubectl", *words)[1].split()[0] == "yes"


def rules_of(namespace: str, account: str, *, within: str) -> set[tuple[str, ...]]:
    """All that an account may do in a namespace: (verb, group, resource, names)."""
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
              "spec": {"namespace": within}}  # fmt: skip
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    who = f"--as=system:serviceaccount:{namespace}:{account}"
    code, said = tool("kubectl", "create", "--raw", path, "-f", "-", who, stdin=json.dumps(review))
    assert code == 0, said
    return {
        (verb, group, resource, *rule.get("resourceNames", ()))
        for rule in json.loads(said)["status"]["resourceRules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_operator_may_do_what_its_table_says_and_no_more(installed: str) -> None:
    everybody = rules_of(installed, "default", within=installed)
    for within, scopes in ((installed, set(Scope)), ("kube-public", {Scope.CLUSTER})):
        wanted = {
            (verb, one.group, resource, *one.only)
            for one in RIGHTS
            if one.scope in scopes
            for resource in one.resources
            for verb in one.verbs
        }
        assert rules_of(installed, "lockstep-operator", within=within) - everybody == wanted


TOO_MUCH = [
    *(f"{verb} secrets" for verb in ("get", "list", "watch", "update", "patch", "delete")),
    *(f"{verb} pods" for verb in ("create", "delete", "update")),
    "create pods/exec",
    "create federatedjobs.lockstep.dev",
    "get namespaces",
    *(f"get {kind}" for kind in ("nodes", "pods", "federatedjobs.lockstep.dev/status")),
    "delete leases.coordination.k8s.io",
    "patch federatedjobs.lockstep.dev",
    "update federatedjobs.lockstep.dev/status",
    "create serviceaccounts/token",
    *(f"{verb} nodes" for verb in ("patch", "delete")),
    "create roles.rbac.authorization.k8s.io",
    "create customresourcedefinitions.apiextensions.k8s.io",
    "patch customresourcedefinitions.apiextensions.k8s.io",
    "create namespaces",
    "impersonate users",
    *(f"{verb} events" for verb in ("get", "patch", "delete")),
    *(f"{verb} resourcequotas" for verb in ("create", "patch", "delete")),
    "create deployments.apps",
]


@pytest.mark.parametrize("question", TOO_MUCH)
def test_the_operator_may_not(installed: str, question: str) -> None:
    assert not may(installed, "lockstep-operator", question, within=installed)


@pytest.mark.parametrize(
    "question",
    [
        "list federatedjobs.lockstep.dev",
        "create statefulsets.apps",
        "patch pods/resize",
        "create secrets",
        "get secrets",
    ],
)
def test_it_has_no_rights_in_namespaces_that_are_not_its(installed: str, question: str) -> None:
    assert not may(installed, "lockstep-operator", question, within="kube-public")
    assert not may(installed, "lockstep-operator", question, within="")


@pytest.mark.parametrize("role", Role)
def test_pods_of_jobs_may_do_nothing(installed: str, role: Role) -> None:
    """No more than whoever is logged in: the chart gives their accounts nothing."""
    account = service_account_name("fashion", role)
    nobody = rules_of("kube-public", "default", within=installed)
    assert rules_of(installed, account, within=installed) == nobody


def test_prometheus_may_do_nothing_and_has_no_token(installed: str) -> None:
    for question in ("list pods", "watch pods", "get secrets", "list configmaps", "delete pods"):
        assert not may(installed, "lockstep-prometheus", question, within=installed)
    selector = "app.kubernetes.io/component=prometheus"
    api.kubectl("-n", installed, "wait", "--for=create", "pods", "-l", selector, TIMEOUT)
    found = json.loads(api.kubectl("-n", installed, "get", "pods", "-l", selector, "-o", "json"))
    (pod,) = found["items"]
    assert not any("projected" in volume for volume in pod["spec"]["volumes"])


def test_both_become_available(installed: str) -> None:
    for name in ("lockstep-operator", "lockstep-prometheus"):
        words = ("rollout", "status", f"deployment/{name}", TIMEOUT)
        code, said = tool("kubectl", "-n", installed, *words)
        assert code == 0, said


def test_the_installed_operator_answers_a_job(installed: str) -> None:
    """With the rights and the network that it has there. The job is suspended: no pod starts."""
    assert "is forbidden" not in answered(installed, "asked")


def test_a_job_as_deep_as_an_apiserver_keeps_one_hides_no_others(installed: str) -> None:
    """From an operator that begins with it: on the list are two levels more."""
    levels = "[" * 9_996 + "]" * 9_996
    deep = json.dumps(asked({"a": "LEVELS"}, name="deep")).replace('"LEVELS"', levels)
    api.kubectl("-n", installed, "create", "-f", "-", stdin=deep)
    api.kubectl("-n", installed, "rollout", "restart", "deployment/lockstep-operator")
    api.kubectl("-n", installed, "rollout", "status", "deployment/lockstep-operator", TIMEOUT)
    answered(installed, "beside")
    api.kubectl("-n", installed, "delete", "fj", "deep")


def asked(args: Json, *, name: str) -> Json:
    """A job for nobody."""
    return {
        "apiVersion": "lockstep.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": name},
        "spec": {
            "suspend": True,
            "model": {"name": "mlp", "args": args},
            "data": {"name": "fashion-mnist"},
            "training": {"rounds": 1},
            "devices": [{"name": "all"}],
        },
    }


def answered(installed: str, name: str) -> str:
    """Waits for an operator's answer to a job; its log."""
    api.kubectl("-n", installed, "apply", "-f", "-", stdin=json.dumps(asked({}, name=name)))
    seen = "--for=jsonpath={.status.observedGeneration}=1"
    code, said = tool("kubectl", "-n", installed, "wait", f"fj/{name}", seen, TIMEOUT)
    log = tool("kubectl", "-n", installed, "logs", "deployment/lockstep-operator", "--tail=20")[1]
    assert code == 0, f"{said}\n{log}"
    return log


def test_prometheus_scrapes_the_operator(installed: str) -> None:
    up = eventually(installed, 'up{job="lockstep"} == 1')
    assert up["namespace"] == installed


def test_uninstall_leaves_the_crd_only(namespace: str) -> None:
    """The notes give the next command; after uninstalling, no object of the release is left."""
    only = f"watchNamespaces={{{namespace}}}"
    release = f"gone-{namespace}"
    said = api.helm("install", release, CHART, "--namespace", namespace, "--set", only)
    assert f"kubectl -n {namespace} apply -f docs/examples/fashion-mnist.yaml" in said
    assert "get fj --watch" in said
    assert f"kubectl -n {namespace} port-forward svc/lockstep-prometheus 9090" in said
    ours = ("get", KINDS, "--namespace", namespace, "-o", "name")
    label = f"--selector=app.kubernetes.io/instance={release}"
    assert len(api.kubectl(*ours, label).split()) > 10
    api.helm("uninstall", release, "--namespace", namespace, "--wait")
    deadline = time.monotonic() + PATIENCE_S
    while left := api.kubectl(*ours, label).split():
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
    assert CRD_NAME in api.kubectl("get", "crd", CRD_NAME, "-o", "name")
