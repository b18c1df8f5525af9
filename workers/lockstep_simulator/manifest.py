"""Reads a FederatedJob from YAML and checks it as a cluster would, without one; the CLI calls it.

Invariant: what the apiserver refuses of a new job is refused here with its words (`structural`,
`rules`), then what the operator refuses of the spec alone (`core/spec`, `core/support`). Placement
does not apply: there are no nodes.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lockstep_api import names
from lockstep_api.spec import FederatedJobSpec
from lockstep_operator.core.spec import parse_spec
from lockstep_operator.core.support import unsupported
from lockstep_operator.crd import crd
from lockstep_operator.errors import InvalidSpec
from lockstep_simulator import overrides
from lockstep_simulator.rules import broken_rules
from lockstep_simulator.structural import (
    Json,
    Schema,
    matches,
    problems,
    shown,
    unknown_fields,
    whole,
    with_defaults,
)
from lockstep_simulator.yaml_stream import documents

Traces = Mapping[str, Mapping[str, str]]

FROM_FILE = "lockstep_simulator.examples:npz"
"""`data.entrypoint` of a job whose examples come from a file."""

_UNCHECKED = (
    "some validation rules were not checked because the object was invalid; correct the existing "
    "errors to complete validation"
)
_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    r"for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_METADATA = frozenset(
    (
        *("annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp"),
        *("finalizers", "generateName", "generation", "labels", "managedFields", "name"),
        *("namespace", "ownerReferences", "resourceVersion", "selfLink", "uid"),
    )
)


class Refused(Exception):
    """A manifest that is not run."""

    def __init__(self, sentences: Sequence[str]) -> None:
        """One sentence for each thing that is wrong, in the apiserver's words where it says it."""
        super().__init__("\n".join(sentences))
        self.sentences = tuple(sentences)


@dataclass(frozen=True, slots=True)
class DataFile:
    """An npz file of examples that a simulated job has instead of those of its manifest."""

    path: Path
    standardise: bool = False
    """Each feature less its mean and by its deviation over the training part."""

    def in_place_of(self, data: Mapping[str, Json], *, seed: int) -> Mapping[str, Json]:
        """`spec.data`, for a job with this seed."""
        arguments = {"path": str(self.path.resolve()), "seed": seed}
        if self.standardise:
            arguments["standardise"] = True
        return {"entrypoint": FROM_FILE, "args": arguments, "partition": data["partition"]}


@dataclass(frozen=True, slots=True)
class Manifest:
    """A job as a cluster would have taken it."""

    spec: FederatedJobSpec
    name: str
    namespace: str
    traces: Traces
    """Name of a ConfigMap → key → csv text."""


def load_manifest(
    text: str,
    *,
    sets: Sequence[str] = (),
    traces: Traces | None = None,
    job: str | None = None,
    data: DataFile | None = None,
) -> Manifest:
    """The job of a YAML stream, with its ConfigMaps.

    Args:
        text: the stream; what is neither a FederatedJob nor a ConfigMap is passed over.
        sets: `path=value` to change the spec with, as helm has it.
        traces: ConfigMaps that are not in the stream; one in the stream wins.
        job: the name of the job, if the stream has several.
        data: a file of examples, which stands in for the name or entrypoint of `spec.data`.

    Raises:
        Refused: it is no such stream, or a cluster would refuse the job.
    """
    found = list(documents(text, refuse=Refused))
    body = _chosen([one for one in found if one.get("kind") == names.KIND], job=job)
    _apply_sets(body, sets)
    spec = checked(body, data=data)
    metadata = body["metadata"]
    namespace = metadata.get("namespace") or "default"
    there = {**(traces or {}), **trace_maps(found, namespace=namespace)}
    _check_traces(spec, there)
    return Manifest(spec, metadata["name"], namespace, there)


def trace_maps(found: Sequence[dict[str, Json]], *, namespace: str | None = None) -> Traces:
    """The data of all ConfigMaps, but for those of other namespaces."""
    made: dict[str, Mapping[str, str]] = {}
    for one in found:
        metadata, data = one.get("metadata") or {}, one.get("data") or {}
        elsewhere = namespace is not None and metadata.get("namespace", namespace) != namespace
        if one.get("kind") != "ConfigMap" or elsewhere:
            continue
        name = metadata.get("name")
        if not isinstance(name, str):
            raise Refused(["a ConfigMap in the manifest has no metadata.name"])
        if odd := [key for key, value in data.items() if not isinstance(value, str)]:
            raise Refused([f"ConfigMap {name}: data.{odd[0]} must be a text: write {odd[0]}: |"])
        made[name] = data
    return made


