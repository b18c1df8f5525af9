"""What is kept of the objects of one kind, brought up to date by a watch and by own writes.

`cluster_state` has one `Kept` a kind and namespace; `follow` feeds it. Only what decisions need is
kept, as `view` makes it, never a whole manifest. What is known never goes back in time: of two
states of an object the one with the higher resource version counts, whichever is heard first.
"""

from asyncio import Event
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from lockstep_api import names
from lockstep_operator.core.model import JobKey, Manifest
from lockstep_operator.kube import Kind

Name = tuple[str, str]
"""Namespace and name."""
View = TypeVar("View")


@dataclass(frozen=True, slots=True)
class Source:
    """Which objects are followed."""

    kind: Kind
    namespace: str | None = None
    """None: of the whole cluster."""
    labels: str = ""
    metadata_only: bool = False
    """Whether no more than their metadata is asked for."""
    fields: str = ""
    """A field selector."""


class Taking(Protocol):
    """Takes the objects of a list that replaces what is known."""

    def add(self, manifest: Manifest) -> None:
        """One of them."""

    def end(self, version: int) -> None:
        """There are no more, and they are what there was at this version."""


class Followed(Protocol):
    """What `follow` brings up to date."""

    source: Source
    version: int
    """The resource version up to which the cluster's changes are known."""

    def put(self, manifest: Manifest) -> None: ...

    def passed(self, manifest: Manifest) -> None: ...

    def drop(self, manifest: Manifest) -> None: ...

    def anew(self) -> Taking: ...


@dataclass(frozen=True, slots=True)
class Change(Generic[View]):
    """What became of an object."""

    job: JobKey
    """The job that it belongs to, as its label names it; without a name for what has no label."""
    old: View | None
    """None: it is new."""
    new: View | None
    """None: it is gone."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[View]):
    """An object at a version."""

    version: int
    job: JobKey
    view: View


@dataclass(slots=True)
class Kept(Generic[View]):
    """The objects of one source."""

    source: Source
    view: Callable[[Manifest], View]
    """What of an object is kept."""
    changed: Callable[[Change[View]], None] = lambda change: None
    """Hears what was learnt from the cluster, if `view` shows it."""
    version: int = 0
    """The resource version up to which the cluster's changes are known."""
    synced: Event = field(default_factory=Event)
    """Set once all objects were listed."""
    _entries: dict[Name, Entry[View]] = field(default_factory=dict)
    _by_job: dict[JobKey, dict[Name, View]] = field(default_factory=dict)

    def of(self, job: JobKey) -> Mapping[Name, View]:
        """The objects of a job, named as its label names it."""
        return self._by_job.get(job, {})

    def __iter__(self) -> Iterator[tuple[JobKey, View]]:
        """As they are now: another thread may go through them while the watch goes on."""
        return ((entry.job, entry.view) for entry in list(self._entries.values()))

    def put(self, manifest: Manifest) -> None:
        """An object as the cluster tells that it is now."""
        version = version_of(manifest)
        self.version = max(self.version, version)
        self._set(_name(manifest), Entry(version, job_of(manifest), self.view(manifest)))

    def wrote(self, manifest: Manifest) -> None:
        """An object as this process has just written it: known before the watch tells.

        What the watch has passed already it has told, or will tell that it is gone.
        """
        name, version = _name(manifest), version_of(manifest)
        known = self._entries.get(name)
        if version > self.version and (known is None or version > known.version):
            self._keep(name, Entry(version, job_of(manifest), self.view(manifest)))

    def passed(self, manifest: Manifest) -> None:
        """A bookmark: nothing else has changed up to its version."""
        self.version = max(self.version, version_of(manifest))

    def drop(self, manifest: Manifest) -> None:
        """An object is gone."""
        version = version_of(manifest)
        self.version = max(self.version, version)
        self._forget(_name(manifest), version)

    def replace(self, listed: Iterable[tuple[Name, Entry[View]]], version: int) -> None:
        """All objects as they were at a version: what is not among them is gone.

        A version that is lower than one that was seen is that of a restored cluster: begin anew.
        """
        if version < self.version:
            self.synced.clear()
            self._entries.clear()
            self._by_job.clear()
        found = dict(listed)
        for name in [name for name in self._entries if name not in found]:
            self._forget(name, version)
        for name, entry in found.items():
            self._set(name, entry)
        self.version = version
        self.synced.set()

    def anew(self) -> "Taking":
        """For a new list of all objects, of which only the views are held until its end."""
        return _Anew(self)

    def entry(self, manifest: Manifest) -> tuple[Name, Entry[View]]:
        """An object of a list, for `replace`."""
        entry = Entry(version_of(manifest), job_of(manifest), self.view(manifest))
        return _name(manifest), entry

    def _set(self, name: Name, entry: Entry[View]) -> None:
        known = self._entries.get(name)
        if known is not None and known.version > entry.version:
            return
        self._keep(name, entry)
        if known is None or known.view != entry.view or known.job != entry.job:
            self.changed(Change(entry.job, known.view if known else None, entry.view))

    def _forget(self, name: Name, version: int) -> None:
        known = self._entries.get(name)
        if known is not None and known.version <= version:
            self._remove(name, known)
            self.changed(Change(known.job, known.view, None))

    def _keep(self, name: Name, entry: Entry[View]) -> None:
        known = self._entries.get(name)
        self._entries[name] = entry  # at once: what is replaced is never away meanwhile
        if known is not None:
            self._leave_job(name, known)
        self._by_job.setdefault(entry.job, {})[name] = entry.view

    def _remove(self, name: Name, known: Entry[View]) -> None:
        del self._entries[name]
        self._leave_job(name, known)

    def _leave_job(self, name: Name, known: Entry[View]) -> None:
        of_job = self._by_job[known.job]
        del of_job[name]
        if not of_job:
            del self._by_job[known.job]


@dataclass(slots=True)
class _Anew(Generic[View]):
    kept: Kept[View]
    found: dict[Name, Entry[View]] = field(default_factory=dict)

    def add(self, manifest: Manifest) -> None:
        name, entry = self.kept.entry(manifest)
        self.found[name] = entry

    def end(self, version: int) -> None:
        self.kept.replace(self.found.items(), version)


def version_of(manifest: Manifest) -> int:
    """The resource version of an object; versions of one kind are ordered."""
    return int(manifest["metadata"]["resourceVersion"])


def job_of(manifest: Manifest) -> JobKey:
    """The job that an object belongs to, as its label names it."""
    meta = manifest["metadata"]
    return JobKey(meta.get("namespace", ""), (meta.get("labels") or {}).get(names.JOB_LABEL, ""))


def _name(manifest: Manifest) -> Name:
    meta = manifest["metadata"]
    return meta.get("namespace", ""), meta["name"]
