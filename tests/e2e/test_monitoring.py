"""Rules and monitors of the chart, as helm renders them: for its own Prometheus and for another."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lockstep_monitoring import alerts, rule_file, rules
from tests.cluster import api
from tests.e2e.running import CHART
from tests.support.patience import TIMEOUT
from tests.support.prometheus_operator import KINDS, crds
from tests.support.promtool import checked, promtool

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
CONFIG = ("ConfigMap", "lockstep-prometheus")
EVERYTHING = (
    "--set", "monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true",
    "--set", "monitoring.prometheusRule.enabled=true,prometheus.enabled=false",
    "--set", "operator.prometheusUrl=http://prometheus.monitoring.svc:9090",
)  # fmt: skip


def rendered(*words: str, namespace: str = "lab") -> dict[tuple[str, str], Json]:
    """What `helm template` makes, by kind and name."""
    text = api.helm("template", "lockstep", str(CHART), "--namespace", namespace, *words)
    made = [document for document in yaml.safe_load_all(text) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in made}


def groups(*words: str) -> list[Json]:
    """Of the chart's own Prometheus."""
    found: list[Json] = yaml.safe_load(rendered(*words)[CONFIG]["data"]["rules.yml"])["groups"]
    return found


def alerting(found: list[Json]) -> dict[str, Json]:
    return {one["alert"]: one for group in found for one in group["rules"] if "alert" in one}


def snake(one: Json) -> Json:
    """A relabeling of a monitor as Prometheus itself has it."""
    return {re.sub("[A-Z]", lambda c: f"_{c[0].lower()}", key): one[key] for key in one}


def test_the_rules_are_those_of_the_code(cluster: Path, tmp_path: Path) -> None:
    found = rendered()[CONFIG]["data"]
    assert yaml.safe_load(found["rules.yml"])["groups"] == rule_file.groups()
    file = tmp_path / "rules.yml"
    file.write_text(found["rules.yml"])
    checked(file)


