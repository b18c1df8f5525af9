"""A FederatedJob as a cluster takes or refuses it; `lockstep validate` and the simulator ask.

Invariant: what the apiserver refuses of a new job is refused here with its words (`structural`,
`rules`), then what the operator refuses of the spec alone (`core/spec`, `core/support`). Placement
does not apply: there are no nodes.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from lockstep_admission.errors import Refused
from lockstep_admission.rules import broken_rules
from lockstep_admission.structural import (
    Json,
    Schema,
    matches,
    problems,
    shown,
    unknown_fields,
    whole,
    with_defaults,
)
from lockstep_api import names
from lockstep_api.spec import FederatedJobSpec
from lockstep_operator.core.spec import parse_spec
from lockstep_operator.core.support import unsupported
from lockstep_operator.crd import crd
from lockstep_operator.errors import InvalidSpec

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


def checked(body: Mapping[str, Json]) -> FederatedJobSpec:
    """The spec of a job that a cluster would take.

    Raises:
        Refused: it would not.
    """
    return supported(admitted(body)["spec"])


def admitted(body: Mapping[str, Json]) -> dict[str, Json]:
    """A job with its defaults, as an apiserver would store it.

    Raises:
        Refused: an apiserver would not.
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
    job: dict[str, Json] = with_defaults(asked, _schema())
    if wrong := _refusals(job):
        raise Refused(wrong)
    return job


def supported(spec: Mapping[str, Any]) -> FederatedJobSpec:
    """The spec of an admitted job as a model.

    Raises:
        Refused: the operator would say so with condition Accepted.
    """
    try:
        read = parse_spec(spec)
    except InvalidSpec as error:
        raise Refused([str(error)]) from error
    if reasons := unsupported(read):
        raise Refused(reasons)
    return read


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


def job_name(body: Mapping[str, Json]) -> Json:
    """`metadata.name`, whatever stands there."""
    metadata = body.get("metadata")
    return metadata.get("name") if isinstance(metadata, dict) else None


def _of_name(job: Mapping[str, Json]) -> Iterator[str]:
    name = job_name(job)
    if not isinstance(name, str) or not name:
        yield "metadata.name: Required value: name or generateName is required"
    elif not matches(name, _SUBDOMAIN):
        yield f"metadata.name: Invalid value: {shown(name)}: {_SUBDOMAIN_MESSAGE}"
