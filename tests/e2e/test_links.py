"""Emulated links on real pods: what was asked for is what Prometheus has."""

import json

import pytest

from tests.cluster import api
from tests.e2e.running import (
    NAMESPACE,
    apply,
    condition,
    eventually,
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


EMULATED = 'lockstep_link_mbits_per_second{job="linked",direction="up"}'


def measured(way: str) -> str:
    """Mbit/s of what was carried in the last seconds, by client."""
    carried = f'rate(lockstep_{way}_bytes_total{{job="linked"}}[10s]) * 8e-6'
    return f'{carried} / rate(lockstep_{way}_seconds_total{{job="linked"}}[10s])'


def of(promql: str, client: str) -> str:
    """The same of one client."""
    return promql.replace("}", f',client="{client}"}}')


def comes_near(expected: float, promql: str, *, client: str) -> None:
    """Waits until a figure of a client is what it should be: on a busy machine some are not."""
    eventually(NAMESPACE, f"abs(({of(promql, client)}) / {expected} - 1) < 0.15")


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
    megabits = 101_770 * 32e-6
    comes_near(megabits / (megabits / 8 + 0.1), measured("upload"), client="fast-0")
    comes_near(8.0, EMULATED, client="fast-0")
    eventually(NAMESPACE, f"2 < ({of(measured('upload'), 'medium-0')}) < 6")
    comes_near(4.5, EMULATED, client="medium-0")
    eventually(NAMESPACE, f"({of(measured('upload'), 'slow-0')}) > 20")  # no link, no limit
    comes_near(16.0, measured("download"), client="fast-0")
    carried = {one["metric"]["client"] for one in query(NAMESPACE, EMULATED)}
    assert carried == {"fast-0", "medium-0"}
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
