"""Applying a plan's limits: what is patched and waited for, and why a limit is not in force."""

import asyncio

from prometheus_client import CollectorRegistry

from lockstep_operator.actuate import RETRY_S, Applied, Refusals, Resizer, actuate
from lockstep_operator.core.model import JobKey, Manifest, ObjectRef
from lockstep_operator.errors import Conflict, NotFound, NotServed, Refused, Unavailable
from lockstep_operator.kube import POD
from lockstep_operator.metrics import Metrics
from tests.support.kube import KEY, FakeKube, cluster_with, device_pod, failing

POD_0, POD_1 = "digits-device-fast-0", "digits-device-fast-1"


def limits(milli: int = 200, clients: int = 2) -> dict[str, int]:
    return {f"fast-{index}": milli for index in range(clients)}


def pods(cpu: str = "1") -> FakeKube:
    return cluster_with(None, device_pod(POD_0, cpu), device_pod(POD_1, cpu))


def actuator(kube: FakeKube, wait_s: float = 5.0) -> Resizer:
    return Resizer(kube, Metrics(CollectorRegistry()), wait_s=wait_s)


def failures_of(used: Resizer, reason: str) -> float | None:
    labels = {"reason": reason}
    return used.metrics.registry.get_sample_value("lockstep_resize_failures_total", labels)


async def test_all_limits_are_put_in_force() -> None:
    kube = pods()
    used = actuator(kube)
    assert await actuate(KEY, limits(), resizer=used) == Applied()
    assert sorted(kube.writes) == [("resize", f"Pod/{POD_0}"), ("resize", f"Pod/{POD_1}")]
    count = used.metrics.registry.get_sample_value("lockstep_resize_seconds_count")
    assert count == 2


async def test_a_limit_that_is_in_force_is_left() -> None:
    kube = pods("0.2")
    assert await actuate(KEY, limits(200), resizer=actuator(kube)) == Applied()
    assert kube.writes == []


async def test_a_limit_that_was_asked_for_elsewise_meanwhile_is_patched() -> None:
    kube = pods("200m")
    kube.kubelet = False
    await kube.resize(KEY.namespace, POD_0, container="worker", cpu="900m")
    kube.kubelet, kube.writes = True, []
    assert await actuate(KEY, limits(200), resizer=actuator(kube)) == Applied()
    assert kube.writes == [("resize", f"Pod/{POD_0}")]


async def test_only_participants_are_touched() -> None:
    kube = pods()
    await actuate(KEY, limits(clients=1), resizer=actuator(kube))
    assert kube.writes == [("resize", f"Pod/{POD_0}")]


async def test_a_missing_pod_is_named() -> None:
    kube = cluster_with(None, device_pod(POD_0))
    used = actuator(kube)
    assert (await actuate(KEY, limits(), resizer=used)).failures == {"fast-1": "pod not found"}
    assert failures_of(used, "PodNotFound") == 1


async def test_a_pod_that_goes_before_the_patch_is_named() -> None:
    kube = pods()
    kube.fail = failing("resize", NotFound("no"), POD_1)
    assert (await actuate(KEY, limits(), resizer=actuator(kube))).failures == {
        "fast-1": "pod not found"
    }


async def test_a_refused_patch_leaves_it_to_the_device() -> None:
    kube = pods()
    kube.fail = failing("resize", Refused("QoS must not change"), POD_1)
    used = actuator(kube)
    applied = await actuate(KEY, limits(), resizer=used)
    assert applied == Applied({}, {"fast-1": "resize refused: QoS must not change"})
    assert failures_of(used, "Refused") == 1


async def test_a_kubernetes_without_the_subresource_leaves_it_to_the_devices() -> None:
    kube = pods()
    kube.fail = failing("resize", NotServed("404 page not found"))
    used = actuator(kube)
    applied = await actuate(KEY, limits(), resizer=used)
    why = "this Kubernetes does not serve pods/resize"
    assert applied == Applied({}, {"fast-0": why, "fast-1": why})
    assert failures_of(used, "NotServed") == 2
    assert not kube.watched.is_set(), "nothing is in force later: nobody waits for it"


async def test_a_device_cannot_keep_to_more_than_its_limit() -> None:
    kube = cluster_with(None, device_pod(POD_0, "100m"))
    kube.fail = failing("resize", Refused("forbidden"))
    applied = await actuate(KEY, limits(200, clients=1), resizer=actuator(kube))
    assert applied == Applied({"fast-0": "resize refused: forbidden; its limit stays 100m"}, {})


