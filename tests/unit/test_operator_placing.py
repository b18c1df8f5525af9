"""Jobs that are placed one after another: nobody waits while another one's status is written, or
while much is decided, and what is gone holds no room."""

import asyncio
import threading
from datetime import datetime
from itertools import count

import pytest

from lockstep_operator import reconcile as reconcile_module
from lockstep_operator.core.decide import decide
from lockstep_operator.core.model import (
    Decision,
    JobKey,
    JobView,
    Manifest,
    NodeView,
    ObjectRef,
    Observed,
    Settings,
)
from lockstep_operator.errors import NotFound
from lockstep_operator.kube import job_ref
from lockstep_operator.observe import read_job
from lockstep_operator.reconcile import Known, reconcile
from tests.support.kube import KEY, FakeKube, cluster_with, job_body, make_deps


def put_job(kube: FakeKube, key: JobKey) -> None:
    job = job_body()
    job["metadata"] |= {"name": key.name, "namespace": key.namespace, "uid": f"uid-{key.name}"}
    kube.put(job)


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
    put_job(kube, large)
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
    put_job(kube, short)
    deps.known[short] = Known("")
    cluster = deps.sources.cluster
    look = cluster.free_nodes

    looks = count()

    async def meanwhile(job: JobView) -> tuple[NodeView, ...]:
        if next(looks) == 1:  # names are looked at in between
            kube.remove(job_ref("attic", "short"))
        return await look(job)

    monkeypatch.setattr(cluster, "free_nodes", meanwhile)
    with pytest.raises(NotFound):
        await reconcile(short, deps)
    monkeypatch.setattr(cluster, "free_nodes", look)
    assert (await reconcile(short, deps)).gone, "its deletion has woken it"
    mine = await read_job(KEY, deps.sources)
    assert mine is not None
    assert await cluster.free_nodes(mine) == cluster.nodes()


async def test_whoever_looks_at_large_objects_of_others_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job needs hundreds of names, and somebody may have made a megabyte under each: before its
    first pass, and before the next ones of a job that is refused for them."""
    kube = cluster_with()
    deps, reading, goes_on = make_deps(kube), asyncio.Event(), asyncio.Event()
    read, slow = kube.metadata, JobKey("attic", "slow")

    async def metadata(ref: ObjectRef) -> Manifest:
        if ref.namespace == "attic":
            reading.set()
            await goes_on.wait()
        return await read(ref)

    monkeypatch.setattr(kube, "metadata", metadata)
    put_job(kube, slow)
    taken = {"apiVersion": "v1", "kind": "ConfigMap"}
    kube.put(taken | {"metadata": {"name": "slow-settings", "namespace": "attic"}})
    deps.known.update({key: Known("") for key in (slow, KEY)})  # they need a place
    for _ in range(2):
        running = asyncio.create_task(reconcile(slow, deps))
        await reading.wait()
        async with asyncio.timeout(5):
            assert (await reconcile(KEY, deps)).phase == "Starting"
        goes_on.set()
        assert (await running).phase == "Refused"
        reading.clear()
        goes_on.clear()
        deps.known[KEY] = Known("")


@pytest.mark.parametrize(("groups", "beside"), [(reconcile_module.MANY, False), (64, True)])
async def test_what_takes_long_to_decide_is_decided_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, *, groups: int, beside: bool
) -> None:
    kube, threads = cluster_with(), list[threading.Thread]()
    small = {"cpuAtMax": "1m", "memory": "1Mi"}
    kube.put(job_body(devices=[small | {"name": f"d{number}"} for number in range(groups)]))

    def told(seen: Observed, settings: Settings, *, now: datetime) -> Decision:
        threads.append(threading.current_thread())
        return decide(seen, settings, now=now)

    monkeypatch.setattr(reconcile_module, "decide", told)
    assert (await reconcile(KEY, make_deps(kube))).phase == "Starting"
    assert len(threads) == 2
    assert (threading.current_thread() not in threads) is beside
