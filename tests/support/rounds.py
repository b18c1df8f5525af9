"""Rounds as their reports tell them, of devices that are called as groups and numbers."""

from typing import Any

from lockstep_api.status import EnergyJoules
from lockstep_api.wire import ClientPlan, ClientReport, RoundPlan, RoundReport, UpdateReport


def an_update(client: str, **changes: Any) -> UpdateReport:
    """Of a device that worked for two seconds of CPU."""
    told: dict[str, Any] = {
        "client": client, "round": 1, "examples": 1, "steps": 7, "download_seconds": 0.5,
        "compute_seconds": 4, "cpu_seconds": 2, "throttled_seconds": 1, "frequency_ghz": 1,
        "energy_joules": EnergyJoules(model=3.0, cpu=2.0),
    }  # fmt: skip
    return UpdateReport(**{**told, **changes})


def arrived(client: str, at_s: float = 6.0, **changes: Any) -> ClientReport:
    """Its update of one megabyte was uploaded in two seconds, and in then."""
    return ClientReport(
        update=an_update(client, **changes),
        arrived_seconds=at_s,
        upload_seconds=2,
        bytes=1_000_000,
    )


def a_report(*clients: str | ClientReport, **changes: Any) -> RoundReport:
    """Of a round of ten seconds."""
    told: dict[str, Any] = {
        "round": 1, "planned": True, "seconds": 10, "elapsed_seconds": 10, "accuracy": 0.5,
        "loss": 1.0, "energy_joules": EnergyJoules(model=1.0),
        "clients": [arrived(one) if isinstance(one, str) else one for one in clients],
    }  # fmt: skip
    return RoundReport(**{**told, **changes})


def asked(client: str, ghz: float = 1.5) -> ClientPlan:
    """What a plan asks of a device."""
    return ClientPlan(client=client, frequency_ghz=ghz, cpu_milli=100, steps=7, applied=True)


def a_round(*participants: str | ClientPlan, **changes: Any) -> RoundPlan:
    """The plan of round 1, with an energy budget."""
    told: dict[str, Any] = {
        "round": 1, "rounds": 3, "energy_budget_joules": 1000.0,
        "participants": [
            asked(one) if isinstance(one, str) else one for one in participants or ("d-0",)
        ],
    }  # fmt: skip
    return RoundPlan(**{**told, **changes})
