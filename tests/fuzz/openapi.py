"""The HTTP APIs of planner and cloud pod as OpenAPI documents, made of the wire's models.

The routes are raw ASGI or read their bodies themselves, so nothing else can say it: `apis` lists
every route with what it takes and all that it may answer; the schema tests hold the servers to it.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from lockstep_api import names
from lockstep_api.certificates import CertificateRequest
from lockstep_api.sessions import ClientFailure, Registration
from lockstep_api.wire import Outcome, PlanRequest

Json = dict[str, Any]
JSON = "application/json"
BYTES = "application/octet-stream"
CLIENT, ROUND = {"enum": ["d-0", "d-1", "x-9"]}, {"type": "integer", "minimum": 0, "maximum": 9}
_VALUES: Json = {
    "client": CLIENT,
    "round": ROUND,
    "namespace": {"enum": ["lab", "other"]},
    "job": {"enum": ["digits", "nobody"]},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route takes, and what it answers."""

    method: str
    path: str
    answers: frozenset[int]
    model: type[BaseModel] | None = None
    """Of the body, if that is JSON."""
    content: str | None = None
    """Type of a body that is none."""
    query: Json = field(default_factory=dict)
    headers: Json = field(default_factory=dict)


_SHOWS = {names.SESSION_HEADER: {"type": "string"}}
_SPEAKS = {names.PROTOCOL_HEADER: {"enum": [names.PROTOCOL]}}
_REFUSED = frozenset({400, 401, 403, 404, 408, 409, 413, 422, 429})
DEVICES = (
    Operation("post", names.SESSION_ROUTE, _REFUSED | {200, 503}, Registration,
              headers=_SHOWS | _SPEAKS),
    Operation("get", names.WORK_ROUTE, frozenset({200, 204, 404, 409, 422}),
              query={"after": {"type": "integer", "minimum": 0}}, headers=_SHOWS),
    Operation("get", names.CONSTANTS_ROUTE, frozenset({200, 204, 404, 409}), headers=_SHOWS),
    Operation("post", names.FAILURE_ROUTE, _REFUSED | {200, 204, 410}, ClientFailure,
              headers=_SHOWS),
    Operation("put", names.UPDATE_ROUTE, _REFUSED | {200, 415}, content=names.TENSORS,
              headers=_SHOWS | {names.REPORT_HEADER: {"type": "string"}}),
)  # fmt: skip
"""Of the cloud pod, and of edges."""
PLANNER = (
    Operation("post", names.PLAN_ROUTE, _REFUSED | {200, 503}, PlanRequest),
    Operation("post", names.OUTCOME_ROUTE, _REFUSED | {200, 503}, Outcome),
    Operation("post", names.POLICY_ROUTE, _REFUSED | {200, 503}, content=BYTES),
    Operation("post", names.CERTIFICATE_ROUTE, _REFUSED | {200, 503}, CertificateRequest),
)


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
            {"name": name, "in": place, "required": place != "header", "schema": schema}
            for place, values in places.items()
            for name, schema in values.items()
        ],
        "responses": {str(status): {"description": "see the wire"} for status in one.answers},
    }
    if one.model is not None:
        made["requestBody"] = _body(JSON, _schema(one.model, schemas))
    elif one.content is not None:
        made["requestBody"] = _body(BYTES, {"type": "string", "format": "binary"})
    return made


def _body(content: str, schema: Json) -> Json:
    return {"required": True, "content": {content: {"schema": schema}}}


def _schema(model: type[BaseModel], schemas: Json) -> Json:
    """A reference to a model's schema, which is put beside those of the others."""
    made = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= made.pop("$defs", {})
    schemas[model.__name__] = made
    return {"$ref": f"#/components/schemas/{model.__name__}"}