async def test_a_trouble_that_passes_is_not_left_to_the_device() -> None:
    kube = pods()
    kube.fail = failing("resize", Conflict("changed meanwhile"), POD_1)
    applied = await actuate(KEY, limits(), resizer=actuator(kube))
    assert applied == Applied({"fast-1": "resize failed: changed meanwhile"}, {})


async def test_a_refusal_is_remembered_for_a_while() -> None:
    """The next round does not pay for a call that fails; later rounds try, and find it mended."""
    kube, now = pods(), [0.0]
    kube.fail = failing("resize", Refused("forbidden"))
    used = Resizer(kube, Metrics(CollectorRegistry()), refusals=Refusals(lambda: now[0]))
    first = await actuate(KEY, limits(), resizer=used)
    assert set(first.refusals) == {"fast-0", "fast-1"}
    kube.fail = lambda _verb, _name: None
    now[0] = RETRY_S - 1
    assert await actuate(KEY, limits(), resizer=used) == first
    assert kube.writes == []
    other = JobKey(KEY.namespace, "other")
    assert used.refusals.of(other) == {}
    now[0] = RETRY_S + 1
    assert await actuate(KEY, limits(), resizer=used) == Applied()
    assert len(kube.writes) == 2


async def test_a_limit_that_does_not_come_into_force_in_time() -> None:
    kube = pods()
    kube.kubelet = False
    used = actuator(kube, wait_s=0.05)
    applied = await actuate(KEY, limits(clients=1), resizer=used)
    assert applied.failures == {"fast-0": "not in force after 0.05 s"}
    assert failures_of(used, "TimedOut") == 1


class Deferring(FakeKube):
    """A kubelet that puts a resize off."""

    reason = "Deferred"
    judged = 2

    async def resize(self, namespace: str, pod: str, *, container: str, cpu: str) -> Manifest:
        self.kubelet = False
        changed = await super().resize(namespace, pod, container=container, cpu=cpu)
        changed["metadata"]["generation"] = 2
        changed["status"]["conditions"] = [
            {
                "observedGeneration": self.judged,
                "type": "PodResizePending",
                "status": "True",
                "reason": self.reason,
                "message": "node is full",
            }
        ]
        self.put(changed)
        return changed


async def test_a_deferred_resize_gives_the_kubelets_reason() -> None:
    kube = Deferring()
    kube.put(device_pod(POD_0))
    used = actuator(kube, wait_s=0.05)
    applied = await actuate(KEY, limits(clients=1), resizer=used)
    assert applied.failures == {"fast-0": "Deferred: node is full"}
    assert failures_of(used, "Deferred") == 1


async def test_an_infeasible_resize_is_not_waited_for() -> None:
    kube = Deferring()
    kube.reason = "Infeasible"
    kube.put(device_pod(POD_0))
    applied = await actuate(KEY, limits(clients=1), resizer=actuator(kube, wait_s=300))
    assert applied == Applied({}, {"fast-0": "Infeasible: node is full"})


async def test_what_the_kubelet_said_of_an_earlier_resize_does_not_count() -> None:
    kube = Deferring()
    kube.reason, kube.judged = "Infeasible", 1
    kube.put(device_pod(POD_0))
    applied = await actuate(KEY, limits(clients=1), resizer=actuator(kube, wait_s=0.05))
    assert applied.failures == {"fast-0": "not in force after 0.05 s"}


async def test_a_pod_that_is_deleted_meanwhile_is_not_waited_for() -> None:
    kube = pods()
    kube.kubelet = False
    ref = ObjectRef(*POD, KEY.namespace, POD_0)
    task = asyncio.create_task(actuate(KEY, limits(clients=1), resizer=actuator(kube, wait_s=300)))
    await kube.watched.wait()
    kube.remove(ref)
    assert (await task).failures == {"fast-0": "pod was deleted"}


async def test_a_broken_watch_is_the_reason() -> None:
    kube = pods()
    kube.kubelet = False
    kube.fail = failing("watch", Unavailable("connection lost"))
    applied = await actuate(KEY, limits(clients=1), resizer=actuator(kube))
    assert applied.failures == {"fast-0": "its pods could not be watched: connection lost"}
