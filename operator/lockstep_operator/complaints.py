"""The newest Warning event of each object of a job that is not well.

`cluster_state` has one a namespace and tells it which objects there are; `follow` feeds it. Events
of others leave nothing, but for a bounded number that may be about an object that is not known yet.
An event says something once: after its object is well, or replaced, it counts no more, however
late it is heard or listed again. That Kubernetes forgets events (after an hour) takes nothing back.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lockstep_operator.core.model import Complaint, JobKey, Manifest, ObjectRef
from lockstep_operator.kept import Source, Taking, version_of
from lockstep_operator.kube import EVENT

KINDS = frozenset({"Pod", "StatefulSet", "PersistentVolumeClaim"})
MOST_UNKNOWN = 1024
"""Objects of which a warning is kept although nobody has told that they belong to a job."""
_MOST_CHARACTERS, _LONGEST_REASON = 1024, 128
_LONGEST_UID = 64
Key = tuple[str, str]
"""Namespace and uid: whoever may write events in one may write any uid into them."""


@dataclass(slots=True)
class _Object:
    """An object of a job."""

    job: JobKey
    ref: ObjectRef
    well: bool
    heard: int = 0
    """Up to this resource version events about it were heard, or do not count."""


class Complaints:
    """Of one namespace, or of all."""

    def __init__(self, namespace: str | None, *, changed: Callable[[JobKey], None]) -> None:
        self.source = Source(EVENT, namespace, fields="type=Warning")
        self.version = 0
        self._changed = changed
        self._objects: dict[Key, _Object] = {}
        self._by_job: dict[JobKey, dict[ObjectRef, Complaint]] = {}
        self._unknown: OrderedDict[Key, tuple[int, Complaint]] = OrderedDict()

    def of(self, job: JobKey) -> Mapping[ObjectRef, Complaint]:
        """Of the objects of a job, named as its label names it."""
        return self._by_job.get(job, {})

    def know(self, uid: str, ref: ObjectRef, *, job: JobKey, well: bool) -> None:
        """An object of a job is there."""
        key = ref.namespace, uid
        if key in self._objects and self._objects[key].job != job:
            self.forget(uid, ref)
        known = self._objects.setdefault(key, _Object(job, ref, well))
        known.well = well
        version, complaint = self._unknown.pop(key, (0, None))
        if complaint is not None:
            self._hear(known, complaint, version=version)
        if well:
            known.heard = max(known.heard, self.version)
            self._take_back(known)

    def forget(self, uid: str, ref: ObjectRef) -> None:
        """An object is gone."""
        if (known := self._objects.pop((ref.namespace, uid), None)) is not None:
            self._take_back(known)

    def put(self, manifest: Manifest) -> None:
        """An event as the cluster has it."""
        version, about = version_of(manifest), manifest.get("involvedObject", {})
        self.version = max(self.version, version)
        uid = about.get("uid", "")
        if about.get("kind") not in KINDS or len(uid) > _LONGEST_UID:
            return
        key = manifest["metadata"].get("namespace", ""), uid
        complaint = Complaint(
            (manifest.get("reason") or "Warning")[:_LONGEST_REASON],
            (manifest.get("message") or "").strip()[:_MOST_CHARACTERS],
        )
        if (known := self._objects.get(key)) is not None:
            self._hear(known, complaint, version=version)
        else:
            self._hold(key, version, complaint=complaint)

    def passed(self, manifest: Manifest) -> None:
        """A bookmark: nothing else has happened up to its version."""
        self.version = max(self.version, version_of(manifest))

    def drop(self, manifest: Manifest) -> None:
        """Kubernetes has forgotten an event; its object is no better for that."""
        self.passed(manifest)

    def anew(self) -> Taking:
        """For a list of all events: those that were heard already say nothing new."""
        return _Anew(self)

    def listed(self, version: int) -> None:
        """All events up to a version were put."""
        if version < self.version:
            for known in self._objects.values():
                known.heard = 0
        self.version = version

    def _hear(self, known: _Object, complaint: Complaint, *, version: int) -> None:
        if version <= known.heard:
            return
        known.heard = version
        if known.well:
            return
        of_job = self._by_job.setdefault(known.job, {})
        if of_job.get(known.ref) != complaint:
            of_job[known.ref] = complaint
            self._changed(known.job)

    def _hold(self, key: Key, version: int, *, complaint: Complaint) -> None:
        self._unknown[key] = (version, complaint)
        self._unknown.move_to_end(key)
        if len(self._unknown) > MOST_UNKNOWN:
            self._unknown.popitem(last=False)

    def _take_back(self, known: _Object) -> None:
        of_job = self._by_job.get(known.job, {})
        of_job.pop(known.ref, None)
        if not of_job:
            self._by_job.pop(known.job, None)


@dataclass(frozen=True, slots=True)
class _Anew:
    complaints: Complaints

    def add(self, manifest: Manifest) -> None:
        self.complaints.put(manifest)

    def end(self, version: int) -> None:
        """Also of a cluster that was restored and counts from less: what comes is new."""
        self.complaints.listed(version)
