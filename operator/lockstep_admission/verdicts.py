"""What a cluster would say of each object of a YAML stream; `lockstep validate` shows it.

Invariant: a refusal says who refuses, in his words; what is no FederatedJob is passed over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from lockstep_admission.checking import admitted, job_name, supported
from lockstep_admission.errors import Refused
from lockstep_admission.structural import Json
from lockstep_admission.yaml_stream import documents
from lockstep_api import names
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_operator.core.advice import left_to_operator, refused_by_default, unusual
from lockstep_operator.core.model import JobKey, JobView
from lockstep_operator.core.ownership import names_doubled


class Finding(StrEnum):
    """What becomes of an object."""

    TAKEN = "taken"
    REFUSED = "refused"
    """By the apiserver: it is not stored."""
    NOT_ACCEPTED = "not accepted"
    """By the operator: it is stored, with condition Accepted=False and this message, and has no
    pods."""
    PASSED_OVER = "passed over"
    """It is no FederatedJob."""
    UNREADABLE = "unreadable"
    """There is no object: the text is no stream of them."""


REFUSALS = frozenset((Finding.REFUSED, Finding.NOT_ACCEPTED, Finding.UNREADABLE))


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one object."""

    finding: Finding
    kind: str = ""
    name: str = ""
    namespace: str = ""
    """As the manifest has it; empty: it names none."""
    sentences: tuple[str, ...] = ()
    """Why it is refused."""
    advice: tuple[str, ...] = ()
    """What its user should know, though it is taken."""


def verdicts(text: str) -> Iterator[Verdict]:
    """One for each object of a stream; one in all for a text that is none."""
    try:
        found = list(documents(text))
    except Refused as error:
        yield Verdict(Finding.UNREADABLE, sentences=error.sentences)
        return
    yield from map(_verdict, found)


def _verdict(body: Mapping[str, Json]) -> Verdict:
    metadata = body.get("metadata")
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    named = (_text(body.get("kind")), _text(job_name(body)), _text(namespace))
    if body.get("kind") != names.KIND:
        return Verdict(Finding.PASSED_OVER, *named)
    try:
        job = admitted(body)
    except Refused as error:
        return Verdict(Finding.REFUSED, *named, sentences=error.sentences)
    try:
        spec = supported(job["spec"])
    except Refused as error:
        return Verdict(Finding.NOT_ACCEPTED, *named, sentences=error.sentences)
    if doubled := _doubled(job["metadata"]["name"], spec):
        return Verdict(Finding.NOT_ACCEPTED, *named, sentences=doubled)
    advice = (*refused_by_default(spec), *left_to_operator(spec), *unusual(spec))
    return Verdict(Finding.TAKEN, *named, advice=advice)


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _doubled(name: str, spec: FederatedJobSpec) -> tuple[str, ...]:
    """What the operator says of groups whose objects would have one name."""
    view = JobView(
        key=JobKey("", name),
        uid="",
        generation=1,
        spec=spec,
        spec_error=None,
        status=FederatedJobStatus(),
        created_at=0.0,
    )
    return tuple(names_doubled(view, spec))
