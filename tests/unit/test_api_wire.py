"""What strangers may write into a message: every number, string and list has an end."""

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from lockstep_api.mistrust import MOST_TAKEN_BACK
from lockstep_api.records import ClientsRecord, RoundSummary
from lockstep_api.request_size import most_bytes, most_values
from lockstep_api.sessions import Refusal, Registration
from lockstep_api.status import MOST_JOULES, EnergyJoules, told_joules
from lockstep_api.wire import (
    Outcome,
    PlanRequest,
    PolicyVerdict,
    RoundPlan,
    Task,
    told_loss,
)
from lockstep_api.wire_types import MOST_ACCOUNT, MOST_LABELS, MOST_NOTICES, MOST_TEXT

Path = tuple[str | int, ...]

UPDATE = {
    "client": "d-0", "round": 1, "examples": 1, "steps": 1, "memoryRound": 1, "trainLoss": 1.0,
    "downloadSeconds": 1.0, "computeSeconds": 1.0, "cpuSeconds": 1.0, "throttledSeconds": 1.0,
    "quotaCores": 1.0, "frequencyGHz": 1.0,
    "energyJoules": {"model": 1.0, "cpu": 1.0, "measured": 1.0},
}  # fmt: skip
REGISTRATION = {"client": "d-0", "incarnation": "u/1/2", "examples": 1, "labelHistogram": [1]}
REPORT = {
    "round": 1, "planned": True, "seconds": 1.0, "elapsedSeconds": 1.0,
    "clients": [{"update": UPDATE, "arrivedSeconds": 1.0, "uploadSeconds": 1.0, "bytes": 1}],
    "lost": ["d-1"], "refused": {"shape": 1}, "accuracy": 0.5, "loss": 1.0,
    "energyJoules": {"model": 1.0, "cpu": 1.0, "measured": 1.0},
}  # fmt: skip
NOTICE = {"type": "Warning", "reason": "Resumed", "message": "m"}
PARTICIPANT = {
    "client": "d-0", "frequencyGHz": 1.0, "cpuMilli": 1, "steps": 1, "actuator": "resize",
    "applied": True, "reason": "r",
}  # fmt: skip
MESSAGES: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (Registration, REGISTRATION),
    (
        PlanRequest,
        {"round": 1, "clients": [REGISTRATION], "report": REPORT, "notices": [NOTICE],
         "checkpointProblem": "p"},
    ),
    (Outcome, {"result": "Failed", "message": "m", "report": REPORT}),
    (
        Task,
        {"round": 1, "turn": 1, "steps": 1, "frequencyGHz": 1.0, "throttleMilli": 1,
         "baseRound": 1, "savedRound": 1},
    ),
    (
        RoundPlan,
        {"round": 1, "rounds": 1, "participants": [PARTICIPANT], "quorum": 1,
         "deadlineSeconds": 1.0},
    ),
    (PolicyVerdict, {"taken": True, "message": "m"}),
    (
        RoundSummary,
        {"round": 1, "planned": True, "seconds": 1.0, "elapsedSeconds": 1.0, "updates": 1,
         "missing": 1, "refused": {"shape": 1}, "accuracy": 0.5, "loss": 1.0,
         "energyJoules": {"model": 1.0, "cpu": 1.0, "measured": 1.0}, "takenBack": 1,
         "privacy": {"rounds": 1, "epsilon": 1.0, "delta": 0.5}},
    ),
    (ClientsRecord, {"clients": [{"client": "d-0", "examples": 1, "labels": [1]}]}),
]  # fmt: skip


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every number and string in a message."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
        return
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    elif not isinstance(value, bool):
        yield path, value


def changed(message: dict[str, Any], path: Path, value: Any) -> str:
    made = copy.deepcopy(message)
    place: Any = made
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(made)


PLACES = [
    pytest.param(kind, message, path, value, id=f"{kind.__name__} {'.'.join(map(str, path))}")
    for kind, message in MESSAGES
    for path, value in leaves(message)
]


def longest_text(value: Any) -> int:
    return max((len(text) for _, text in leaves(value) if isinstance(text, str)), default=0)


@pytest.mark.parametrize(("kind", "message", "path", "value"), PLACES)
def test_nothing_in_a_message_is_without_bounds(
    kind: type[BaseModel], message: dict[str, Any], path: Path, value: Any
) -> None:
    assert kind.model_validate_json(json.dumps(message))
    if isinstance(value, int | float):
        for bad in (1e308, -1e308, 10**40, -1e39, math.inf, -math.inf, math.nan):
            with pytest.raises(ValidationError):
                kind.model_validate_json(changed(message, path, bad))
    else:
        try:
            read = kind.model_validate_json(changed(message, path, "x" * 100_000))
        except ValidationError:
            return
        assert longest_text(read.model_dump()) <= MOST_ACCOUNT


