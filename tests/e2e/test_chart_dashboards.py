"""The dashboards as the chart installs them: ConfigMaps for a sidecar, objects for an operator."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lockstep_monitoring.dashboards import ALL
from tests.cluster import api
from tests.cluster.errors import ClusterError
from tests.e2e.polled import wait_until_served

pytestmark = pytest.mark.cluster

CHART = Path(__file__).resolve().parents[2] / "charts" / "lockstep"
CRD = Path(__file__).parent / "crds" / "grafanadashboards.yaml"
OPERATOR = ("--set", "dashboards.grafanaOperator.enabled=true")

Json = dict[str, Any]


def rendered(*words: str) -> list[Json]:
    """The objects of the dashboards."""
    text = api.helm("template", "lockstep", str(CHART), "--namespace", "default", *words)
    made: list[Json] = [document for document in yaml.safe_load_all(text) if document]
    component = "app.kubernetes.io/component"
    return [one for one in made if one["metadata"].get("labels", {}).get(component) == "dashboards"]


def by_kind(kind: str, *words: str) -> dict[str, Json]:
    return {one["metadata"]["name"]: one for one in rendered(*words) if one["kind"] == kind}


@pytest.fixture(scope="module")
def operators_crd(cluster: Path) -> Iterator[None]:
    """The CRD of the Grafana operator: the cluster's own, or what the test has of it."""
    name = yaml.safe_load(CRD.read_text())["metadata"]["name"]
    try:
        api.kubectl("get", "crd", name)
    except ClusterError:
        api.kubectl("apply", "-f", str(CRD))
        wait_until_served(name)
        yield
        api.kubectl("delete", "crd", name)
    else:
        yield


def test_each_dashboard_is_a_configmap_with_the_sidecar_s_label(cluster: Path) -> None:
    made = rendered()
    assert [one["kind"] for one in made] == ["ConfigMap"] * len(ALL)
    for one in made:
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert "annotations" not in one["metadata"]
        ((file, text),) = one["data"].items()
        assert one["metadata"]["name"] == f"lockstep-dashboard-{Path(file).stem}"
        assert text == (CHART / "dashboards" / file).read_text()
    assert {json.loads(*one["data"].values())["uid"] for one in made} == {
        f"lockstep-{name}" for name in ALL
    }


def test_label_and_annotations_are_what_the_sidecar_looks_for(cluster: Path) -> None:
    words = ("dashboards.label=found", "dashboards.labelValue=true")
    made = rendered(
        "--set-string", ",".join(words), "--set", "dashboards.annotations.grafana_folder=Teams"
    )
    for one in made:
        assert one["metadata"]["labels"]["found"] == "true"
        assert "grafana_dashboard" not in one["metadata"]["labels"]
        assert one["metadata"]["annotations"] == {"grafana_folder": "Teams"}
    for one in rendered("--set", "dashboards.label="):
        assert set(one["metadata"]["labels"]) == {
            "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component",
            "app.kubernetes.io/part-of", "app.kubernetes.io/version",
            "app.kubernetes.io/managed-by", "helm.sh/chart",
        }  # fmt: skip


def test_the_grafana_operator_gets_objects_that_name_the_configmaps(cluster: Path) -> None:
    select = "dashboards.grafanaOperator.instanceSelector.matchLabels.dashboards=grafana"
    maps = by_kind("ConfigMap", *OPERATOR)
    made = by_kind("GrafanaDashboard", *OPERATOR, "--set", select)
    assert set(made) == {f"lockstep-{name}" for name in ALL}
    for one in made.values():
        named = one["spec"]["configMapRef"]
        assert named["key"] in maps[named["name"]]["data"]
        assert one["spec"]["instanceSelector"] == {"matchLabels": {"dashboards": "grafana"}}
        assert one["spec"]["folder"] == "Lockstep"
    for one in by_kind("GrafanaDashboard", *OPERATOR).values():
        assert one["spec"]["instanceSelector"] == {}


def test_the_grafana_operator_s_crd_takes_them(operators_crd: None) -> None:
    made = by_kind("GrafanaDashboard", *OPERATOR)
    words = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    said = api.kubectl(*words, stdin=yaml.safe_dump_all(made.values()))
    assert said.count("created (server dry run)") == len(ALL)
    wrong = next(iter(made.values()))
    wrong["spec"]["configMapRef"]["file"] = "x"
    with pytest.raises(ClusterError, match=r'unknown field "spec\.configMapRef\.file"'):
        api.kubectl(*words, stdin=yaml.safe_dump(wrong))


def test_no_dashboards_where_none_are_wanted(cluster: Path) -> None:
    assert rendered("--set", "dashboards.enabled=false", *OPERATOR) == []
