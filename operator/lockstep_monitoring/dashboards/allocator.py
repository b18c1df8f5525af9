"""The dashboard Allocator: which policy plans a job's frequencies, and whether it is worth it."""

from grafana_foundation_sdk.models import dashboard as models

from lockstep_api import series
from lockstep_monitoring import rules
from lockstep_monitoring.dashboards import frame, panels
from lockstep_monitoring.dashboards.frame import Row
from lockstep_monitoring.dashboards.kinds import Query
from lockstep_monitoring.dashboards.panels import FROM_ZERO, GREEN, ORANGE, RED, Look, Told
from lockstep_monitoring.dashboards.scope import MEAN, grown, of_job

NAME = "allocator"
_SPENT, _OPTIMUM = 'method="spent"', 'method="optimum"'
_PLANNED, _EQUALIZE = 'method="planned"', 'method="equalize"'


_USED = f"max by (policy, source) ({of_job(series.POLICY_IN_USE)})"
_POLICY: Row = (
    "Policy",
    [
        panels.timeline(
            Told(
                "Policy in use",
                "The allocation policy of the newest plan, and where it comes from.",
                "“equalize” where ppo is asked for: no policy file fits, or it was judged worse.",
                "none",
            ),
            Query(_USED, "{{policy}} ({{source}})"),
            look=Look(
                width=12, height=6, thresholds=[(None, GREEN)], texts={"1": ("in use", GREEN)}
            ),
        ),
        panels.columns(
            Told(
                "Fallbacks",
                "Plans of policy ppo that the equaliser made instead, by reason.",
                "any: the reason says whether the file, its shape or the observation does not fit.",
                "short",
            ),
            Query(
                f"sum by (reason) ({grown(of_job(series.POLICY_FALLBACKS))})",
                "{{reason}}",
            ),
            look=Look(width=6, height=6, low=0),
        ),
        panels.lines(
            Told(
                "Learning verdicts",
                "Policies that trainers of all jobs offered, by what was used afterwards.",
                "only “kept” or “begun”: learning on the job brings nothing; switch "
                "allocation.online off.",
                "short",
            ),
            Query(f"sum by (verdict) ({series.POLICIES_OFFERED.queried})", "{{verdict}}"),
            look=Look(width=6, height=6, low=0),
        ),
    ],
)

_PLAN_COST = of_job(series.PLAN_COST_SECONDS)
_ROUND_COST = of_job(series.ROUND_COST_SECONDS)
_COST: Row = (
    "Cost (seconds and joules by energyWeight)",
    [
        panels.lines(
            Told(
                "Expected cost of a plan, by method",
                "Of the newest plan, of the equaliser's frequencies, and of all at their "
                "highest, by "
                "what was known when it was made.",
                "“planned” above “equalize”: the policy plans worse than the method that "
                "needs none.",
                "s",
            ),
            Query(f"max by (method) ({_PLAN_COST})", "{{method}}"),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "What rounds cost",
                "What the last round cost, and the least that one could have spent who knows the "
                "bandwidths that it met.",
                "“spent” far above “optimum” for long: bandwidths change faster than they "
                "are known.",
                "s",
            ),
            Query(f"max by (method) ({_ROUND_COST})", "{{method}}"),
            look=FROM_ZERO,
        ),
        panels.number(
            Told(
                "Spent over optimum",
                "Cost of the last round over the least possible.",
                "above 1.5: forecasts are wrong, limits are not in force, or W is not known.",
                "suffix: ×",
            ),
            Query(
                f"max({of_job(series.ROUND_COST_SECONDS, _SPENT)}) / "
                f"max({of_job(series.ROUND_COST_SECONDS, _OPTIMUM)})",
                "ratio",
            ),
            look=Look(
                width=4,
                height=8,
                decimals=2,
                thresholds=[(None, GREEN), (1.25, ORANGE), (1.5, RED)],
            ),
        ),
        panels.number(
            Told(
                "Planned over equaliser",
                "Expected cost of the newest plan over that of the equaliser.",
                "above 1: the equaliser would have planned cheaper, by what was known.",
                "suffix: ×",
            ),
            Query(
                f"max({of_job(series.PLAN_COST_SECONDS, _PLANNED)}) / "
                f"max({of_job(series.PLAN_COST_SECONDS, _EQUALIZE)})",
                "ratio",
            ),
            look=Look(
                width=4, height=8, decimals=2, thresholds=[(None, GREEN), (1, ORANGE), (1.1, RED)]
            ),
        ),
    ],
)

_KNOWLEDGE: Row = (
    "What plans are made of, and what becomes of them",
    [
        panels.lines(
            Told(
                "Frequency by group, asked and applied",
                "Mean of each group, of the last finished round.",
                "they differ: limits are not in force in time; see Control plane.",
                "suffix: GHz",
            ),
            Query(
                f"max by (group) ({of_job(series.GROUP_FREQUENCY_ASKED_GHZ, MEAN)})",
                "{{group}} asked",
            ),
            Query(
                f"max by (group) ({of_job(series.GROUP_FREQUENCY_APPLIED_GHZ, MEAN)})",
                "{{group}} applied",
            ),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Telemetry, all jobs",
                "How long the planner waits for Prometheus before a round.",
                "p99 near a second: Prometheus is too small for its series.",
                "s",
            ),
            Query(rules.TELEMETRY_P50.name, "{{namespace}} p50"),
            Query(rules.TELEMETRY_P99.name, "{{namespace}} p99"),
            look=FROM_ZERO,
        ),
        panels.columns(
            Told(
                "Planned blind, or not followed, all jobs",
                "Rounds planned without an answer of Prometheus, and clients whose report says "
                "another frequency than the plan.",
                "any, for more than a moment: plans are made of old figures, or are not in force.",
                "short",
            ),
            Query(f"sum({grown(series.TELEMETRY_FAILURES.queried)})", "without telemetry"),
            Query(f"sum({grown(series.FREQUENCY_MISMATCHES.queried)})", "other frequency"),
            look=FROM_ZERO,
        ),
    ],
)


def build() -> models.Dashboard:
    """The dashboard."""
    return frame.made(
        NAME,
        "Lockstep / Allocator",
        text="How a FederatedJob's frequencies are planned: policy, cost beside others, learning.",
        variables=frame.job_variables(),
        rows=[_POLICY, _COST, _KNOWLEDGE],
    )
