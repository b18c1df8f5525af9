"""The dashboard Fleet: all jobs at once, what they use, and whether the operator is well."""

from grafana_foundation_sdk.models import dashboard as models

from lockstep_api import series
from lockstep_api.series import Series
from lockstep_monitoring import queries, rules
from lockstep_monitoring.dashboards import frame, panels
from lockstep_monitoring.dashboards.frame import Row
from lockstep_monitoring.dashboards.kinds import Query
from lockstep_monitoring.dashboards.panels import FROM_ZERO, GREEN, ORANGE, RED, Look, Told
from lockstep_monitoring.dashboards.scope import IN_TIER, MODELLED, a_second, of_fleet

NAME = "fleet"
_JOB = ", ".join(queries.JOB)
_RUNNING = 'phase="Running"'
_ONE = "{{namespace}}/{{job}}"


def _newest(what: Series, *matchers: str) -> str:
    return f"max by ({_JOB}) ({of_fleet(what, *matchers)})"


_PASS_AGE = (
    f"max({series.LAST_PASS_AGE_SECONDS.queried}"
    f" * on (namespace, instance) {series.LEADER.queried})"
)
_JOB_ADDRESS = (
    f"/d/{frame.uid('job')}?var-namespace=${{__data.fields.namespace}}"
    "&var-job=${__data.fields.job}&${datasource:queryparam}&${__url_time_range}"
)
_TABLE = panels.rows(
    Told(
        "Jobs",
        "Every job whose cloud pod answers. A job's name opens its dashboard.",
        "Connected below Planned: the round waits for devices that are not there.",
        "none",
    ),
    queries.JOB,
    queries=[
        Query(_newest(series.ROUND), "Round"),
        Query(_newest(series.ROUNDS), "of"),
        Query(_newest(series.ACCURACY), "Accuracy"),
        Query(_newest(series.CLIENTS_CONNECTED), "Connected"),
        Query(_newest(series.CLIENTS_PLANNED), "Planned"),
        Query(_newest(series.LAST_ROUND_SECONDS), "Last round"),
        Query(_newest(series.JOB_ENERGY_JOULES, MODELLED), "Energy (model)"),
    ],
    look=Look(
        width=24,
        height=7,
        columns={
            "job": {"links": [{"title": "Open the job", "url": _JOB_ADDRESS}]},
            "Accuracy": {"unit": "percentunit", "decimals": 1},
            "Last round": {"unit": "s", "decimals": 1},
            "Energy (model)": {"unit": "joule"},
        },
    ),
)

_SMALL = Look(width=4, height=4)
_NOW: Row = (
    "Now",
    [
        panels.number(
            Told(
                "Operators that lead",
                "Operators that hold their Lease. Each release of the chart has exactly one.",
                "0: no job starts, ends or gets new plans; rounds go on with their last plan.",
                "short",
            ),
            Query(f"sum({series.LEADER.queried})", "leaders"),
            look=Look(width=4, height=4, thresholds=[(None, RED), (1, GREEN)]),
        ),
        panels.number(
            Told(
                "Since the last pass",
                "Time since a leading operator looked at any job.",
                "over three resync times (6 minutes by default): the operator hangs, and "
                "is restarted.",
                "s",
            ),
            Query(_PASS_AGE, "age"),
            look=Look(
                width=4, height=4, thresholds=[(None, GREEN), (130, ORANGE), (360, RED)], decimals=0
            ),
        ),
        panels.number(
            Told(
                "Jobs that run",
                "Jobs in phase Running.",
                "0 while jobs are wanted: see the phases below.",
                "short",
            ),
            Query(f"sum({queries.picked(rules.JOBS.name, _RUNNING)}) or vector(0)", "running"),
            look=_SMALL,
        ),
        panels.number(
            Told(
                "Devices connected",
                "Devices with an open session, of all jobs.",
                "far below the devices of the running jobs: pods do not start, or do not "
                "get through.",
                "short",
            ),
            Query(f"sum({of_fleet(series.CLIENTS_CONNECTED)})", "devices"),
            look=_SMALL,
        ),
        panels.number(
            Told(
                "Rounds an hour",
                "Finished rounds of all jobs, as fast as in the last five minutes.",
                "0 while jobs run: no round ends; look at the job's stragglers and quorum.",
                "short",
            ),
            Query(f"sum({of_fleet(rules.ROUNDS_PER_HOUR.name)})", "rounds an hour"),
            look=Look(width=4, height=4, decimals=0),
        ),
        panels.number(
            Told(
                "Energy",
                "What all devices of the jobs that are there used since round 1. The "
                "sources are two "
                "ways to reckon the same, never to be added: model is the emulated device "
                "with DVFS, "
                "cpu is CPU seconds by watts of a core.",
                "there is no bad total; one that grows faster than before is a question to Power.",
                "joule",
            ),
            Query(f"sum by (source) ({of_fleet(series.JOB_ENERGY_JOULES)})", "{{source}}"),
            look=_SMALL,
        ),
    ],
)

