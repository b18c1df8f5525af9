"""Recordings say what they are called: promtool plays series through the rules of the chart."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lockstep_monitoring import alerts, rule_file, rules
from lockstep_monitoring.__main__ import ROOT
from lockstep_monitoring.dashboards import json_files
from tests.support.promtool import Json, played

RULES = ROOT / rule_file.PATH
RECORDINGS = [one for found in rules.GROUPS.values() for one in found]
OLD, NEW = 'namespace="lab",job="fashion",pod="c-0"', 'namespace="lab",job="fashion",pod="c-1"'
OTHER = 'namespace="lab",job="other",pod="o-0"'
LEADER = 'namespace="system",job="lockstep",instance="10.0.0.1:8081"'
FOLLOWER = 'namespace="system",job="lockstep",instance="10.0.0.2:8081"'
MINUTES = 10
AT = f"{MINUTES}m"


@dataclass(frozen=True)
class Recorded:
    """Series by the minute, and what is recorded of them after ten: labels → value."""

    name: str
    series: Mapping[str, str]
    values: Mapping[str, float]


def growing(a_minute: float) -> str:
    return f"0+{a_minute:g}x{MINUTES}"


def latencies(series: str, recording: str) -> Recorded:
    """A hundred observations a minute: fifty of up to 0.1 s, the last of up to 2.5 s."""
    below = {"0.05": 0, "0.1": 50, "0.5": 99, "2.5": 100, "+Inf": 100}
    found = {f'{series}_bucket{{{LEADER},le="{le}"}}': growing(n) for le, n in below.items()}
    found |= {f'{series}_bucket{{{FOLLOWER},le="{le}"}}': growing(0) for le in below}
    value = 0.1 if recording.endswith("p50_5m") else 0.5
    return Recorded(recording, found, {'namespace="system"': value})


CASES = [
    Recorded(
        "lockstep:rounds_per_hour:rate5m",
        {
            f"lockstep_round_seconds_count{{{OLD}}}": growing(1),
            f"lockstep_round_seconds_count{{{NEW}}}": growing(2),
            f"lockstep_round_seconds_count{{{OTHER}}}": growing(6),
        },
        {'namespace="lab",job="fashion"': 180, 'namespace="lab",job="other"': 360},
    ),
    Recorded(
        "lockstep:energy_watts:rate5m",
        {
            f'lockstep_group_energy_joules_total{{{OLD},group="g-0",source="model"}}': growing(60),
            f'lockstep_group_energy_joules_total{{{NEW},group="g-1",source="model"}}': growing(30),
            f'lockstep_group_energy_joules_total{{{NEW},group="g-1",source="cpu"}}': growing(600),
        },
        {
            'namespace="lab",job="fashion",source="model"': 1.5,
            'namespace="lab",job="fashion",source="cpu"': 10,
        },
    ),
    Recorded(
        "lockstep:updates_refused:increase5m",
        {
            f'lockstep_updates_refused_total{{{OLD},reason="shape"}}': growing(1),
            f'lockstep_edge_updates_refused_total{{{NEW},edge="e-0",reason="shape"}}': growing(2),
            f'lockstep_edge_updates_refused_total{{{NEW},edge="e-0",reason="dtype"}}': growing(0),
        },
        {
            'namespace="lab",job="fashion",reason="shape"': 15,
            'namespace="lab",job="fashion",reason="dtype"': 0,
        },
    ),
    Recorded(
        "lockstep:clients_lost:increase5m",
        {f"lockstep_clients_lost_total{{{OLD}}}": growing(3)},
        {'namespace="lab",job="fashion"': 15},
    ),
    Recorded(
        "lockstep:jobs:max",
        {
            f'lockstep_jobs{{{LEADER},phase="Running"}}': "4x10",
            f'lockstep_jobs{{{FOLLOWER},phase="Running"}}': "0x10",
        },
        {'namespace="system",phase="Running"': 4},
    ),
    Recorded(
        "lockstep:kube_requests:rate5m",
        {
            f'lockstep_kube_requests_total{{{LEADER},verb="get",kind="Pod"}}': growing(120),
            f'lockstep_kube_requests_total{{{FOLLOWER},verb="get",kind="Pod"}}': growing(60),
        },
        {'namespace="system",verb="get",kind="Pod"': 3},
    ),
    *(
        latencies(f"lockstep_{what}_seconds", f"lockstep:{what}_seconds:{share}_5m")
        for what in ("reconcile", "plan", "resize", "telemetry")
        for share in ("p50", "p99")
    ),
]


def as_promtool_has_it(case: Recorded) -> Json:
    samples = [
        {"labels": f"{case.name}{{{labels}}}", "value": value}
        for labels, value in case.values.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in case.series.items()]
    wanted = {"expr": case.name, "eval_time": AT, "exp_samples": samples}
    return {"interval": "1m", "input_series": inputs, "promql_expr_test": [wanted]}


def test_every_recording_is_played() -> None:
    assert {one.name for one in CASES} == {one.name for one in RECORDINGS}


def test_every_recording_is_read_by_a_dashboard_or_an_alert() -> None:
    alerting = [one.expression for found in alerts.GROUPS.values() for one in found]
    asked = " ".join([*json_files.files().values(), *alerting])
    assert [one.name for one in RECORDINGS if one.name not in asked] == []


def test_recordings_say_what_they_are_called(tmp_path: Path) -> None:
    played(RULES, [as_promtool_has_it(case) for case in CASES], folder=tmp_path)


def test_a_recording_that_says_something_else_is_named(tmp_path: Path) -> None:
    wrong = replace(CASES[0], values={'namespace="lab",job="fashion"': 181})
    with pytest.raises(AssertionError, match=rf"FAILED:\s+expr: \"{CASES[0].name}\""):
        played(RULES, [as_promtool_has_it(wrong)], folder=tmp_path)
