"""Whom a job's pods trust: in the settings that they read, beside where its servers are."""

from dataclasses import replace
from typing import Any

import pytest

from lockstep_api.names import CA_FILE, PLANNER_CA_FILE, SETTINGS_FILE, Role
from lockstep_api.settings import JobSettings
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_operator.core.certificates import Authority
from lockstep_operator.core.children import children
from lockstep_operator.core.model import JobKey, JobView, Settings
from lockstep_operator.core.placement import CLOUD_POD, Placement, PodSet
from lockstep_operator.core.trust import server_host
from lockstep_operator.errors import UnfitRequest
from tests.support.certificates import SEED, job_ca

KEY = JobKey("lab", "digits")
PLAIN = Settings(worker_image="worker:1", planner_url="http://planner.ops.svc:8080")
PLANNER_CA = Authority(SEED).of_planner("planner.ops.svc").pem
SECURE = replace(
    PLAIN,
    planner_url="https://planner.ops.svc:8080",
    authority=Authority(SEED),
    planner_ca=PLANNER_CA,
)
PLACEMENT = Placement({
    CLOUD_POD: ("c",), PodSet(Role.DEVICE, "d"): ("d",), PodSet(Role.EDGE, "e"): ("e",)
})  # fmt: skip


def job(uid: str = "uid-1", **change: Any) -> JobView:
    base: dict[str, Any] = {
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist"},
        "training": {"rounds": 1},
        "mode": "hierarchical",
        "edges": [{"name": "e", "replicas": 2}],
        "devices": [{"name": "d", "cpuAtMax": "1"}],
    }
    spec = FederatedJobSpec.model_validate(base | change)
    return JobView(KEY, uid, 1, spec, None, FederatedJobStatus(), 0.0)


def files(view: JobView, settings: Settings) -> dict[str, str]:
    (found,) = (
        manifest["data"]
        for manifest in children(view, PLACEMENT, settings=settings)
        if manifest["kind"] == "ConfigMap"
    )
    assert isinstance(found, dict)
    return found


def urls(found: dict[str, str]) -> list[str]:
    told = JobSettings.model_validate_json(found[SETTINGS_FILE])
    return [told.cloud_url, *told.edge_urls.values()]


def test_with_an_authority_servers_speak_tls_and_clients_know_whom_to_trust() -> None:
    found = files(job(), SECURE)
    assert urls(found) == [
        "https://digits-cloud.lab.svc:8080",
        "https://digits-edge-e-0.digits-edges.lab.svc:8080",
        "https://digits-edge-e-1.digits-edges.lab.svc:8080",
    ]
    assert found[CA_FILE] == job_ca().pem
    assert found[PLANNER_CA_FILE] == PLANNER_CA
    told = JobSettings.model_validate_json(found[SETTINGS_FILE])
    assert told.planner_url == "https://planner.ops.svc:8080"


def test_without_one_all_is_plain_http() -> None:
    found = files(job(), PLAIN)
    assert {url.partition(":")[0] for url in urls(found)} == {"http"}
    assert set(found) == {SETTINGS_FILE}


def test_a_job_that_wants_no_tls_trusts_the_planners_ca_only() -> None:
    found = files(job(security={"tls": "disabled"}), SECURE)
    assert {url.partition(":")[0] for url in urls(found)} == {"http"}
    assert set(found) == {SETTINGS_FILE, PLANNER_CA_FILE}


def test_a_planner_of_plain_http_has_no_ca() -> None:
    found = files(job(), replace(PLAIN, authority=Authority(SEED)))
    assert set(found) == {SETTINGS_FILE, CA_FILE}


def test_settings_are_the_same_with_each_pass_and_operator_and_others_for_another_job() -> None:
    other_operator = replace(SECURE, authority=Authority(bytes(SEED)))
    assert files(job(), SECURE) == files(job(), SECURE) == files(job(), other_operator)
    assert files(job("uid-2"), SECURE)[CA_FILE] != files(job(), SECURE)[CA_FILE]


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("cloud", "digits-cloud.lab.svc"),
        ("e-1", "digits-edge-e-1.digits-edges.lab.svc"),
    ],
)
def test_a_servers_host_is_the_one_of_its_url(server: str, host: str) -> None:
    view = job()
    assert view.spec is not None
    assert server_host(KEY, view.spec, server=server) == host
    assert f"https://{host}:8080" in urls(files(view, SECURE))


@pytest.mark.parametrize("server", ["e-2", "d-0", "digits-cloud.lab.svc", "planner"])
def test_others_are_no_servers_of_the_job(server: str) -> None:
    view = job()
    assert view.spec is not None
    with pytest.raises(UnfitRequest, match="neither cloud nor an edge"):
        server_host(KEY, view.spec, server=server)