_JOBS: Row = (
    "Jobs",
    [
        _TABLE,
        panels.areas(
            Told(
                "Jobs by phase",
                "Jobs that the leading operators know, by phase.",
                "Failed or Refused above 0; Pending for long: no node has room for the job.",
                "short",
            ),
            Query(f"sum by (phase) ({rules.JOBS.name})", "{{phase}}"),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Rounds an hour, by job",
                "How fast each job goes on.",
                "a job's line falls to 0: it is stuck, or its rounds have become long.",
                "short",
            ),
            Query(of_fleet(rules.ROUNDS_PER_HOUR.name), _ONE),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Accuracy, by job",
                "On held-out data, after each round.",
                "it falls, or stays at chance: learning rate, labels or a strategy that "
                "does not fit.",
                "percentunit",
            ),
            Query(f"max by ({_JOB}) ({of_fleet(series.ACCURACY)})", _ONE),
            look=Look(low=0, high=1),
        ),
        panels.lines(
            Told(
                "Power, by job",
                "What the devices of a job use, as the model of DVFS devices says.",
                "a job stands out: its frequencies are high; policies that weigh energy "
                "lower them.",
                "watt",
            ),
            Query(of_fleet(rules.ENERGY_WATTS.name, MODELLED), _ONE),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Updates refused, by job",
                "Updates that cloud pod or edges did not add, by reason, in the five "
                "minutes before.",
                "any: non_finite is training that diverges, wrong_round and duplicate are late "
                "devices, no_session and unknown_client are strangers.",
                "short",
            ),
            Query(of_fleet(rules.UPDATES_REFUSED.name), f"{_ONE} {{{{reason}}}}"),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Devices lost, by job",
                "Devices that gave no update to their round, in the five minutes before.",
                "a steady height: devices are too slow for the deadline, or die; see Devices.",
                "short",
            ),
            Query(of_fleet(rules.CLIENTS_LOST.name), _ONE),
            look=FROM_ZERO,
        ),
    ],
)

_PODS: Row = (
    "Pods",
    [
        panels.areas(
            Told(
                "Pods that answer, by tier",
                "Pods of jobs whose metrics Prometheus reads.",
                "fewer than the jobs ask for: pods are pending, not ready, or out of reach.",
                "short",
            ),
            Query(f"sum by (tier) ({of_fleet('up', IN_TIER)})", "{{tier}}"),
            look=FROM_ZERO,
        ),
        panels.areas(
            Told(
                "Series, by tier",
                "Series that one scrape of all pods brings.",
                "hundreds of thousands: set spec.telemetry.perDevice of large jobs to Never.",
                "short",
            ),
            Query(f"sum by (tier) ({of_fleet('scrape_samples_scraped', IN_TIER)})", "{{tier}}"),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Bytes of updates a second, by tier",
                "What devices upload, and what edges get and send.",
                "near what the network or an edge's node can carry: uploads wait for each other.",
                "Bps",
            ),
            Query(
                f"sum by (tier) ({a_second(of_fleet(series.UPLOAD_BYTES, IN_TIER))})",
                "{{tier}}: uploaded",
            ),
            Query(
                f"sum by (tier) ({a_second(of_fleet(series.EDGE_RECEIVED_BYTES, IN_TIER))})",
                "{{tier}}: received",
            ),
            look=FROM_ZERO,
        ),
    ],
)


def build() -> models.Dashboard:
    """The dashboard."""
    return frame.made(
        NAME,
        "Lockstep / Fleet",
        text="All FederatedJobs: phases, rounds, energy, and the operator that runs them.",
        variables=[
            frame.datasource(),
            frame.choices("namespace", "Namespace", query=frame.NAMESPACES),
            frame.tier(),
        ],
        rows=[_NOW, _JOBS, _PODS],
    )
