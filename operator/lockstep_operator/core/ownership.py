"""Whose an object is: the job's own, left over from an earlier job of its name, or somebody else's.

`decide`, `observe` and `owned` ask it about everything under a name that a job needs or under its
label. Labels and names say nothing: anybody may give them to anything. Only an owner reference with
the job's UID does, and what has none is never written, adopted, mounted or deleted.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from lockstep_api import names
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FINISHED
from lockstep_api.text import few
from lockstep_operator.core.children import child_refs, record_refs
from lockstep_operator.core.model import JobView, Manifest, ObjectRef, Observed
from lockstep_operator.core.support import unplayable

_SET = "StatefulSet"
_SHOWN = 5


class Standing(StrEnum):
    """What an object is to a job."""

    OWN = "own"
    LEFT_OVER = "left over"
    """Of a deleted job of the same name: Kubernetes is about to remove it."""
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Names:
    """What a job makes while it runs, by name."""

    children: tuple[ObjectRef, ...] = ()
    """What it consists of: followed by a watch."""
    records: tuple[ObjectRef, ...] = ()
    """What is kept for it: nobody follows that."""

    @property
    def all(self) -> tuple[ObjectRef, ...]:
        return self.children + self.records


def standing(manifest: Manifest, *, job: str, uid: str) -> Standing:
    """What an object is to the job with this name and uid."""
    owners = manifest["metadata"].get("ownerReferences") or []
    if any(owner.get("controller") and owner.get("uid") == uid for owner in owners):
        return Standing.OWN
    if owners and all(_was(owner, job=job, uid=uid) for owner in owners):
        return Standing.LEFT_OVER
    return Standing.FOREIGN


def _was(owner: Mapping[str, object], *, job: str, uid: str) -> bool:
    """Whether an owner is an earlier job of the name: two that live cannot have the same."""
    kind = (owner.get("apiVersion"), owner.get("kind"), owner.get("name"))
    return kind == (names.API_VERSION, names.KIND, job) and owner.get("uid") != uid


def of_standing(
    objects: Mapping[ObjectRef, Manifest], wanted: Standing, *, job: JobView
) -> dict[ObjectRef, Manifest]:
    """Those of the objects that are this to the job."""
    return {
        ref: manifest
        for ref, manifest in objects.items()
        if standing(manifest, job=job.key.name, uid=job.uid) is wanted
    }


def controller(manifest: Manifest) -> Manifest | None:
    """The owner reference of what made an object and sees to it."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return next((one for one in owners if one.get("controller")), None)


def is_of_its_set(pod: Manifest) -> bool:
    """Whether a pod is one of a StatefulSet, as its name says: no other pod of the name is.

    Whose the set is decides about all its pods: a job whose set's name is taken has none.
    """
    meta = pod["metadata"]
    owners = meta.get("ownerReferences") or []
    sets = {one["name"] for one in owners if one.get("controller") and one["kind"] == _SET}
    return meta["name"].rpartition("-")[0] in sets


def own(observed: Observed) -> dict[ObjectRef, Manifest]:
    """The job's own of what was seen."""
    return of_standing(observed.children, Standing.OWN, job=observed.job)


def needed_names(job: JobView) -> Names:
    """The names that a job needs which is to run; none of one that has ended or is suspended."""
    spec = job.spec
    if spec is None or spec.suspend or job.status.phase in FINISHED or unplayable(spec):
        return Names()
    return Names(child_refs(job, spec), record_refs(job, spec))


def names_taken(job: JobView, objects: Mapping[ObjectRef, Manifest]) -> dict[ObjectRef, Manifest]:
    """Those of the objects that are somebody else's and have a name that the job needs."""
    there = {ref: objects[ref] for ref in needed_names(job).all if ref in objects}
    return of_standing(there, Standing.FOREIGN, job=job)


def names_doubled(job: JobView, spec: FederatedJobSpec) -> list[str]:
    """A sentence for each name that two groups of the job would have.

    A long name ends in a hash of the whole, which another group's may spell out.
    """
    counts = Counter(child_refs(job, spec))
    return [
        f"two groups of the job would both be {ref.kind} {ref.name}: give one of them another name"
        for ref, count in counts.items()
        if count > 1
    ]


def advice(others: Mapping[ObjectRef, Manifest]) -> str:
    """What is wrong with names that are taken, and what people can do."""
    shown = [described(ref, manifest) for ref, manifest in others.items()]
    return (
        f"the job needs names that others have: {few(shown, _SHOWN)}. They were not "
        "touched, and the job has no pods. Make it under another name, or delete what nobody "
        "needs: it goes on by itself once its names are free"
    )


def described(ref: ObjectRef, manifest: Manifest) -> str:
    """An object for people: kind and name, and whose it is if it says so."""
    owner = controller(manifest)
    whose = f" of {owner.get('kind')} {owner.get('name')}" if owner else ""
    return f"{ref.kind} {ref.name}{whose}"
