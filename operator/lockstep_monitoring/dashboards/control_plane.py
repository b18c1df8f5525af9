"""The dashboard Control plane: whether operator and planner are well, and what they cost."""

from grafana_foundation_sdk.models import dashboard as models

from lockstep_api import series
from lockstep_monitoring import rules
from lockstep_monitoring.dashboards import frame, panels
from lockstep_monitoring.dashboards.frame import Row
from lockstep_monitoring.dashboards.kinds import Query
from lockstep_monitoring.dashboards.panels import FROM_ZERO, GREEN, ORANGE, RED, Look, Told
from lockstep_monitoring.dashboards.scope import a_second, grown, of_release
from lockstep_monitoring.queries import WINDOW
from lockstep_monitoring.rules import Recording

NAME = "control-plane"
_OPERATORS = frame.offered(series.LEADER.queried, "namespace")


def _own(selected: str) -> str:
    """Of operators only: other programs in their namespaces have these series, too."""
    return f"({selected} and on (namespace, instance) {of_release(series.LEADER)})"


_NOW: Row = (
    "Now",
    [
        panels.timeline(
            Told(
                "Who leads",
                "Of each operator's pod, whether it holds the Lease.",
                "no pod leads for more than 20 seconds: nothing is reconciled or planned.",
                "none",
            ),
            Query(f"max by (namespace, instance) ({of_release(series.LEADER)})", "{{instance}}"),
            look=Look(
                width=12,
                height=5,
                thresholds=[(None, ORANGE), (1, GREEN)],
                texts={"0": ("follows", ORANGE), "1": ("leads", GREEN)},
            ),
        ),
        panels.number(
            Told(
                "Queue",
                "Jobs that wait for their pass.",
                "above 0 for long: passes are slow; see Kubernetes API.",
                "short",
            ),
            Query(f"sum({of_release(series.QUEUE_DEPTH)})", "jobs"),
            look=Look(width=4, height=5, thresholds=[(None, GREEN), (5, ORANGE), (50, RED)]),
        ),
        panels.number(
            Told(
                "Since the last pass",
                "Of the operator that leads.",
                "over three resync times: its probe fails, and it is restarted.",
                "s",
            ),
            Query(
                f"max({of_release(series.LAST_PASS_AGE_SECONDS)} * on (namespace, instance) "
                f"{of_release(series.LEADER)})",
                "age",
            ),
            look=Look(
                width=4,
                height=5,
                decimals=0,
                thresholds=[(None, GREEN), (130, ORANGE), (360, RED)],
            ),
        ),
        panels.number(
            Told(
                "Errors in five minutes",
                "Failed passes, and failed writes of a pass.",
                "a few come with every restart of the apiserver; many: see Errors.",
                "short",
            ),
            Query(
                f"sum(increase({of_release(series.RECONCILE_ERRORS)}[{WINDOW}])) or vector(0)",
                "errors",
            ),
            look=Look(
                width=4, height=5, decimals=0, thresholds=[(None, GREEN), (1, ORANGE), (20, RED)]
            ),
        ),
    ],
)


def of(title: str, recorded: tuple[Recording, Recording], *, good: str, bad: str) -> panels.Panel:
    median, slowest = (of_release(one.name) for one in recorded)
    return panels.lines(
        Told(title, good, bad, "s"),
        Query(median, "{{namespace}} p50"),
        Query(slowest, "{{namespace}} p99"),
        look=Look(width=6, low=0),
    )