def read_traces(path: Path) -> Traces:
    """ConfigMaps of a YAML file, of all YAML files of a folder, or made of csv files.

    A csv file NAME.csv stands for `kubectl create configmap NAME --from-file=NAME.csv`, a folder
    NAME with csv files for `--from-file=NAME/`.

    Raises:
        Refused: there is nothing of these.
    """
    if path.is_dir():
        inside = [one for one in sorted(path.iterdir()) if not one.name.startswith(".")]
        made: dict[str, Mapping[str, str]] = {}
        for one in inside:
            if one.is_dir() or one.suffix in {".csv", ".yaml", ".yml"}:
                made.update(read_traces(one))
        if tables := [one for one in inside if one.suffix == ".csv"]:
            made[path.name] = {one.name: read_text(one) for one in tables}
        return made
    if path.suffix == ".csv":
        return {path.stem: {path.name: read_text(path)}}
    return trace_maps(list(documents(read_text(path), refuse=Refused)))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        Refused: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused([f"cannot read {path}: {error}"]) from error


def _chosen(jobs: Sequence[dict[str, Json]], *, job: str | None) -> dict[str, Json]:
    """The one job that is meant."""
    if job is not None:
        jobs = [one for one in jobs if _name(one) == job]
    if len(jobs) == 1:
        return jobs[0]
    if jobs:
        known = ", ".join(str(_name(one)) for one in jobs)
        raise Refused([f"the manifest has {len(jobs)} FederatedJobs: say --job and one of {known}"])
    named = f" named {job}" if job is not None else ""
    raise Refused(
        [f"the manifest has no FederatedJob{named}: it needs kind: {names.KIND} and "
         f"apiVersion: {names.API_VERSION}"]
    )  # fmt: skip


def _name(body: Mapping[str, Json]) -> Json:
    metadata = body.get("metadata")
    return metadata.get("name") if isinstance(metadata, dict) else None


def _apply_sets(body: dict[str, Json], sets: Sequence[str]) -> None:
    spec = body.setdefault("spec", {})
    if not isinstance(spec, dict):
        return
    try:
        for one in sets:
            overrides.apply(spec, one)
    except overrides.BadSetting as error:
        raise Refused([str(error)]) from error


def checked(body: Mapping[str, Json], *, data: DataFile | None = None) -> FederatedJobSpec:
    """The spec of a job that a cluster would take; with other data, once that is known.

    Raises:
        Refused: it would not.
    """
    if body.get("apiVersion") != names.API_VERSION:
        version = body.get("apiVersion")
        raise Refused(
            [f'no matches for kind "{names.KIND}" in version "{version}": '
             f"write apiVersion: {names.API_VERSION}"]
        )  # fmt: skip
    asked = whole({key: value for key, value in body.items() if key != "status"})
    if unknown := list(_unknown(asked)):
        raise Refused([f'unknown field "{path}"' for path in unknown])
    job = with_defaults(asked, _schema())
    if wrong := _refusals(job):
        raise Refused(wrong)
    spec = job["spec"]
    if data is not None:
        spec = {**spec, "data": data.in_place_of(spec["data"], seed=spec["training"]["seed"])}
    return _supported(spec)


@functools.cache
def _schema() -> Schema:
    found: Schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def _unknown(job: Mapping[str, Json]) -> Iterator[str]:
    metadata = job.get("metadata")
    if isinstance(metadata, dict):
        yield from (f"metadata.{key}" for key in metadata if key not in _METADATA)
    without = {**job, "metadata": {}}
    yield from unknown_fields(without, _schema())


def _refusals(job: Mapping[str, Json]) -> list[str]:
    """What the apiserver says of a job that has its defaults."""
    named = list(_of_name(job))
    found = list(problems(job, _schema()))
    said = [*named, *(one.text for one in found)]
    if any(one.blocks for one in found) or not isinstance(job.get("metadata"), dict):
        return [*said, _UNCHECKED]
    return [*said, *(one.text for one in broken_rules(job, _schema()))]


def _of_name(job: Mapping[str, Json]) -> Iterator[str]:
    name = _name(job)
    if not isinstance(name, str) or not name:
        yield "metadata.name: Required value: name or generateName is required"
    elif not matches(name, _SUBDOMAIN):
        yield f"metadata.name: Invalid value: {shown(name)}: {_SUBDOMAIN_MESSAGE}"


def _supported(spec: Mapping[str, Any]) -> FederatedJobSpec:
    """What the operator would say with condition Accepted."""
    try:
        read = parse_spec(spec)
    except InvalidSpec as error:
        raise Refused([str(error)]) from error
    if reasons := unsupported(read):
        raise Refused(reasons)
    return read


def _check_traces(spec: FederatedJobSpec, there: Traces) -> None:
    """Whether every trace that devices need is there."""
    missing: list[str] = []
    for index, group in enumerate(spec.devices):
        for direction, link in (("uplink", group.uplink), ("downlink", group.downlink)):
            if link is None or link.trace is None or _has_csv(there.get(link.trace, {})):
                continue
            missing.append(
                f"spec.devices[{index}].{direction}.trace: ConfigMap {link.trace} is not there, or "
                "has no key that ends in .csv: put it into the manifest, or name its file or "
                "folder with --traces"
            )
    if missing:
        raise Refused(missing)


def _has_csv(data: Mapping[str, str]) -> bool:
    return any(key.endswith(".csv") for key in data)
