"""The HTTP APIs of planner, cloud pod and edges as OpenAPI documents, made of the wire's models.

The routes are raw ASGI or read their bodies themselves, so nothing else can say it: `APIS` lists
every route with what it takes and all that it may answer; the schema tests hold the servers to it.
What fits is of a job that is there and with the key of a session, so that it gets in.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from lockstep_api import names
from lockstep_api.certificates import CertificateRequest
from lockstep_api.orders import ClusterProgress
from lockstep_api.sessions import ClientFailure, Registration
from lockstep_api.tiers import EdgeRegistration
from lockstep_api.wire import Outcome, PlanRequest
from tests.fuzz.bodies import REPORT
from tests.fuzz.served import GONE, JSON, KEY
from tests.fuzz.strangers import REQUEST

Json = dict[str, Any]
BYTES = "application/octet-stream"
_VALUES: Json = {
    "client": {"const": "d-0"},
    "edge": {"const": "e-0"},
    "cluster": {"const": "c0"},
    "round": {"type": "integer", "minimum": 0, "maximum": 2},
    "namespace": {"const": "lab"},
    "job": {"const": "digits"},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route takes, and what it answers."""

    method: str
    path: str
    answers: frozenset[int]
    model: type[BaseModel] | None = None
    """Of the body, if that is JSON."""
    fields: Json = field(default_factory=dict)
    """Schemas of fields of the body, where the model allows what gets nowhere."""
    content: str | None = None
    """Type of a body that is none."""
    query: Json = field(default_factory=dict)
    headers: Json = field(default_factory=dict)


_TEXT = {"type": "string"}
_IS: Json = {"client": _VALUES["client"]}
_ASKS: Json = {"csr": {"anyOf": [{"const": REQUEST}, _TEXT]}}
_SHOWS = {names.SESSION_HEADER: {"const": KEY}}
_SPEAKS = {names.PROTOCOL_HEADER: {"enum": [names.PROTOCOL]}}
_REPORTS = {names.REPORT_HEADER: {"anyOf": [{"const": REPORT.to_json()}, _TEXT]}}
_AFTER: Json = {"after": {"type": "integer", "minimum": 0, "maximum": 1}}
_REFUSED = frozenset({400, 401, 403, 404, 408, 409, 413, 422, 429})
DEVICES = (
    Operation("post", names.SESSION_ROUTE, _REFUSED | {GONE, 200, 503}, Registration, _IS,
              headers=_SHOWS | _SPEAKS),
    Operation("get", names.WORK_ROUTE, frozenset({GONE, 200, 204, 404, 409, 422}),
              query=_AFTER, headers=_SHOWS),
    Operation("get", names.CONSTANTS_ROUTE, frozenset({200, 204, 404, 409}), headers=_SHOWS),
    Operation("post", names.FAILURE_ROUTE, _REFUSED | {200, 204, 410}, ClientFailure, _IS,
              headers=_SHOWS),
    Operation("put", names.UPDATE_ROUTE, _REFUSED | {200, 415}, content=names.TENSORS,
              headers=_SHOWS | _REPORTS),
)  # fmt: skip
"""Of the cloud pod, and of edges."""
EDGES = (
    Operation("post", names.EDGE_SESSION_ROUTE, _REFUSED | {GONE, 200, 503}, EdgeRegistration,
              {"edge": _VALUES["edge"]}, headers=_SHOWS | _SPEAKS),
    Operation("get", names.EDGE_WORK_ROUTE, frozenset({GONE, 200, 204, 404, 409, 422}),
              query=_AFTER, headers=_SHOWS),
    Operation("get", names.EDGE_CONSTANTS_ROUTE, frozenset({200, 404, 409}), headers=_SHOWS),
    Operation("post", names.EDGE_PROGRESS_ROUTE, frozenset({204, 404, 409, 422}), ClusterProgress,
              headers=_SHOWS),
    Operation("post", names.EDGE_CERTIFICATE_ROUTE, frozenset({200, 404, 409, 422, 503}),
              CertificateRequest, _ASKS, headers=_SHOWS),
    Operation("put", names.CLUSTER_RESULT_ROUTE, _REFUSED | {200, 415}, content=names.TENSORS,
              query={"turn": {"type": "integer", "minimum": 1, "maximum": 2}}, headers=_SHOWS),
)  # fmt: skip
"""Of the cloud pod, for edges."""
_SPLIT = frozenset({GONE, 200, 404, 409, 426, 503})
SPLIT = (
    Operation("get", names.SPLIT_ROUTE, _SPLIT, headers=_SHOWS),
    Operation("post", names.SPLIT_ROUTE, _SPLIT, content=BYTES, headers=_SHOWS),
)
"""Of edges that train back halves, for devices."""
PLANNER = (
    Operation("post", names.PLAN_ROUTE, _REFUSED | {200, 503}, PlanRequest),
    Operation("post", names.POLICY_ROUTE, _REFUSED | {200, 503}, content=BYTES,
              headers={"authorization": {"const": "Bearer trainer"}}),
    Operation("post", names.CERTIFICATE_ROUTE, _REFUSED | {200, 503}, CertificateRequest,
              _ASKS | {"server": {"const": names.CLOUD_SERVER}}),
    Operation("get", names.KEYS_ROUTE, frozenset({200, 401, 403, 404, 429, 503}),
              query={"kid": _TEXT}),
    Operation("post", names.OUTCOME_ROUTE, _REFUSED | {200, 503}, Outcome),
)  # fmt: skip
APIS = {
    "planner": PLANNER, "cloud": DEVICES, "tiers": (*EDGES, *DEVICES), "edge": DEVICES,
    "split": SPLIT,
}  # fmt: skip
"""By the server, as `served` has them."""


def document(title: str, operations: tuple[Operation, ...]) -> Json:
    """The OpenAPI document of an API."""
    schemas: Json = {}
    paths: Json = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method] = _described(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": names.PROTOCOL},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _described(one: Operation, schemas: Json) -> Json:
    in_path = {key: one_of for key, one_of in _VALUES.items() if f"{{{key}}}" in one.path}
    places = {"path": in_path, "query": one.query, "header": one.headers}
    made: Json = {
        "parameters": [
            {"name": name, "in": place, "required": True, "schema": schema}
            for place, values in places.items()
            for name, schema in values.items()
        ],
        "responses": {
            str(status): {"description": "see the wire"} for status in one.answers - {GONE}
        },
    }
    if one.model is not None:
        made["requestBody"] = _body(JSON, _schema(one.model, schemas, fields=one.fields))
    elif one.content is not None:
        made["requestBody"] = _body(BYTES, {"type": "string", "format": "binary"})
    return made


def _body(content: str, schema: Json) -> Json:
    return {"required": True, "content": {content: {"schema": schema}}}


def _schema(model: type[BaseModel], schemas: Json, *, fields: Json) -> Json:
    """A reference to a model's schema, which is put beside those of the others."""
    made = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= made.pop("$defs", {})
    made["properties"] |= fields
    schemas[model.__name__] = made
    return {"$ref": f"#/components/schemas/{model.__name__}"}