_LATENCIES: Row = (
    "Latencies",
    [
        of(
            "Reconcile",
            (rules.RECONCILE_P50, rules.RECONCILE_P99),
            good="One pass over a job.",
            bad="seconds: the apiserver is slow, or throttles the operator.",
        ),
        of(
            "Plan",
            (rules.PLAN_P50, rules.PLAN_P99),
            good="From a plan request until its limits are in force. Rounds wait for it.",
            bad="it is much of a round's seconds: see Resize beside it.",
        ),
        of(
            "Resize",
            (rules.RESIZE_P50, rules.RESIZE_P99),
            good="From the patch of a CPU limit until the pod's status shows it.",
            bad="seconds: kubelets are busy, or pods cannot be resized where they are.",
        ),
        of(
            "Telemetry",
            (rules.TELEMETRY_P50, rules.TELEMETRY_P99),
            good="Reading a job's telemetry from Prometheus, a part of a plan.",
            bad="near a second: Prometheus is too small for its series.",
        ),
    ],
)

_ERRORS: Row = (
    "Errors and the Kubernetes API",
    [
        panels.columns(
            Told(
                "Errors",
                "Failed passes and writes, by error.",
                "any that goes on: the operator's log has the traceback or the apiserver's words.",
                "short",
            ),
            Query(
                f"sum by (error) ({grown(of_release(series.RECONCILE_ERRORS))})",
                "{{error}}",
            ),
            look=FROM_ZERO,
        ),
        panels.columns(
            Told(
                "Limits that were not put in force",
                "Resizes that were refused or took too long, by reason.",
                "any that goes on: such devices run at their old frequency, and rounds are planned "
                "around them.",
                "short",
            ),
            Query(
                f"sum by (reason) ({grown(of_release(series.RESIZE_FAILURES))})",
                "{{reason}}",
            ),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Kubernetes API",
                "Requests a second, by verb and kind.",
                "they grow with time, not with jobs and rounds: something is written again "
                "and again.",
                "reqps",
            ),
            Query(
                f"sum by (verb, kind) ({of_release(rules.KUBE_REQUESTS.name)})",
                "{{verb}} {{kind}}",
            ),
            look=FROM_ZERO,
        ),
    ],
)

_QUARTER = Look(width=6, low=0)
_PROCESS: Row = (
    "What it uses",
    [
        panels.lines(
            Told(
                "Passes and status writes",
                "A second.",
                "passes without an end while no job changes: a child flips between two forms.",
                "ops",
            ),
            Query(f"sum({a_second(of_release(series.RECONCILE_SECONDS.count))})", "passes"),
            Query(f"sum({a_second(of_release(series.STATUS_WRITES))})", "status writes"),
            look=_QUARTER,
        ),
        panels.lines(
            Told(
                "CPU",
                "Cores that the operator's process uses.",
                "near a core: it is one process; split namespaces among releases.",
                "suffix: cores",
            ),
            Query(
                f"sum by (instance) ({_own(a_second(of_release(series.PROCESS_CPU_SECONDS)))})",
                "{{instance}}",
            ),
            look=_QUARTER,
        ),
        panels.lines(
            Told(
                "Memory",
                "Resident memory of the operator's process.",
                "near the limit of its pod (256 MiB by default): raise operator.resources.",
                "bytes",
            ),
            Query(
                f"max by (instance) ({_own(of_release(series.PROCESS_RESIDENT_MEMORY_BYTES))})",
                "{{instance}}",
            ),
            look=_QUARTER,
        ),
        panels.lines(
            Told(
                "Open files",
                "Connections of cloud pods and to the apiserver are most of them.",
                "near the limit: connections leak, or jobs are too many for one operator.",
                "short",
            ),
            Query(
                f"max by (instance) ({_own(of_release(series.PROCESS_OPEN_FDS))})", "{{instance}}"
            ),
            look=_QUARTER,
        ),
    ],
)


def build() -> models.Dashboard:
    """The dashboard."""
    return frame.made(
        NAME,
        "Lockstep / Control plane",
        text="The operator and its planner: latencies, queue, errors, who leads, what they use.",
        variables=[
            frame.datasource(),
            frame.choices(
                "release",
                "Operator's namespace",
                query=_OPERATORS,
            ),
        ],
        rows=[_NOW, _LATENCIES, _ERRORS, _PROCESS],
    )
