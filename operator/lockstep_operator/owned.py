"""Writes and deletions of what jobs consist of: nobody else's object is ever touched.

`reconcile` and `policy_learning` call it. Whose an object is is read right before it is written or
deleted, and what is sent holds only for the object that was read, as it was read: its uid and
resource version go along. So an object that came in its place meanwhile, or that its user has
taken out of the job, stays as it is.
"""

from lockstep_operator.core.manifests import reference
from lockstep_operator.core.model import JobView, Manifest, ObjectRef
from lockstep_operator.core.ownership import Standing, described, standing
from lockstep_operator.errors import NameTaken, NotFound
from lockstep_operator.kube import Kube


async def put(job: JobView, manifest: Manifest, *, kube: Kube) -> Manifest:
    """Make an object of the job, or bring it to this form.

    Raises:
        NameTaken: somebody else's has the name.
        KubeError: it could not be written; nothing of anybody else was.
    """
    try:
        found = await kube.metadata(reference(manifest))
    except NotFound:
        return await kube.create(manifest)
    if _standing(found, job) is Standing.LEFT_OVER:
        await _delete(found, kube)
        return await kube.create(manifest)
    _check(found, job)
    return await kube.apply(manifest, over=found)


async def remove(job: JobView, ref: ObjectRef, *, kube: Kube) -> None:
    """Delete an object of the job, or what an earlier job of its name has left.

    Raises:
        NameTaken: it is somebody else's.
        KubeError: it could not be deleted; nothing of anybody else was.
    """
    try:
        found = await kube.metadata(ref)
    except NotFound:
        return
    if _standing(found, job) is not Standing.LEFT_OVER:
        _check(found, job)
    await _delete(found, kube)


async def _delete(found: Manifest, kube: Kube) -> None:
    meta = found["metadata"]
    await kube.delete(reference(found), uid=meta["uid"], version=meta["resourceVersion"])


def _standing(found: Manifest, job: JobView) -> Standing:
    return standing(found, job=job.key.name, uid=job.uid)


def _check(found: Manifest, job: JobView) -> None:
    if _standing(found, job) is not Standing.OWN:
        what = described(reference(found), found)
        raise NameTaken(f"{what} does not belong to job {job.key.namespace}/{job.key.name}")
