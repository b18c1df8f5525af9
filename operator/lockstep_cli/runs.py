"""A job with what it wrote down: of a cluster, or of files that were brought from one.

Commands that explain, report and compare begin here. Invariant: both kinds of run are the same to
whoever shows them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from lockstep_admission.checking import admitted, supported
from lockstep_admission.errors import Refused
from lockstep_admission.yaml_stream import documents
from lockstep_api import names
from lockstep_api.records import CLIENTS_FILE, HISTORY_FILE
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_cli.cluster import Cluster, Json
from lockstep_cli.errors import CliError, Exit, NotFound
from lockstep_cli.jobs import find_job
from lockstep_cli.records import Records, of_files, of_volume, read_file
from lockstep_cli.volume import volume_of
from lockstep_operator.core.spec import parse_spec
from lockstep_operator.errors import InvalidSpec

MANIFESTS = ("job.yaml", "manifest.yaml")
"""In a folder of files of a job, the manifest."""
_KEPT = ("name", "namespace", "labels", "annotations")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Run:
    """A job, as far as it came."""

    name: str
    namespace: str
    spec: FederatedJobSpec
    records: Records
    manifest: str
    """As text, without what the cluster added."""
    status: FederatedJobStatus | None = None
    """None: it comes from files."""

    @property
    def shown(self) -> str:
        """Namespace and name."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Files:
    """Where the files of a job are."""

    history: Path
    clients: Path | None
    manifest: Path


def run_of_job(cluster: Cluster, name: str, *, image: str | None = None) -> Run:
    """A job of a cluster with what stands on its volume.

    Raises:
        CliError: it cannot be read.
    """
    body = find_job(cluster, name).body
    return with_records(body, records_of(cluster, body, image=image))


def records_of(cluster: Cluster, body: Json, *, image: str | None = None) -> Records:
    """What stands on a job's volume; nothing of one that has no volume yet.

    Raises:
        CliError: it cannot be read.
    """
    try:
        with volume_of(cluster, body, image=image) as volume:
            return of_volume(volume)
    except NotFound:
        if (body.get("status") or {}).get("completionTime"):
            raise
        return Records()


def with_records(body: Json, records: Records) -> Run:
    """A job of a cluster, as it was read.

    Raises:
        CliError: its spec is of another release.
    """
    meta = body["metadata"]
    try:
        spec = parse_spec(body["spec"])
    except InvalidSpec as error:
        raise CliError(f"job {meta['name']} is not of this release of lockstep: {error}") from error
    return Run(
        name=meta["name"],
        namespace=meta["namespace"],
        spec=spec,
        records=records,
        manifest=manifest_of(body),
        status=status_of(body),
    )


def status_of(body: Json) -> FederatedJobStatus:
    """What was seen of a job; of a status of another release only what every one has."""
    status = body.get("status") or {}
    try:
        return FederatedJobStatus.model_validate(status)
    except ValidationError:
        times = {key: status.get(key) for key in ("startTime", "completionTime")}
        known = {key: one for key, one in times.items() if isinstance(one, str)}
        return FederatedJobStatus.model_validate(known)


def manifest_of(body: Json) -> str:
    """A job as its user would write it."""
    meta = {key: value for key, value in body["metadata"].items() if key in _KEPT}
    notes = {key: value for key, value in meta.pop("annotations", {}).items() if key != _APPLIED}
    meta |= {"annotations": notes} if notes else {}
    written = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": meta,
        "spec": body["spec"],
    }
    return yaml.safe_dump(written, sort_keys=False, allow_unicode=True)


def run_of_files(files: Files) -> Run:
    """A job of files.

    Raises:
        CliError: they cannot be read, or are none of a job.
    """
    records = of_files(files.history, files.clients)
    text = read_file(files.manifest).decode(errors="replace")
    try:
        jobs = [one for one in documents(text) if one.get("kind") == names.KIND]
        if len(jobs) != 1:
            raise CliError(f"{files.manifest} has {len(jobs)} FederatedJobs, not one")
        body = admitted(jobs[0])
        spec = supported(body["spec"])
    except Refused as error:
        raise CliError(f"{files.manifest}: {'; '.join(error.sentences)}") from error
    meta = jobs[0]["metadata"]
    return Run(
        name=meta["name"],
        namespace=meta.get("namespace") or "default",
        spec=spec,
        records=records,
        manifest=manifest_of(jobs[0]),
    )


def files_of(history: Path | None, clients: Path | None, *, manifest: Path | None) -> Files | None:
    """What options name; None: nothing, so a cluster is meant.

    Raises:
        CliError: one of those that are needed is missing.
    """
    if history is None and manifest is None:
        return None
    if history is None or manifest is None:
        missing = "--history" if history is None else "--manifest"
        message = f"without a cluster --history and --manifest are needed: {missing} is missing"
        raise CliError(message, Exit.USAGE)
    return Files(history, clients, manifest)


def files_in(folder: Path) -> Files:
    """The files of a job in a folder, as `report --save` and `simulate --records` leave them.

    Raises:
        NotFound: one that is needed is not there.
    """
    there = list(_manifests(folder))
    if not there:
        raise NotFound(f"{folder} has no {MANIFESTS[0]}: copy the job's manifest there")
    history, clients = folder / HISTORY_FILE, folder / CLIENTS_FILE
    return Files(history, clients if clients.exists() else None, there[0])


def _manifests(folder: Path) -> Iterator[Path]:
    return (folder / name for name in MANIFESTS if (folder / name).exists())