@pytest.mark.parametrize("interval", ["500ms", "1s", "15s", "60s", "2m"])
def test_promtool_finds_nothing_wrong_with_the_configuration(
    cluster: Path, tmp_path: Path, interval: str
) -> None:
    made = rendered(
        "--set", f"prometheus.scrapeInterval={interval}", "--set",
        "prometheus.alertmanagers={am.monitoring.svc:9093,https://alerts.example.org/prefix/}",
    )[CONFIG]["data"]  # fmt: skip
    config = yaml.safe_load(made["prometheus.yml"])
    assert config["rule_files"] == ["/etc/prometheus/rules.yml"]
    (tmp_path / "rules.yml").write_text(made["rules.yml"])
    config["rule_files"] = ["rules.yml"]
    del config["scrape_configs"][0]["kubernetes_sd_configs"]  # Debian's promtool has no discovery
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [promtool(), "check", "config", "prometheus.yml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanagers_are_told(cluster: Path) -> None:
    given = "prometheus.alertmanagers={am.monitoring.svc:9093,https://alerts.example.org/prefix/}"
    config = yaml.safe_load(rendered("--set", given)[CONFIG]["data"]["prometheus.yml"])
    assert config["alerting"]["alertmanagers"] == [
        {"scheme": "http", "static_configs": [{"targets": ["am.monitoring.svc:9093"]}]},
        {
            "scheme": "https",
            "path_prefix": "/prefix",
            "static_configs": [{"targets": ["alerts.example.org"]}],
        },
    ]
    assert "alerting" not in yaml.safe_load(rendered()[CONFIG]["data"]["prometheus.yml"])


def test_what_is_said_of_an_alert_holds(cluster: Path) -> None:
    found = alerting(
        groups(
            "--set", "alerts.rules.LockstepJobStuck.for=10m,alerts.labels.team=ml",
            "--set", "alerts.rules.LockstepJobStuck.severity=critical",
            "--set", "alerts.rules.LockstepJobNotStarting.enabled=false",
            "--set", "alerts.runbookBase=https://docs.example.org/alerts.html",
        )
    )  # fmt: skip
    assert set(alerting(rule_file.groups())) - set(found) == {"LockstepJobNotStarting"}
    assert found["LockstepJobStuck"]["for"] == "10m"
    assert found["LockstepJobStuck"]["labels"] == {"severity": "critical", "team": "ml"}
    assert found["LockstepOperatorDown"]["labels"] == {"severity": "critical", "team": "ml"}
    for name, one in found.items():
        link = one["annotations"]["runbook_url"]
        assert link == f"https://docs.example.org/alerts.html#{name.lower()}"


def test_an_operator_that_looks_less_often_is_not_late_so_soon(cluster: Path) -> None:
    found = alerting(groups("--set", "operator.resyncSeconds=600"))
    assert "> 2 * 600 and" in found[alerts.NOT_RECONCILING.name]["expr"]
    assert alerts.RESYNC in alerts.NOT_RECONCILING.expression


def test_without_alerts_what_dashboards_ask_stays(cluster: Path) -> None:
    found = groups("--set", "alerts.enabled=false")
    assert alerting(found) == {}
    assert [one["name"] for one in found] == list(rules.GROUPS)


def test_nothing_of_the_prometheus_operator_is_there_unless_asked_for(cluster: Path) -> None:
    kinds = {kind for kind, _ in rendered()}
    assert kinds.isdisjoint({"PodMonitor", "ServiceMonitor", "PrometheusRule"})


def test_another_prometheus_scrapes_as_the_charts_own_does(cluster: Path) -> None:
    """Namespace and pod are labels that the Prometheus operator adds by itself."""
    own = yaml.safe_load(rendered()[CONFIG]["data"]["prometheus.yml"])["scrape_configs"][0]
    of_itself = [
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
    ]
    made = rendered(*EVERYTHING, "--set", "monitoring.serviceMonitor.interval=1s")
    (jobs,) = made["PodMonitor", "lockstep-jobs"]["spec"]["podMetricsEndpoints"]
    (operator,) = made["ServiceMonitor", "lockstep-operator"]["spec"]["endpoints"]
    assert [*map(snake, jobs["relabelings"]), *of_itself] == own["relabel_configs"]
    named = {"target_label": "job", "replacement": own["job_name"]}
    assert [*map(snake, operator["relabelings"])] == [*map(snake, jobs["relabelings"]), named]
    for endpoint in (jobs, operator):
        assert endpoint["honorLabels"] is own["honor_labels"] is True
        assert endpoint["port"] == "http"
        assert endpoint["scrapeTimeout"] == endpoint["interval"] == "1s"
        assert endpoint.get("metricRelabelings") == own.get("metric_relabel_configs") is None


@pytest.mark.parametrize("watched", [[], ["a", "b"]])
def test_monitors_look_where_the_operator_does(cluster: Path, watched: list[str]) -> None:
    given = ("--set-json", f"watchNamespaces={json.dumps(watched)}")
    made = rendered(*EVERYTHING, *given, namespace="system")
    jobs = made["PodMonitor", "lockstep-jobs"]["spec"]
    operator = made["ServiceMonitor", "lockstep-operator"]["spec"]
    assert jobs["namespaceSelector"] == ({"matchNames": watched} if watched else {"any": True})
    assert operator["namespaceSelector"] == {"matchNames": ["system"]}
    service = made["Service", "lockstep-operator"]["metadata"]["labels"]
    assert operator["selector"]["matchLabels"].items() <= service.items()


def test_monitors_have_the_labels_that_another_prometheus_selects_by(cluster: Path) -> None:
    given = [f"monitoring.{one}.labels.release=p" for one in
             ("podMonitor", "serviceMonitor", "prometheusRule")]  # fmt: skip
    made = rendered(*EVERYTHING, "--set", ",".join(given))
    labelled = {kind for (kind, _), one in made.items() if
                one["metadata"]["labels"].get("release") == "p"}  # fmt: skip
    assert labelled == {"PodMonitor", "ServiceMonitor", "PrometheusRule"}


def test_the_operator_asks_another_prometheus(cluster: Path) -> None:
    made = rendered(*EVERYTHING)
    assert CONFIG not in made
    pod = made["Deployment", "lockstep-operator"]["spec"]["template"]["spec"]
    url = {
        "name": "LOCKSTEP_PROMETHEUS_URL",
        "value": "http://prometheus.monitoring.svc:9090",
    }
    assert url in pod["containers"][0]["env"]


@pytest.fixture(scope="module")
def prometheus_operator(cluster: Path) -> Iterator[None]:
    """Its CRDs, without it; one that was there stays."""
    names = [f"{kind}.monitoring.coreos.com" for kind in KINDS]
    there = api.kubectl("get", "crd", *names, "--ignore-not-found", "-o", "name").split()
    missing = [(name, file) for name, file in zip(names, crds(), strict=True)
               if not any(one.endswith(f"/{name}") for one in there)]  # fmt: skip
    for name, file in missing:
        api.kubectl("apply", "--server-side", "-f", str(file))
        api.kubectl("wait", f"crd/{name}", "--for=condition=Established", TIMEOUT)
    yield
    for name, _ in missing:
        api.kubectl("delete", "crd", name, "--wait=false")


def test_the_prometheus_operators_crds_take_what_is_rendered(
    prometheus_operator: None, namespace: str
) -> None:
    made = rendered(*EVERYTHING, namespace=namespace)
    ours = [one for one in made.values() if one["apiVersion"].startswith("monitoring.coreos.com")]
    assert len(ours) == len(KINDS)
    apply = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    said = api.kubectl(*apply, stdin=yaml.safe_dump_all(ours))
    assert len(said.splitlines()) == len(KINDS)


def test_the_rules_of_another_prometheus_are_the_same(cluster: Path, tmp_path: Path) -> None:
    told = rendered(*EVERYTHING)["PrometheusRule", "lockstep"]["spec"]["groups"]
    assert [one | {"interval": "15s"} for one in rule_file.groups()] == told
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": told}))
    checked(file)
