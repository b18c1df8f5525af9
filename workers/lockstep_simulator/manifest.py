"""A FederatedJob of a YAML stream, changed by --set, with traces and data; the CLI calls it.

Invariant: what a cluster would refuse of it is refused, in its words (`lockstep_admission`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lockstep_admission.checking import admitted, job_name, supported
from lockstep_admission.errors import Refused
from lockstep_admission.structural import Json
from lockstep_admission.yaml_stream import documents
from lockstep_api import names
from lockstep_api.spec import FederatedJobSpec
from lockstep_simulator import overrides

Traces = Mapping[str, Mapping[str, str]]

FROM_FILE = "lockstep_simulator.examples:npz"
"""`data.entrypoint` of a job whose examples come from a file."""


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
    found = list(documents(text))
    body = _chosen([one for one in found if one.get("kind") == names.KIND], job=job)
    _apply_sets(body, sets)
    spec = _checked(body, data=data)
    metadata = body["metadata"]
    namespace = metadata.get("namespace") or "default"
    there = {**(traces or {}), **trace_maps(found, namespace=namespace)}
    _check_traces(spec, there)
    return Manifest(spec, metadata["name"], namespace, there)


def trace_maps(found: Sequence[dict[str, Json]], *, namespace: str | None = None) -> Traces:
    """The data of the namespace's ConfigMaps whose label says that they have traces."""
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
        if (metadata.get("labels") or {}).get(names.TRACES_LABEL) == "true":
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
    return trace_maps(list(documents(read_text(path))))


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
        jobs = [one for one in jobs if job_name(one) == job]
    if len(jobs) == 1:
        return jobs[0]
    if jobs:
        known = ", ".join(str(job_name(one)) for one in jobs)
        raise Refused([f"the manifest has {len(jobs)} FederatedJobs: say --job and one of {known}"])
    named = f" named {job}" if job is not None else ""
    raise Refused(
        [f"the manifest has no FederatedJob{named}: it needs kind: {names.KIND} and "
         f"apiVersion: {names.API_VERSION}"]
    )  # fmt: skip


def _apply_sets(body: dict[str, Json], sets: Sequence[str]) -> None:
    spec = body.setdefault("spec", {})
    if not isinstance(spec, dict):
        return
    try:
        for one in sets:
            overrides.apply(spec, one)
    except overrides.BadSetting as error:
        raise Refused([str(error)]) from error


def _checked(body: Mapping[str, Json], *, data: DataFile | None) -> FederatedJobSpec:
    """The spec of a job that a cluster would take; with other data, once that is known.

    Raises:
        Refused: it would not.
    """
    spec = admitted(body)["spec"]
    if data is not None:
        spec = {**spec, "data": data.in_place_of(spec["data"], seed=spec["training"]["seed"])}
    return supported(spec)


def _check_traces(spec: FederatedJobSpec, there: Traces) -> None:
    """Whether every trace that devices need is there."""
    missing: list[str] = []
    for index, group in enumerate(spec.devices):
        for direction, link in (("uplink", group.uplink), ("downlink", group.downlink)):
            if link is None or link.trace is None or _has_csv(there.get(link.trace, {})):
                continue
            missing.append(
                f"spec.devices[{index}].{direction}.trace: ConfigMap {link.trace} is not there, or "
                f'has not the label {names.TRACES_LABEL}: "true" and a key that ends in .csv: put '
                "it into the manifest, or name its file or folder with --traces"
            )
    if missing:
        raise Refused(missing)


def _has_csv(data: Mapping[str, str]) -> bool:
    return any(key.endswith(".csv") for key in data)
