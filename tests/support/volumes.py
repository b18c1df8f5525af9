"""A job's volume for tests of what reads it: an apiserver whose pods start, files behind exec."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from lockstep_cli.cluster import Cluster
from lockstep_cli.execution import Command, CommandFailed
from tests.support.apiserver import FakeApi, Json
from tests.support.cli import job

IMAGE = "worker:1"
RUNNING: Json = {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}


@dataclass
class Kubelet(FakeApi):
    """An apiserver, with somebody who starts the pods that are made."""

    started: Json = field(default_factory=lambda: dict(RUNNING))
    """The status that a new pod gets."""

    def put(self, plural: str, manifest: Json) -> Json:
        """As of every apiserver; a pod without status gets one."""
        stored = super().put(plural, manifest)
        if plural == "pods" and "status" not in manifest:
            super().put(plural, {**stored, "status": self.started})
        return stored


def with_volume(api: FakeApi, name: str = "digits", **spec: Any) -> Json:
    """A job in namespace lab whose claim is bound; it has no pods."""
    made = api.put("federatedjobs", job(name, status={"phase": "Completed"}, **spec))
    owner = {"uid": made["metadata"]["uid"], "kind": "FederatedJob", "controller": True}
    meta = {
        "name": f"{name}-cloud",
        "namespace": "lab",
        "annotations": {"lockstep.dev/worker-image": IMAGE},
        "ownerReferences": [owner],
    }
    api.put("persistentvolumeclaims", {"metadata": meta, "status": {"phase": "Bound"}})
    return made


def with_cloud_pod(api: FakeApi, name: str = "digits") -> None:
    """Its cloud pod runs."""
    meta = {"name": f"{name}-cloud-0", "namespace": "lab"}
    api.put("pods", {"metadata": meta, "status": RUNNING})


@dataclass
class Files:
    """What stands on the volume, and through which pods it was read."""

    content: Mapping[str, bytes]
    read: list[tuple[str, str]] = field(default_factory=list)
    """Pod and container, in order."""
    most: int | None = None
    """The connection ends after so many bytes."""
    announced: int | None = None
    """What is said of a file's size; the truth when None."""
    taken: int = 0
    """Bytes of files, with their sizes, that somebody took."""

    def output_of(self, cluster: Cluster, command: Command) -> Generator[bytes, None, None]:
        """As `lockstep_cli.execution` has it."""
        self.read.append((command.pod, command.container))
        name = command.words[-1].rpartition("/")[2]
        if name not in self.content:
            raise CommandFailed("command terminated with exit code 44", exit_code=44)
        content = self.content[name]
        size = len(content) if self.announced is None else self.announced
        stream = (b"%d\n" % size + content)[: self.most]
        for at in range(0, len(stream), 7):
            piece = stream[at : at + 7]
            self.taken += len(piece)
            yield piece


def mounted(monkeypatch: pytest.MonkeyPatch, **content: bytes) -> Files:
    """Files by name, with `_` for the dot, behind every pod of every job."""
    files = Files({name.replace("__", "."): text for name, text in content.items()})
    monkeypatch.setattr("lockstep_cli.volume.output_of", files.output_of)
    return files