def arrays(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "array":
            yield schema
        for inner in schema.values():
            yield from arrays(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from arrays(inner)


@pytest.mark.parametrize("kind", [kind for kind, _ in MESSAGES])
def test_every_list_has_a_length(kind: type[BaseModel]) -> None:
    assert all(0 < one["maxItems"] <= 640_000 for one in arrays(kind.model_json_schema()))


@pytest.mark.parametrize("count", [MOST_LABELS, MOST_LABELS + 1])
def test_a_list_beyond_its_length_is_refused(count: int) -> None:
    message = json.dumps(REGISTRATION | {"labelHistogram": [1] * count})
    if count <= MOST_LABELS:
        assert Registration.model_validate_json(message)
        return
    with pytest.raises(ValidationError):
        Registration.model_validate_json(message)


@pytest.mark.parametrize("name", ["", "-a", "a\n", "a\x1b[31m", "A", "../a", "a" * 64])
def test_a_client_has_the_name_of_a_pod(name: str) -> None:
    with pytest.raises(ValidationError):
        Registration(client=name, incarnation="1", examples=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clients": [0] * 1000},
        {"clients": [{}] * 1000},
        {"clients": [REGISTRATION | {"labelHistogram": ["x"] * 1000}]},
        {"notices": [0] * 1000},
        {"report": REPORT | {"clients": [0] * 1000}},
        {"report": REPORT | {"lost": [0] * 1000}},
        {"report": REPORT | {"refused": {f"r{i}": "x" for i in range(1000)}}},
    ],
)
def test_a_thousand_wrong_items_are_told_as_few(wrong: dict[str, Any]) -> None:
    message: dict[str, Any] = {"round": 1, "clients": [REGISTRATION], **wrong}
    with pytest.raises(ValidationError) as caught:
        PlanRequest.model_validate_json(json.dumps(message))
    assert caught.value.error_count() <= 3


def test_the_largest_honest_request_has_its_size() -> None:
    clients = 300
    name, text = "d" * 61, "\x01" * MOST_TEXT
    long = {key: 1 / 3 for key, value in UPDATE.items() if isinstance(value, float)}
    update = UPDATE | long | {"client": f"{name}-0", "examples": 2**31 - 1, "steps": 2**31 - 1}
    joules = dict.fromkeys(("model", "cpu", "measured"), 1e11 / 3)
    done = {"update": update, "arrivedSeconds": 1 / 3, "uploadSeconds": 1 / 3, "bytes": 2**40,
            "distances": [1 / 3] * 8, "kept": [1 / 3] * 8,
            "leftOut": {"said": joules, "most": joules}}  # fmt: skip
    out = {"client": f"{name}-0", "returns": 2**31 - 1, "why": "\x01" * 64}
    report = REPORT | {
        "mistrusted": {"takenBack": [text] * MOST_TAKEN_BACK, "satOut": [out] * clients},
        "clients": [done] * clients, "lost": [f"{name}-0"] * clients,
        "refused": dict.fromkeys(Refusal, 2**31 - 1),
    }  # fmt: skip
    each = REGISTRATION | {"client": f"{name}-0", "incarnation": "i" * 128, "labelHistogram": []}
    told = PlanRequest.model_validate(
        {"round": 1, "clients": [each] * clients, "report": report, "checkpointProblem": text,
         "notices": [NOTICE | {"message": text}] * MOST_NOTICES}
    )  # fmt: skip
    size = len(told.to_json().encode())
    assert size <= most_bytes(clients)
    of_commas = told.to_json().replace("\\u0001", ",")
    assert sum(of_commas.count(sign) for sign in ",[{") <= most_values(clients)
    end = Outcome(result="Failed", message="\x01" * MOST_ACCOUNT, report=told.report)
    assert len(end.to_json().encode()) <= most_bytes(clients)


def test_the_planner_is_not_told_of_labels() -> None:
    whole = Registration.model_validate(REGISTRATION)
    assert whole.without_labels().label_histogram == []


def test_energy_stays_at_its_bound() -> None:
    much = EnergyJoules(model=MOST_JOULES)
    assert much.plus(much) == much
    assert told_joules(math.inf) == MOST_JOULES
    assert EnergyJoules(cpu=1.0).plus(much) == EnergyJoules(model=MOST_JOULES, cpu=1.0)


@pytest.mark.parametrize(
    ("nats", "told"),
    [(math.nan, None), (math.inf, None), (-math.inf, None), (1e39, None), (3e38, 3e38), (-1, -1)],
)
def test_a_loss_that_is_not_finite_is_not_told(nats: float, told: float | None) -> None:
    assert told_loss(nats) == told
