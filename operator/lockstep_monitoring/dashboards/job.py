"""The dashboard Job: what one job has learned, and what its rounds cost and lack."""

from grafana_foundation_sdk.models import dashboard as models

from lockstep_api import series
from lockstep_monitoring.dashboards import frame, job_rounds, panels
from lockstep_monitoring.dashboards.frame import Row
from lockstep_monitoring.dashboards.kinds import Query
from lockstep_monitoring.dashboards.panels import GREEN, ORANGE, RED, Look, Told
from lockstep_monitoring.dashboards.scope import MODELLED, of_finished_rounds, of_job

NAME = "job"


_ENERGY = of_job(series.JOB_ENERGY_JOULES)
_PLANNED = of_job(series.CLIENTS_PLANNED)
_NOW: Row = (
    "Where it is",
    [
        panels.number(
            Told(
                "Round",
                "Finished rounds, and the rounds that the job has.",
                "it stands still for much longer than a round takes: see Rounds and Faults.",
                "short",
            ),
            Query(f"max({of_job(series.ROUND)})", "done"),
            Query(f"max({of_job(series.ROUNDS)})", "of"),
        ),
        panels.number(
            Told(
                "Accuracy",
                "Of the newest model, on held-out data.",
                "no better than chance (10 % with ten classes) after some rounds: it does "
                "not learn.",
                "percentunit",
            ),
            Query(f"max({of_finished_rounds(series.ACCURACY)})", "accuracy"),
            look=Look(width=4, height=4, decimals=1),
        ),
        panels.number(
            Told(
                "Running for",
                "Time since round 1 began.",
                "near spec.activeDeadlineSeconds: the job ends there, finished or not.",
                "s",
            ),
            Query(f"max(time() - {of_job(series.JOB_START_SECONDS)})", "time"),
            look=Look(width=4, height=4, decimals=0),
        ),
        panels.number(
            Told(
                "Devices there",
                "Devices with an open session, as share of those that the round was planned with.",
                "below 100 %: the round waits for devices, or closes with the quorum without them.",
                "percentunit",
            ),
            Query(f"max({of_job(series.CLIENTS_CONNECTED)}) / max({_PLANNED})", "connected"),
            look=Look(
                width=4,
                height=4,
                decimals=0,
                thresholds=[(None, RED), (0.5, ORANGE), (1, GREEN)],
            ),
        ),
        panels.number(
            Told(
                "Energy",
                "Of all devices since round 1, by source; the sources are never to be added.",
                "above spec.telemetry.energyBudgetJoules, where one is set: see Energy of "
                "its budget.",
                "joule",
            ),
            Query(f"sum by (source) ({_ENERGY})", "{{source}}"),
        ),
        panels.number(
            Told(
                "Energy of its budget",
                "Modelled energy as share of spec.telemetry.energyBudgetJoules.",
                "100 % or more: the budget is used up. Nothing is shown where no budget is set.",
                "percentunit",
            ),
            Query(
                f"max({of_job(series.JOB_ENERGY_JOULES, MODELLED)})"
                f" / max({of_job(series.ENERGY_BUDGET_JOULES)})",
                "used",
            ),
            look=Look(
                width=4,
                height=4,
                decimals=0,
                thresholds=[(None, GREEN), (0.8, ORANGE), (1, RED)],
            ),
        ),
    ],
)

_SHARE = Look(low=0, high=1)
_ACCURACY = Query(f"max({of_finished_rounds(series.ACCURACY)})", "accuracy")
_LOSS = Query(f"max({of_finished_rounds(series.LOSS)})", "loss")
_FINISHED = Query(f"max({of_job(series.ROUND)})", "round")
_JOULES = Query(f"max({of_job(series.JOB_ENERGY_JOULES, MODELLED)})", "joules")
_LOW = "it stays flat or falls: step size, labels per device, or too few devices a round."
_HIGH = "it rises while rounds go on: training diverges; lower the learning rate."
_DEAR = "flat while joules grow: further rounds cost energy and bring nothing."
_LEARNING: Row = (
    "Learning",
    [
        panels.against(
            Told("Accuracy by round", "On held-out data, after each round.", _LOW, "percentunit"),
            _FINISHED,
            _ACCURACY,
            x_unit="short",
            look=_SHARE,
        ),
        panels.lines(
            Told(
                "Accuracy by time",
                "On held-out data; in mode split also of the fronts with the cloud's half.",
                _LOW,
                "percentunit",
            ),
            _ACCURACY,
            Query(f"max({of_finished_rounds(series.CLOUD_ACCURACY)})", "with the cloud's half"),
            look=_SHARE,
        ),
        panels.against(
            Told("Accuracy by joule", "Over the modelled energy so far.", _DEAR, "percentunit"),
            _JOULES,
            _ACCURACY,
            x_unit="joule",
            look=_SHARE,
        ),
        panels.against(
            Told("Loss by round", "On held-out data, after each round.", _HIGH, "suffix: nats"),
            _FINISHED,
            _LOSS,
            x_unit="short",
        ),
        panels.lines(Told("Loss by time", "On held-out data.", _HIGH, "suffix: nats"), _LOSS),
        panels.against(
            Told("Loss by joule", "Over the modelled energy so far.", _DEAR, "suffix: nats"),
            _JOULES,
            _LOSS,
            x_unit="joule",
        ),
    ],
)


def build() -> models.Dashboard:
    """The dashboard."""
    return frame.made(
        NAME,
        "Lockstep / Job",
        text="One FederatedJob: accuracy and loss, rounds, stragglers, clusters, checkpoints.",
        variables=[*frame.job_variables(), frame.tier()],
        rows=[_NOW, _LEARNING, *job_rounds.rows()],
    )
