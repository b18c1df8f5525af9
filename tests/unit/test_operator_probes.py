"""Probes and metrics of the operator."""

from dataclasses import replace

from tests.support.kube import (
    KEY,
)
from tests.support.planner import (
    Setup,
    client,
)


async def test_health_is_the_age_of_the_last_pass(setup: Setup) -> None:
    answer = await setup.http.get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["lastPassAgeSeconds"] >= 0


async def test_a_dead_watch_is_unhealthy(setup: Setup) -> None:
    async with client(setup.planner, replace(setup.probes, watching=lambda: False)) as http:
        assert (await http.get("/healthz")).status_code == 503


async def test_no_pass_for_long_is_unhealthy_only_with_jobs(setup: Setup) -> None:
    async with client(setup.planner, replace(setup.probes, resync_s=-1.0)) as http:
        assert (await http.get("/healthz")).status_code == 200
        await setup.planner.runtime.pass_now(KEY)
        assert (await http.get("/healthz")).status_code == 503


async def test_readiness_needs_the_watch(setup: Setup) -> None:
    assert (await setup.http.get("/readyz")).status_code == 200
    async with client(setup.planner, replace(setup.probes, ready=lambda: False)) as http:
        assert (await http.get("/readyz")).status_code == 503


async def test_metrics_count_jobs_by_phase(setup: Setup) -> None:
    await setup.planner.runtime.pass_now(KEY)
    text = (await setup.http.get("/metrics")).text
    assert 'lockstep_jobs{phase="Starting"} 1.0' in text
    assert "lockstep_queue_depth 0.0" in text
