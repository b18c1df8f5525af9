"""What is promised of the in-memory Kubernetes of the operator's unit tests."""

import pytest

from lockstep_operator.errors import NotFound
from lockstep_operator.kube import POD, job_ref
from tests.support.kube import FakeKube, cluster_with, device_pod


async def test_the_fake_selects_by_label_and_namespace() -> None:
    kube = cluster_with(None, device_pod("a"))
    assert len((await kube.listed(POD, "lab", labels="lockstep.dev/role=device")).items) == 1
    assert not (await kube.listed(POD, "lab", labels="lockstep.dev/role=cloud")).items
    assert not (await kube.listed(POD, "elsewhere")).items


async def test_the_fake_watches_from_a_resource_version() -> None:
    kube = cluster_with(None, device_pod("a"))
    listing = await kube.listed(POD, "lab")
    await kube.resize("lab", "a", container="worker", cpu="100m")
    watch = kube.watch(
        POD, "lab", labels="", resource_version=listing.resource_version, timeout_s=1
    )
    event = await anext(watch)
    await watch.aclose()
    assert event["object"]["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"] == "100m"


async def test_the_fake_knows_what_is_absent() -> None:
    with pytest.raises(NotFound):
        await FakeKube().get(job_ref("lab", "nothing"))
