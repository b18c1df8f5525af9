"""What the operator decides on, as fuzz targets: manifests, quantities, what a cloud pod tells."""

import json
from datetime import UTC, datetime
from functools import cache
from typing import Any

from pydantic import ValidationError

from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_api.wire import PlanRequest
from lockstep_operator.core.amount import Amount
from lockstep_operator.core.decide import decide
from lockstep_operator.core.insight import Insight
from lockstep_operator.core.model import JobKey, JobView, NodeView, Observed, Settings
from lockstep_operator.core.planning import Basis, draw, hear, know
from lockstep_operator.core.spec import parse_spec
from lockstep_operator.core.state import JobState
from lockstep_operator.errors import InvalidSpec, UnfitRequest
from lockstep_operator.observe import job_view
from tests.fuzz.bodies import PLAN_REQUEST
from tests.fuzz.shaping import in_ways, way_of
from tests.fuzz.stages import Target

SPEC: dict[str, Any] = {
    "model": {"name": "mlp"},
    "data": {"name": "fashion-mnist"},
    "training": {"rounds": 2},
    "devices": [{"name": "d", "uplink": {"mbps": 1}, "energy": {"idleWatts": 1}}],
}
NODE = NodeView("n", {}, True, (), 64.0, Amount(64.0, 2.0**40, 1e6))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
_META = {"name": "j", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
_SETTINGS = Settings("image", "http://planner")


def quantity(data: bytes) -> None:
    """A Kubernetes quantity in a manifest."""
    assert parse_quantity(data.decode(errors="replace")) >= 0


@cache
def _spec(policy: str) -> FederatedJobSpec:
    return parse_spec(SPEC | {"allocation": {"policy": policy}})


def plans(data: bytes) -> None:
    """What a cloud pod tells the planner: it is planned for, or refused in words."""
    way, text = way_of(data, 2)
    asked, job = PlanRequest.model_validate_json(text), _spec(("static", "equalize")[way])
    state = hear(JobState(), asked, spec=job).state
    known = know(state, asked, telemetry=Insight(problem="none"), spec=job)
    plan = draw(state, asked, basis=Basis(job, known)).plan
    assert all(0.5 <= one.frequency_ghz <= 2 for one in plan.participants)


def manifest(data: bytes) -> str | None:
    """A FederatedJob, however wrong: it is decided about, or refused in words."""
    try:
        spec = json.loads(data)
    except (ValueError, RecursionError):
        return "refused: not JSON"
    view = job_view({"metadata": _META, "spec": spec if isinstance(spec, dict) else {}})
    decide(Observed(view, {}, (), (NODE,), None), _SETTINGS, now=NOW)
    read = parse_spec(spec)
    job = JobView(JobKey("n", "j"), "u", 1, read, None, FederatedJobStatus(), 0.0)
    decide(Observed(job, {}, (), (NODE,), None), _SETTINGS, now=NOW)
    return None


_REQUEST = PLAN_REQUEST.to_json().encode()
_SPLIT = {
    **SPEC,
    "mode": "split",
    "model": {"name": "cnn"},
    "training": {"rounds": 2, "localSteps": {"fixed": 3}},
    "edges": [{"name": "e", "replicas": 2, "cpu": "2"}],
}

TARGETS = {
    "quantity": Target(quantity, (b"500m", b"1.5Gi", b"2e3", b"12"), (ValueError,)),
    "plans": Target(plans, in_ways([_REQUEST], [_REQUEST]), (ValidationError, UnfitRequest)),
    "manifest": Target(
        manifest, (json.dumps(SPEC).encode(), json.dumps(_SPLIT).encode()), (InvalidSpec,)
    ),
}
