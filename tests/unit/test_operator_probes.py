"""Probes and metrics of the operator."""

from dataclasses import replace

from lockstep_serving.heartbeat import HUNG_S, Heartbeat
from tests.support.kube import (
    KEY,
)
from tests.support.planner import (
    Setup,
)
from tests.support.probing import asked


async def test_health_is_the_age_of_the_last_pass(setup: Setup) -> None:
    assert (await asked(setup.probes, "/healthz")).status_code == 200
    setup.probes.page()
    age_s = setup.sample("lockstep_last_pass_age_seconds")
    assert age_s is not None
    assert age_s >= 0


async def test_a_dead_watch_is_unhealthy(setup: Setup) -> None:
    answer = await asked(replace(setup.probes, watching=lambda: False), "/healthz")
    assert answer.status_code == 503


async def test_no_pass_for_long_is_unhealthy_only_with_jobs(setup: Setup) -> None:
    impatient = replace(setup.probes, resync_s=-1.0)
    assert (await asked(impatient, "/healthz")).status_code == 200
    await setup.planner.runtime.pass_now(KEY)
    assert (await asked(impatient, "/healthz")).status_code == 503


async def test_an_operator_that_may_make_no_pass_is_not_ended_for_making_none(
    setup: Setup,
) -> None:
    """Kubernetes is away, or slow: a new start would find it as it is."""
    await setup.planner.runtime.pass_now(KEY)
    cut_off = replace(setup.probes, resync_s=-1.0, leads=lambda: False)
    assert (await asked(cut_off, "/healthz")).status_code == 200


async def test_a_loop_that_hangs_is_unhealthy(setup: Setup) -> None:
    now_s = [0.0]
    hung = replace(setup.probes, heartbeat=Heartbeat(lambda: now_s[0]))
    now_s[0] = HUNG_S
    assert (await asked(hung, "/healthz")).status_code == 200
    now_s[0] = HUNG_S + 1
    answer = await asked(hung, "/healthz")
    assert (answer.status_code, answer.text) == (503, "the event loop has not turned for 31 s\n")
    hung.heartbeat.start()
    assert (await asked(hung, "/healthz")).status_code == 200


async def test_readiness_needs_the_watch(setup: Setup) -> None:
    assert (await asked(setup.probes, "/readyz")).status_code == 200
    assert (await asked(replace(setup.probes, ready=lambda: False), "/readyz")).status_code == 503


async def test_metrics_count_jobs_by_phase(setup: Setup) -> None:
    await setup.planner.runtime.pass_now(KEY)
    text = (await asked(setup.probes, "/metrics")).text
    assert 'lockstep_jobs{phase="Starting"} 1.0' in text
    assert "lockstep_queue_depth 0.0" in text


async def test_the_planners_port_has_no_probes_and_no_metrics(setup: Setup) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await setup.http.get(path)).status_code == 404
