"""Jobs that are placed one after another: nobody waits while another one's status is written."""

import asyncio

import pytest

from lockstep_operator.core.model import JobKey, Manifest, ObjectRef
from lockstep_operator.reconcile import Known, reconcile
from tests.support.kube import KEY, cluster_with, job_body, make_deps


async def test_an_apiserver_that_is_slow_with_one_job_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It needs half a minute to write the status of one with tens of thousands of labels."""
    kube = cluster_with()
    deps, writing, goes_on = make_deps(kube), asyncio.Event(), asyncio.Event()
    write = kube.apply_status

    async def slow(ref: ObjectRef, uid: str, *, status: Manifest) -> None:
        if ref.name == "large":
            writing.set()
            await goes_on.wait()
        await write(ref, uid, status=status)

    monkeypatch.setattr(kube, "apply_status", slow)
    large = JobKey("attic", "large")
    job = job_body()
    job["metadata"] |= {"name": large.name, "namespace": large.namespace, "uid": "uid-large"}
    kube.put(job)
    deps.known.update({key: Known("") for key in (large, KEY)})  # they need a place
    running = asyncio.create_task(reconcile(large, deps))
    await writing.wait()
    async with asyncio.timeout(5):
        assert (await reconcile(KEY, deps)).phase == "Starting"
    goes_on.set()
    assert (await running).phase == "Starting"
