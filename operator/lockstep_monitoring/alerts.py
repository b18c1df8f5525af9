"""Alerts: what is wrong with a job or the operator, in words with values, and where its runbook is.

Each has a section in docs/alerts.md under its own name, and a test that plays it. Invariant: the
expressions keep the labels by which a person finds the job, and no pod's, so that an alert does not
begin anew when a pod is replaced.
"""

from dataclasses import dataclass
from enum import StrEnum

from lockstep_api import series
from lockstep_api.series import Series, labels
from lockstep_api.status import Phase
from lockstep_monitoring.queries import JOB, OPERATOR, increase, largest, picked, smallest, summed

RUNBOOKS = "docs/alerts.md"
"""What every runbook link begins with; the chart puts `alerts.runbookBase` in its place."""
OF_JOB = "lockstep-job-alerts"
OF_OPERATOR = "lockstep-operator-alerts"
_AT_ONCE = "0s"


class Severity(StrEnum):
    """How soon somebody should look."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that somebody should hear of."""

    name: str
    expression: str
    lasts: str
    """For how long it must be so; of what looks back over a window itself: at once."""
    severity: Severity
    summary: str
    description: str

    @property
    def anchor(self) -> str:
        """Of its section in the runbooks."""
        return self.name.lower()


def _told(what: Series, words: str) -> str:
    """Words with the value of another series of the alert's job, where it has one."""
    series_of_the_job = f"{what.queried}{{namespace='%s',job='%s'}}"
    asked = f'printf "{series_of_the_job}" $labels.namespace $labels.job | query'
    return f"{{{{ with {asked} }}}}{words}{{{{ end }}}}"


JOB_STUCK = Alert(
    "LockstepJobStuck",
    f"time() - ({largest(series.ROUND_BEGAN_SECONDS.queried, by=JOB)} > 0) "
    f"> clamp_min(5 * {largest(series.LAST_ROUND_SECONDS.queried, by=JOB)}, 600) "
    f"and {largest(series.ROUND.queried, by=JOB)} < {largest(series.ROUNDS.queried, by=JOB)}",
    "1m",
    Severity.WARNING,
    "FederatedJob {{ $labels.namespace }}/{{ $labels.job }} makes no progress",
    "Its round has lasted for {{ $value | humanizeDuration }}: five times as long as the one "
    "before, and longer than ten minutes.",
)
_STARTING = picked(series.JOBS.queried, f'{labels.PHASE}="{Phase.STARTING}"')
JOB_NOT_STARTING = Alert(
    "LockstepJobNotStarting",
    f"{largest(_STARTING, by=OPERATOR)} > 0",
    "15m",
    Severity.INFO,
    "FederatedJobs of the operator in {{ $labels.namespace }} have not begun their first round",
    "{{ $value }} of them in phase Starting, and one or more at any time for 15 minutes.",
)
WITHOUT_QUORUM = Alert(
    "LockstepRoundWithoutQuorum",
    f"{increase(series.ROUNDS_WITHOUT_QUORUM.queried, by=JOB, over='15m')} >= 2",
    _AT_ONCE,
    Severity.WARNING,
    "Rounds of {{ $labels.namespace }}/{{ $labels.job }} end without their quorum",
    "About {{ printf `%.0f` $value }} rounds of the last 15 minutes had too few updates.",
)
_CONNECTED = series.CLIENTS_CONNECTED.queried
_ENDED = series.SESSIONS_ENDED.queried
DEVICE_FLAPPING = Alert(
    "LockstepDeviceFlapping",
    f"{increase(_ENDED, by=JOB, over='15m')} "
    f"> clamp_min(0.05 * {largest(_CONNECTED, by=JOB)}, 3) "
    f"and {increase(_ENDED, by=JOB)} > 0 "
    f"and {increase(_ENDED, by=JOB, ago='5m')} > 0 "
    f"and {increase(_ENDED, by=JOB, ago='10m')} > 0",
    _AT_ONCE,
    Severity.WARNING,
    "Devices of {{ $labels.namespace }}/{{ $labels.job }} come and go",
    "About {{ printf `%.0f` $value }} sessions of devices ended within 15 minutes, and not all at "
    "once.",
)
TELEMETRY_STALE = Alert(
    "LockstepTelemetryStale",
    f"{largest(_CONNECTED, by=JOB)} "
    f"- (count by ({', '.join(JOB)}) ({series.STEPS.queried}) "
    f"or 0 * {largest(_CONNECTED, by=JOB)}) > 0",
    "5m",
    Severity.WARNING,
    "Prometheus has no samples of devices of {{ $labels.namespace }}/{{ $labels.job }}",
    "{{ $value }} devices are connected to the cloud pod, but were not scraped lately: their "
    "frequencies are planned from the reports of rounds.",
)
CHECKPOINT_FAILING = Alert(
    "LockstepCheckpointFailing",
    f"{increase(series.CHECKPOINT_FAILURES.queried, by=JOB, over='15m')} > 0",
    _AT_ONCE,
    Severity.CRITICAL,
    "Checkpoints of {{ $labels.namespace }}/{{ $labels.job }} cannot be written",
    "About {{ printf `%.0f` $value }} checkpoints failed within 15 minutes. A job whose cloud pod "
    "dies goes on from the newest that was written"
    f"{_told(series.CHECKPOINT_ROUND, ', of round {{ . | first | value }}')}.",
)
_SPENT = picked(series.JOB_ENERGY_JOULES.queried, f'{labels.SOURCE}="model"')
ENERGY_BUDGET_EXCEEDED = Alert(
    "LockstepEnergyBudgetExceeded",
    f"{largest(_SPENT, by=JOB)} > {largest(series.ENERGY_BUDGET_JOULES.queried, by=JOB)}",
    _AT_ONCE,
    Severity.WARNING,
    "FederatedJob {{ $labels.namespace }}/{{ $labels.job }} has used up its energy budget",
    "Its devices have spent {{ $value | humanize }} J"
    f"{_told(series.ENERGY_BUDGET_JOULES, ' of {{ . | first | value | humanize }} J')} "
    "(spec.telemetry.energyBudgetJoules). The job goes on.",
)

