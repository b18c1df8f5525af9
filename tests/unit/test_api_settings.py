"""The workers' settings: derived from the spec, the same after the trip through the ConfigMap."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from lockstep_api.energy import EnergyModel, PowerPoint
from lockstep_api.settings import DEFAULT_KAPPA, JobSettings, job_settings
from lockstep_api.spec import FederatedJobSpec, Telemetry
from lockstep_api.spec.telemetry import MOST_TOLD

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
EXAMPLES = [
    path for path in sorted(FOLDER.glob("*.yaml")) if "kind: FederatedJob" in path.read_text()
]


def spec(**changes: Any) -> FederatedJobSpec:
    """A small job."""
    base = {
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist"},
        "training": {"rounds": 2},
        "devices": [
            {"name": "fast", "replicas": 2, "dataShare": 3, "cpuAtMax": "400m"},
            {
                "name": "old",
                "energy": {
                    "table": [{"ghz": 1, "watts": 2}],
                    "idleWatts": 0.5,
                    "transmitWatts": 1.5,
                },
            },
        ],
    }
    return FederatedJobSpec.model_validate({**base, **changes})


def settings(given: FederatedJobSpec) -> JobSettings:
    """Its settings."""
    return job_settings(
        given,
        namespace="ns",
        job="job",
        uid="u-1",
        created_at=1.7e9,
        cloud_url="http://cloud:8080",
        planner_url="http://planner:8080",
        cpu_watts=7.5,
    )


def test_groups_and_clients() -> None:
    made = settings(spec())
    assert made.clients() == ["fast-0", "fast-1", "old-0"]
    assert made.data_shares() == [3.0, 3.0, 1.0]
    assert made.group_of("fast-1").cpu_at_max == pytest.approx(0.4)
    assert made.group_of("fast-1").energy_model() == EnergyModel(DEFAULT_KAPPA, (), 0.0, 0.0)
    table = (PowerPoint(1.0, 2.0),)
    assert made.group_of("old-0").energy_model() == EnergyModel(DEFAULT_KAPPA, table, 0.5, 1.5)
    assert spec().clients() == 3


@pytest.mark.parametrize("client", ["fast-2", "fast-01", "fast", "old--1", ""])
def test_a_client_that_is_none(client: str) -> None:
    with pytest.raises(KeyError):
        settings(spec()).group_of(client)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_parse_and_their_settings_survive_json(path: Path) -> None:
    every = yaml.safe_load_all(path.read_text())
    (job,) = (one for one in every if one["kind"] == "FederatedJob")
    assert job["apiVersion"] == "lockstep.dev/v1alpha1"
    assert job["metadata"]["name"] == path.stem
    made = settings(FederatedJobSpec.model_validate(job["spec"]))
    assert JobSettings.model_validate_json(made.to_json()) == made


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_settings_of_a_newer_version_are_read() -> None:
    """The operator may be one version ahead of the image of a job."""
    made = settings(spec())
    newer = made.model_dump(by_alias=True, mode="json") | {"fromTheFuture": 1}
    assert JobSettings.model_validate(newer) == made


def test_a_spec_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="devises"):
        spec(devises=[])


@pytest.mark.parametrize(
    ("per_device", "replicas", "told"),
    [
        ("auto", MOST_TOLD - 1, True),
        ("auto", MOST_TOLD, False),
        ("always", MOST_TOLD, True),
        ("never", 1, False),
    ],
)
def test_devices_of_a_large_job_tell_little_unless_told_otherwise(
    per_device: str, replicas: int, told: bool
) -> None:
    groups = [{"name": "many", "replicas": replicas}, {"name": "one"}]
    made = settings(spec(devices=groups, telemetry={"perDevice": per_device}))
    assert made.per_device is told


def test_the_field_says_from_how_many_devices_on() -> None:
    assert f"at most {MOST_TOLD} devices" in str(Telemetry.model_fields["per_device"].description)
