"""Emulated links on real pods: what was asked for is what Prometheus has."""

import json

import pytest

from tests.cluster import api
from tests.e2e.running import (
    NAMESPACE,
    apply,
    condition,
    get,
    in_phase,
    lone_job,
    past_round,
    query,
    small_job,
    watch,
)

pytestmark = pytest.mark.cluster

TRACE = "t_seconds,bandwidth_mbps\n0,2\n1,6\n2,4\n3,6\n"


def config_map(name: str, text: str) -> None:
    """A ConfigMap with one trace."""
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"lockstep.dev/traces": "true"}},
        "data": {"street.csv": text},
    }
    api.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(manifest))


def figures(promql: str) -> dict[str, float]:
    """Client → value."""
    return {r["metric"]["client"]: float(r["value"][1]) for r in query(NAMESPACE, promql)}


@pytest.mark.cores
def test_uploads_take_the_time_of_their_links(lockstep: str) -> None:
    config_map("street", TRACE)
    job = small_job("linked", training={"rounds": 100_000})
    fast, medium, _ = job["spec"]["devices"]
    fast["uplink"] = {"mbps": 8, "latencyMs": 100}
    fast["downlink"] = {"mbps": 16}
    medium["uplink"] = {"trace": "street"}
    apply(NAMESPACE, job)
    watch(NAMESPACE, "linked", past_round(12))
    measured = figures(
        "rate(lockstep_upload_bytes_total{job='linked'}[10s]) * 8e-6"
        " / rate(lockstep_upload_seconds_total{job='linked'}[10s])"
    )
    emulated = figures('lockstep_link_mbits_per_second{job="linked",direction="up"}')
    print(f"measured {measured}, emulated {emulated}")
    megabits = 101_770 * 32e-6
    assert measured["fast-0"] == pytest.approx(megabits / (megabits / 8 + 0.1), rel=0.15)
    assert emulated["fast-0"] == pytest.approx(8.0)
    assert 2.0 < measured["medium-0"] < 6.0
    assert emulated["medium-0"] == pytest.approx(4.5, rel=0.15)
    assert measured["slow-0"] > 20, "no link, no limit"
    assert "slow-0" not in emulated
    down = figures(
        "rate(lockstep_download_bytes_total{job='linked'}[10s]) * 8e-6"
        " / rate(lockstep_download_seconds_total{job='linked'}[10s])"
    )
    assert down["fast-0"] == pytest.approx(16, rel=0.15)
    api.kubectl("-n", NAMESPACE, "delete", "fj", "linked", "--wait")


def test_a_trace_that_is_missing_is_named_and_its_coming_is_enough(lockstep: str) -> None:
    job = lone_job("waiting", training={"rounds": 2})
    job["spec"]["devices"][0]["uplink"] = {"trace": "later"}
    apply(NAMESPACE, job)
    seen = watch(
        NAMESPACE, "waiting",
        lambda job: "ConfigMap later is not there" in condition(job, "Ready").get("message", ""),
    )  # fmt: skip
    assert condition(seen, "Ready")["reason"] == "PodProblem"
    described = api.kubectl("-n", NAMESPACE, "describe", "fj", "waiting")
    advice = " ".join(described.split())
    assert "kubectl create configmap later --from-file=trace.csv" in advice
    assert "kubectl label configmap later lockstep.dev/traces=true" in advice
    config_map("later", TRACE)
    # The kubelet brings a ConfigMap that comes later within minutes, and its back-off adds to that.
    watch(NAMESPACE, "waiting", in_phase("Completed"))
    assert get(NAMESPACE, "waiting")["status"]["progress"] == "2/2"