_ENDING = "6 * 3600"
"""Seconds: a quarter of a certificate's day. A third is left when another one is asked for."""
_OF_SERVERS = (
    f"{series.CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS.queried} "
    f"or {series.EDGE_CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS.queried}"
)
CERTIFICATE_EXPIRING = Alert(
    "LockstepCertificateExpiring",
    f"{smallest(_OF_SERVERS, by=JOB)} - time() < {_ENDING}",
    "5m",
    Severity.CRITICAL,
    "A certificate of {{ $labels.namespace }}/{{ $labels.job }} ends soon and is not renewed",
    "It is left for {{ $value | humanizeDuration }}, and another one should have come two hours "
    "ago. Connections that are open go on; new ones will be refused.",
)
_OF_PLANNER = series.PLANNER_CERTIFICATE_EXPIRATION_TIMESTAMP_SECONDS.queried
PLANNER_CERTIFICATE_EXPIRING = Alert(
    "LockstepPlannerCertificateExpiring",
    f"{smallest(_OF_PLANNER, by=OPERATOR)} - time() < {_ENDING}",
    "5m",
    Severity.CRITICAL,
    "The planner's certificate in {{ $labels.namespace }} ends soon and is not renewed",
    "It is left for {{ $value | humanizeDuration }}. Without it no round is planned, and no job "
    "gets another certificate.",
)

_RESIZES = increase(series.RESIZE_SECONDS.count, by=OPERATOR, over="10m")
_FAILED_RESIZES = series.RESIZE_FAILURES.queried
RESIZE_FAILING = Alert(
    "LockstepResizeFailing",
    f"{increase(_FAILED_RESIZES, by=(*OPERATOR, labels.REASON), over='10m')} "
    f"> on ({labels.NAMESPACE}) group_left () 0.1 "
    f"* ({_RESIZES} + {increase(_FAILED_RESIZES, by=OPERATOR, over='10m')})",
    "2m",
    Severity.WARNING,
    "CPU limits of devices are not in force ({{ $labels.reason }})",
    "The operator in {{ $labels.namespace }} could not set about {{ printf `%.0f` $value }} limits "
    "within ten minutes, more than a tenth of all: these devices have other frequencies than "
    "planned, or slow themselves.",
)
TELEMETRY_UNREAD = Alert(
    "LockstepTelemetryUnread",
    f"{increase(series.TELEMETRY_FAILURES.queried, by=OPERATOR, over='10m')} "
    f"> 0.2 * {increase(series.TELEMETRY_SECONDS.count, by=OPERATOR, over='10m')}",
    "2m",
    Severity.WARNING,
    "Rounds are planned without Prometheus",
    "The operator in {{ $labels.namespace }} had no answer in time for about "
    "{{ printf `%.0f` $value }} rounds within ten minutes, more than a fifth of all.",
)
RESYNC = "2 * 120"
"""Seconds without a pass; the chart puts `operator.resyncSeconds` in the place of 120."""
_OF_THE_LEADER = f"{series.LAST_PASS_AGE_SECONDS.queried} and {series.LEADER.queried} == 1"
NOT_RECONCILING = Alert(
    "LockstepOperatorNotReconciling",
    f"{largest(_OF_THE_LEADER, by=OPERATOR)} "
    f"> {RESYNC} and {summed(series.JOBS.queried, by=OPERATOR)} > 0",
    "30s",
    Severity.CRITICAL,
    "The operator in {{ $labels.namespace }} looks after no job",
    "Its last pass over a job was {{ $value | humanizeDuration }} ago. Rounds go on, but nothing "
    "is started, mended or ended.",
)
_PASSES = increase(series.RECONCILE_SECONDS.count, by=OPERATOR)
PASSES_FAILING = Alert(
    "LockstepPassesFailing",
    f"{increase(series.RECONCILE_ERRORS.queried, by=OPERATOR)} / ({_PASSES} > 0) > 0.5",
    "5m",
    Severity.CRITICAL,
    "Most passes of the operator in {{ $labels.namespace }} fail",
    "There are {{ printf `%.1f` $value }} errors a pass, for five minutes.",
)
OPERATOR_DOWN = Alert(
    "LockstepOperatorDown",
    f"absent({series.LEADER.queried}) or {largest(series.LEADER.queried, by=OPERATOR)} == 0",
    "2m",
    Severity.CRITICAL,
    "No operator leads{{ with $labels.namespace }} in {{ . }}{{ end }}",
    "Jobs that run go on with their last plan; nothing is started, planned or ended.",
)

GROUPS = {
    OF_JOB: (
        JOB_STUCK, JOB_NOT_STARTING, WITHOUT_QUORUM, DEVICE_FLAPPING, TELEMETRY_STALE,
        CHECKPOINT_FAILING, ENERGY_BUDGET_EXCEEDED, CERTIFICATE_EXPIRING,
    ),
    OF_OPERATOR: (
        RESIZE_FAILING, TELEMETRY_UNREAD, NOT_RECONCILING, PASSES_FAILING, OPERATOR_DOWN,
        PLANNER_CERTIFICATE_EXPIRING,
    ),
}  # fmt: skip
"""Name of a group of rules → its alerts."""
