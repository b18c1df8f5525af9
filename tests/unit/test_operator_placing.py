"""Jobs that are placed one after another: nobody waits while another one's status is written, and
what is gone holds no room."""

import asyncio

import pytest

from lockstep_operator.core.model import JobKey, Manifest, ObjectRef
from lockstep_operator.errors import NotFound
from lockstep_operator.kube import job_ref
from lockstep_operator.observe import read_job
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


async def test_a_job_that_goes_while_it_is_placed_holds_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watch has told that it is gone before it is decided what it gets."""
    kube = cluster_with()
    deps, short = make_deps(kube), JobKey("attic", "short")
    job = job_body()
    job["metadata"] |= {"name": short.name, "namespace": short.namespace, "uid": "uid-short"}
    kube.put(job)
    read = kube.metadata

    async def meanwhile(ref: ObjectRef) -> Manifest:
        if job_ref("attic", "short") in kube.objects:
            kube.remove(job_ref("attic", "short"))
        return await read(ref)

    monkeypatch.setattr(kube, "metadata", meanwhile)
    with pytest.raises(NotFound):
        await reconcile(short, deps)
    monkeypatch.setattr(kube, "metadata", read)
    assert (await reconcile(short, deps)).gone, "its deletion has woken it"
    mine = await read_job(KEY, deps.sources)
    assert mine is not None
    assert [node.free for node in await deps.sources.cluster.free_nodes(mine)] == [
        node.free for node in deps.sources.cluster.nodes()
    ]
