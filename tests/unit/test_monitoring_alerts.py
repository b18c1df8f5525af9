"""Every alert fires when it should, with its values in words, is silent else, and ends after.

promtool plays series through the rules that the chart ships.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lockstep_monitoring import alerts, rule_file
from lockstep_monitoring.__main__ import ROOT
from tests.docs.markdown import anchors
from tests.support.promtool import Json, checked, played

RULES = ROOT / rule_file.PATH
BY_NAME = {one.name: one for found in alerts.GROUPS.values() for one in found}
JOB = 'namespace="lab",job="fashion"'
CLOUD = f'{JOB},pod="fashion-cloud-0"'
EDGE = f'{JOB},edge="near-0",pod="fashion-edge-near-0"'
OPERATOR = 'namespace="lockstep-system",job="lockstep",instance="10.0.0.1:8081"'
OTHER = 'namespace="lockstep-system",job="lockstep",instance="10.0.0.2:8081"'
LAB = {"namespace": "lab", "job": "fashion"}
SYSTEM = {"namespace": "lockstep-system"}
GONE_FOR_A_WHILE = "0+10x5 stale _x14 0x20"


@dataclass(frozen=True)
class Firing:
    """What an alert says of one thing, and of what."""

    labels: Mapping[str, str]
    summary: str
    description: str


@dataclass(frozen=True)
class Played:
    """Series by the minute, when the alert fires about what, and when it does not."""

    alert: str
    series: Mapping[str, str]
    fires_at: str
    firing: tuple[Firing, ...]
    silent_at: tuple[str, ...]
    """Before, and after."""


@dataclass(frozen=True)
class Silent:
    """Series by the minute that look like a fault and are none."""

    alert: str
    series: Mapping[str, str]
    at: tuple[str, ...] = ("5m", "12m", "20m")


def about_the_job(summary: str, description: str) -> tuple[Firing, ...]:
    return (Firing(LAB, summary, description),)


def about_the_operator(summary: str, description: str, **labels: str) -> tuple[Firing, ...]:
    return (Firing(SYSTEM | labels, summary, description),)


CASES = {
    "a round that lasts": Played(
        "LockstepJobStuck",
        {
            f"lockstep_round_began_seconds{{{CLOUD}}}": "60x20 1260x20",
            f"lockstep_last_round_seconds{{{CLOUD}}}": "30x40",
            f"lockstep_round{{{CLOUD}}}": "3x20 4x20",
            f"lockstep_rounds{{{CLOUD}}}": "10x40",
        },
        "13m",
        about_the_job(
            "FederatedJob lab/fashion makes no progress",
            "Its round has lasted for 12m 0s: five times as long as the one before, "
            "and longer than ten minutes.",
        ),
        ("0m", "11m", "22m"),
    ),
    "jobs that do not begin": Played(
        "LockstepJobNotStarting",
        {
            f'lockstep_jobs{{{OPERATOR},phase="Starting"}}': "0x2 2x20 0x9",
            f'lockstep_jobs{{{OPERATOR},phase="Running"}}': "4x31",
        },
        "19m",
        about_the_operator(
            "FederatedJobs of the operator in lockstep-system have not begun their first round",
            "2 of them in phase Starting, and one or more at any time for 15 minutes.",
        ),
        ("1m", "17m", "24m"),
    ),
    "rounds without their quorum": Played(
        "LockstepRoundWithoutQuorum",
        {f"lockstep_rounds_without_quorum_total{{{CLOUD}}}": "0x5 2x30"},
        "10m",
        about_the_job(
            "Rounds of lab/fashion end without their quorum",
            "About 2 rounds of the last 15 minutes had too few updates.",
        ),
        ("5m", "22m"),
    ),
    "devices that come and go": Played(
        "LockstepDeviceFlapping",
        {
            f"lockstep_sessions_ended_total{{{CLOUD}}}": "0x3 0+1x17 17x20",
            f"lockstep_clients_connected{{{CLOUD}}}": "8x41",
        },
        "18m",
        about_the_job(
            "Devices of lab/fashion come and go",
            "About 14 sessions of devices ended within 15 minutes, and not all at once.",
        ),
        ("3m", "9m", "28m"),
    ),
    "devices that Prometheus does not see": Played(
        "LockstepTelemetryStale",
        {
            f"lockstep_clients_connected{{{CLOUD}}}": "3x40",
            f'lockstep_steps_total{{{JOB},client="d-0",pod="fashion-d-0"}}': "0+10x40",
            f'lockstep_steps_total{{{JOB},client="d-1",pod="fashion-d-1"}}': GONE_FOR_A_WHILE,
            f'lockstep_steps_total{{{JOB},client="d-2",pod="fashion-d-2"}}': GONE_FOR_A_WHILE,
        },
        "12m",
        about_the_job(
            "Prometheus has no samples of devices of lab/fashion",
            "2 devices are connected to the cloud pod, but were not scraped lately: their "
            "frequencies are planned from the reports of rounds.",
        ),
        ("5m", "10m", "22m"),
    ),
    "no device that Prometheus sees": Played(
        "LockstepTelemetryStale",
        {f"lockstep_clients_connected{{{CLOUD}}}": "3x10 0x10"},
        "6m",
        about_the_job(
            "Prometheus has no samples of devices of lab/fashion",
            "3 devices are connected to the cloud pod, but were not scraped lately: their "
            "frequencies are planned from the reports of rounds.",
        ),
        ("4m", "12m"),
    ),
    "checkpoints that fail": Played(
        "LockstepCheckpointFailing",
        {
            f"lockstep_checkpoint_failures_total{{{CLOUD}}}": "0x5 1 2 3x30",
            f"lockstep_checkpoint_round{{{CLOUD}}}": "7x40",
        },
        "10m",
        about_the_job(
            "Checkpoints of lab/fashion cannot be written",
            "About 3 checkpoints failed within 15 minutes. A job whose cloud pod dies goes on "
            "from the newest that was written, of round 7.",
        ),
        ("5m", "25m"),
    ),
    "a certificate of an edge that nobody renews": Played(
        "LockstepCertificateExpiring",
        {
            f"lockstep_certificate_expiration_timestamp_seconds{{{CLOUD}}}": "86400x40",
            f"lockstep_edge_certificate_expiration_timestamp_seconds{{{EDGE}}}": "22200x25 86400x9",
        },
        "20m",
        about_the_job(
            "A certificate of lab/fashion ends soon and is not renewed",
            "It is left for 5h 50m 0s, and another one should have come two hours ago. Connections "
            "that are open go on; new ones will be refused.",
        ),
        ("9m", "14m", "27m"),
    ),
    "a certificate of the planner that cannot be made": Played(
        "LockstepPlannerCertificateExpiring",
        {
            f"lockstep_planner_certificate_expiration_timestamp_seconds{{{OPERATOR}}}": (
                "22200x25 86400x9"
            ),
            f"lockstep_planner_certificate_expiration_timestamp_seconds{{{OTHER}}}": "86400x40",
        },
        "20m",
        about_the_operator(
            "The planner's certificate in lockstep-system ends soon and is not renewed",
            "It is left for 5h 50m 0s. Without it no round is planned, and no job gets another "
            "certificate.",
        ),
        ("9m", "14m", "27m"),
    ),
    "a budget that is used up": Played(
        "LockstepEnergyBudgetExceeded",
        {
            f'lockstep_job_energy_joules{{{CLOUD},source="model"}}': "0+300x10 stale",
            f'lockstep_job_energy_joules{{{CLOUD},source="cpu"}}': "0+9000x10 stale",
            f"lockstep_energy_budget_joules{{{CLOUD}}}": "1200x10 stale",
        },
        "6m",
        about_the_job(
            "FederatedJob lab/fashion has used up its energy budget",
            "Its devices have spent 1.8k J of 1.2k J (spec.telemetry.energyBudgetJoules). "
            "The job goes on.",
        ),
        ("4m", "12m"),
    ),
    "limits that are not in force": Played(
        "LockstepResizeFailing",
        {
            f'lockstep_resize_failures_total{{{OPERATOR},reason="deferred"}}': "0x5 0+2x10 20x20",
            f'lockstep_resize_failures_total{{{OPERATOR},reason="timeout"}}': "0x14 1x20",
            f"lockstep_resize_seconds_count{{{OPERATOR}}}": "0+8x40",
        },
        "15m",
        about_the_operator(
            "CPU limits of devices are not in force (deferred)",
            "The operator in lockstep-system could not set about 18 limits within ten minutes, "
            "more than a tenth of all: these devices have other frequencies than planned, or "
            "slow themselves.",
            reason="deferred",
        ),
        ("5m", "27m"),
    ),
    "rounds without Prometheus": Played(
        "LockstepTelemetryUnread",
        {
            f"lockstep_telemetry_failures_total{{{OPERATOR}}}": "0x5 0+1x10 10x20",
            f"lockstep_telemetry_seconds_count{{{OPERATOR}}}": "0+2x40",
        },
        "15m",
        about_the_operator(
            "Rounds are planned without Prometheus",
            "The operator in lockstep-system had no answer in time for about 9 rounds within ten "
            "minutes, more than a fifth of all.",
        ),
        ("5m", "27m"),
    ),
    "an operator that hangs": Played(
        "LockstepOperatorNotReconciling",
        {
            f"lockstep_last_pass_age_seconds{{{OPERATOR}}}": "0x3 0+60x8 0x10",
            f"lockstep_leader{{{OPERATOR}}}": "1x40",
            f"lockstep_last_pass_age_seconds{{{OTHER}}}": "0+60x40",
            f"lockstep_leader{{{OTHER}}}": "0x40",
            f'lockstep_jobs{{{OPERATOR},phase="Running"}}': "1x40",
        },
        "10m",
        about_the_operator(
            "The operator in lockstep-system looks after no job",
            "Its last pass over a job was 6m 0s ago. Rounds go on, but nothing is started, "
            "mended or ended.",
        ),
        ("3m", "8m", "13m"),
    ),
    "passes that fail": Played(
        "LockstepPassesFailing",
        {
            f'lockstep_reconcile_errors_total{{{OPERATOR},error="Conflict"}}': "0x3 0+6x15 90x20",
            f"lockstep_reconcile_seconds_count{{{OPERATOR}}}": "0+6x40",
        },
        "17m",
        about_the_operator(
            "Most passes of the operator in lockstep-system fail",
            "There are 1.0 errors a pass, for five minutes.",
        ),
        ("3m", "8m", "26m"),
    ),
    "no operator": Played(
        "LockstepOperatorDown",
        {f"lockstep_leader{{{OPERATOR}}}": "1x3 stale _x5 1x10"},
        "8m",
        (
            Firing(
                {},
                "No operator leads",
                "Jobs that run go on with their last plan; nothing is started, planned or ended.",
            ),
        ),
        ("3m", "5m", "10m"),
    ),
    "candidates that none leads": Played(
        "LockstepOperatorDown",
        {
            f"lockstep_leader{{{OPERATOR}}}": "1x3 0x5 0x10",
            f"lockstep_leader{{{OTHER}}}": "0x3 0x5 1x10",
        },
        "8m",
        about_the_operator(
            "No operator leads in lockstep-system",
            "Jobs that run go on with their last plan; nothing is started, planned or ended.",
        ),
        ("3m", "5m", "11m"),
    ),
}

NO_FAULTS = {
    "a round of a job whose rounds are long": Silent(
        "LockstepJobStuck",
        {
            f"lockstep_round_began_seconds{{{CLOUD}}}": "60x40",
            f"lockstep_last_round_seconds{{{CLOUD}}}": "600x40",
            f"lockstep_round{{{CLOUD}}}": "3x40",
            f"lockstep_rounds{{{CLOUD}}}": "10x40",
        },
    ),
    "a job that waits for its devices before round 1": Silent(
        "LockstepJobStuck",
        {
            f"lockstep_round_began_seconds{{{CLOUD}}}": "0x40",
            f"lockstep_last_round_seconds{{{CLOUD}}}": "0x40",
            f"lockstep_round{{{CLOUD}}}": "0x40",
            f"lockstep_rounds{{{CLOUD}}}": "10x40",
        },
    ),
    "a job that has done all its rounds": Silent(
        "LockstepJobStuck",
        {
            f"lockstep_round_began_seconds{{{CLOUD}}}": "60x40",
            f"lockstep_last_round_seconds{{{CLOUD}}}": "30x40",
            f"lockstep_round{{{CLOUD}}}": "10x40",
            f"lockstep_rounds{{{CLOUD}}}": "10x40",
        },
    ),
    "a round that lost a device": Silent(
        "LockstepRoundWithoutQuorum",
        {f"lockstep_rounds_without_quorum_total{{{CLOUD}}}": "0x5 1x40"},
    ),
    "a node that was drained once": Silent(
        "LockstepDeviceFlapping",
        {
            f"lockstep_sessions_ended_total{{{CLOUD}}}": "0x5 40x40",
            f"lockstep_clients_connected{{{CLOUD}}}": "80x40",
        },
    ),
    "two nodes that were drained one after the other": Silent(
        "LockstepDeviceFlapping",
        {
            f"lockstep_sessions_ended_total{{{CLOUD}}}": "0x5 40x4 80x40",
            f"lockstep_clients_connected{{{CLOUD}}}": "80x50",
        },
    ),
    "two nodes that were drained a while apart": Silent(
        "LockstepDeviceFlapping",
        {
            f"lockstep_sessions_ended_total{{{CLOUD}}}": "0x5 40x10 80x40",
            f"lockstep_clients_connected{{{CLOUD}}}": "80x50",
        },
        at=("12m", "18m", "20m"),
    ),
    "a few of many devices": Silent(
        "LockstepDeviceFlapping",
        {
            f"lockstep_sessions_ended_total{{{CLOUD}}}": "0+1x40",
            f"lockstep_clients_connected{{{CLOUD}}}": "1000x40",
        },
    ),
    "an operator without jobs": Silent(
        "LockstepOperatorNotReconciling",
        {
            f"lockstep_last_pass_age_seconds{{{OPERATOR}}}": "0+60x40",
            f"lockstep_leader{{{OPERATOR}}}": "1x40",
        },
    ),
    "now and then a limit": Silent(
        "LockstepResizeFailing",
        {
            f'lockstep_resize_failures_total{{{OPERATOR},reason="timeout"}}': "0+1x40",
            f"lockstep_resize_seconds_count{{{OPERATOR}}}": "0+50x40",
        },
    ),
    "certificates that are replaced in time": Silent(
        "LockstepCertificateExpiring",
        {
            f"lockstep_certificate_expiration_timestamp_seconds{{{CLOUD}}}": "28900x40",
            f"lockstep_edge_certificate_expiration_timestamp_seconds{{{EDGE}}}": "50000x40",
        },
    ),
    "a job without a budget": Silent(
        "LockstepEnergyBudgetExceeded",
        {f'lockstep_job_energy_joules{{{CLOUD},source="model"}}': "0+300x40"},
    ),
}


def expected(alert: str, at: str, *, firing: tuple[Firing, ...] = ()) -> Json:
    """As promtool has it."""
    told = BY_NAME[alert]
    return {
        "alertname": alert,
        "eval_time": at,
        "exp_alerts": [
            {
                "exp_labels": {"severity": told.severity.value} | dict(one.labels),
                "exp_annotations": {
                    "summary": one.summary,
                    "description": one.description,
                    "runbook_url": f"docs/alerts.md#{alert.lower()}",
                },
            }
            for one in firing
        ],
    }


def as_promtool_has_it(series: Mapping[str, str], wanted: list[Json]) -> Json:
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": inputs, "alert_rule_test": wanted}


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    checked(RULES)


def test_promtool_tells_an_alert_that_does_not_fire(tmp_path: Path) -> None:
    case = CASES["a budget that is used up"]
    wanted = [expected(case.alert, "4m", firing=case.firing)]
    with pytest.raises(AssertionError, match=rf"FAILED:\s+alertname: {case.alert}, time: 4m"):
        played(RULES, [as_promtool_has_it(case.series, wanted)], folder=tmp_path)


def test_every_alert_has_its_runbook_and_no_other_is_there() -> None:
    page, _, anchor = alerts.RUNBOOKS.partition("#")
    assert not anchor
    sections = {one for one in anchors(page) if one.startswith("lockstep")}
    assert sections == {one.anchor for one in BY_NAME.values()}


def test_the_table_of_alerts_has_the_severity_of_each() -> None:
    table = (ROOT / alerts.RUNBOOKS).read_text(encoding="utf-8").split("\n## ")[0]
    told = dict(re.findall(r"^\| \[(\w+)\]\(#\w+\) \| (\w+) \|", table, re.MULTILINE))
    assert told == {one.name: one.severity.value for one in BY_NAME.values()}


def test_every_alert_is_played() -> None:
    assert {case.alert for case in CASES.values()} == set(BY_NAME)


def test_alerts_fire_with_their_values_and_end(tmp_path: Path) -> None:
    tests = []
    for case in CASES.values():
        silent = [expected(case.alert, at) for at in case.silent_at]
        firing = expected(case.alert, case.fires_at, firing=case.firing)
        tests.append(as_promtool_has_it(case.series, [*silent, firing]))
    played(RULES, tests, folder=tmp_path)


def test_alerts_are_silent_about_what_is_no_fault(tmp_path: Path) -> None:
    tests = [
        as_promtool_has_it(case.series, [expected(case.alert, at) for at in case.at])
        for case in NO_FAULTS.values()
    ]
    played(RULES, tests, folder=tmp_path)
