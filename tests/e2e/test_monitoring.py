"""Rules and monitors of the chart, as helm renders them: for its own Prometheus and for another."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lockstep_api import names
from lockstep_monitoring import alerts, rule_file, rules, told_file
from tests.cluster import api
from tests.e2e.polled import wait_until_served
from tests.e2e.running import CHART
from tests.support.prometheus_operator import KINDS, crds
from tests.support.promtool import checked, promtool

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
CONFIG = ("ConfigMap", "lockstep-prometheus")
EVERYTHING = (
    "--set", "monitoring.podMonitor.enabled=true,monitoring.serviceMonitor.enabled=true",
    "--set", "monitoring.prometheusRule.enabled=true,prometheus.enabled=false",
    "--set", "operator.prometheusUrl=http://prometheus.monitoring.svc:9090",
    "--set-json", 'networkPolicy.metricsFrom=[{"namespaceSelector": {"matchLabels": {"a": "b"}}}]',
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


def own_scraping(*words: str) -> tuple[Json, Json]:
    """How the chart's own Prometheus scrapes pods of jobs, and operators."""
    config = yaml.safe_load(rendered(*words)[CONFIG]["data"]["prometheus.yml"])
    jobs, operators = config["scrape_configs"]
    return jobs, operators


def test_another_prometheus_scrapes_as_the_charts_own_does(cluster: Path) -> None:
    """Namespace and pod are labels that the Prometheus operator adds by itself."""
    own_jobs, own_operators = own_scraping()
    made = rendered(*EVERYTHING, "--set", "monitoring.serviceMonitor.interval=1s")
    monitor = made["PodMonitor", "lockstep-jobs"]["spec"]
    (jobs,) = monitor["podMetricsEndpoints"]
    (operator,) = made["ServiceMonitor", "lockstep-operator"]["spec"]["endpoints"]
    for endpoint, own in ((jobs, own_jobs), (operator, own_operators)):
        assert endpoint["honorLabels"] is own["honor_labels"]
        assert endpoint["followRedirects"] is own["follow_redirects"] is False
        assert endpoint["port"] == "metrics"
        assert endpoint["scrapeTimeout"] == endpoint["interval"] == "1s"
        kept = [*map(snake, endpoint.get("metricRelabelings", []))]
        assert kept == own.get("metric_relabel_configs", [])
    assert jobs["honorTimestamps"] is own_jobs["honor_timestamps"] is False
    limits = {key: one for key, one in snake(monitor).items() if "limit" in key}
    assert limits == {key: one for key, one in own_jobs.items() if "limit" in key}
    assert limits.keys() >= {"target_limit", "sample_limit", "body_size_limit"}
    assert operator["relabelings"] == [{"targetLabel": "job", "replacement": "lockstep"}]
    assert own_operators["job_name"] == "lockstep"


def test_only_the_operator_says_whose_its_series_are(cluster: Path) -> None:
    jobs, operators = own_scraping()
    assert jobs["honor_labels"] is False
    assert operators["honor_labels"] is True


def test_what_pods_may_tell_is_that_of_the_code(cluster: Path) -> None:
    jobs, _ = own_scraping()
    assert jobs["metric_relabel_configs"] == [*map(snake, told_file.relabelings())]


def test_the_list_of_pods_comes_from_the_operators_own_service(cluster: Path) -> None:
    jobs, operators = own_scraping()
    made = rendered()
    service = made["Service", "lockstep-operator-metrics"]["spec"]
    host = "lockstep-operator-metrics.lab.svc"
    (port,) = service["ports"]
    (listed,) = jobs["http_sd_configs"]
    assert listed["url"] == f"http://{host}:{port['port']}{names.TARGETS_ROUTE}"
    (found,) = operators["dns_sd_configs"]
    assert (found["names"], found["port"]) == ([host], port["port"])
    assert service["clusterIP"] == "None"
    assert operators["relabel_configs"] == [{"target_label": "namespace", "replacement": "lab"}]


def relabelled(pod: Json) -> dict[str, str]:
    """The labels that a PodMonitor's relabelings give a discovered pod; {}: it is not scraped."""
    made = rendered(*EVERYTHING)["PodMonitor", "lockstep-jobs"]["spec"]
    labels = {f"__meta_kubernetes_pod_{key}": value for key, value in pod.items()}
    for rule in made["podMetricsEndpoints"][0]["relabelings"]:
        said = (labels.get(key, "") for key in rule["sourceLabels"])
        found = re.fullmatch(rule["regex"], rule.get("separator", ";").join(said))
        match rule.get("action", "replace"):
            case "keep" if found is None:
                return {}
            case "drop" if found is not None:
                return {}
            case "replace" if found is not None:
                value = found.expand(rule.get("replacement", "$1").replace("${1}", "$1")
                                     .replace("$1", r"\1"))  # fmt: skip
                labels[rule["targetLabel"]] = value
    return {key: value for key, value in labels.items() if not key.startswith("__meta")}


POD = {
    "container_port_name": "metrics",
    "phase": "Running",
    "ready": "true",
    "annotation_lockstep_dev_job_name": "fashion",
    "label_apps_kubernetes_io_pod_index": "3",
}


def test_a_pod_monitor_gives_pods_the_labels_that_the_list_gives(cluster: Path) -> None:
    device = {"label_lockstep_dev_role": "device", "label_lockstep_dev_device_group": "fast"}
    edge = {"label_lockstep_dev_role": "edge", "label_lockstep_dev_edge_group": "site-1"}
    rare = {"annotation_lockstep_dev_scrape_interval": "20s"}
    every = {"__scrape_interval__": "20s", "__scrape_timeout__": "20s"}
    job = {"job": "fashion"}
    assert relabelled(POD | device) == job | {"tier": "device", "client": "fast-3"}
    assert relabelled(POD | edge | rare) == job | every | {"tier": "edge", "edge": "site-1-3"}
    assert relabelled(POD | {"label_lockstep_dev_role": "cloud"}) == job | {"tier": "cloud"}


def test_a_pod_monitor_leaves_out_pods_that_are_not_there_to_answer(cluster: Path) -> None:
    """Each scrape of one that is not there would hold a connection for two minutes."""
    for other in ({"ready": "false"}, {"phase": "Failed"}, {"container_port_name": "other"}):
        assert relabelled(POD | other) == {}


@pytest.mark.parametrize("watched", [[], ["a", "b"]])
def test_monitors_look_where_the_operator_does(cluster: Path, watched: list[str]) -> None:
    given = ("--set-json", f"watchNamespaces={json.dumps(watched)}")
    made = rendered(*EVERYTHING, *given, namespace="system")
    jobs = made["PodMonitor", "lockstep-jobs"]["spec"]
    operator = made["ServiceMonitor", "lockstep-operator"]["spec"]
    assert jobs["namespaceSelector"] == ({"matchNames": watched} if watched else {"any": True})
    assert operator["namespaceSelector"] == {"matchNames": ["system"]}
    wanted = operator["selector"]["matchLabels"].items()
    services = [
        name
        for (kind, name), one in made.items()
        if kind == "Service" and wanted <= one["metadata"]["labels"].items()
    ]
    assert services == ["lockstep-operator-metrics"]


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
        wait_until_served(name)
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
