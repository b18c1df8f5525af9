"""What the cloud pods told the planner, by job; written by the planner, read by observe.

It lives in memory: a restarted operator hears the next report a round later; the status keeps
what was known before. Reports belong to a job's uid, so a new job of the same name starts empty.
"""

from dataclasses import replace
from datetime import datetime

from lockstep_api.wire import Notice, Outcome, PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.insight import ClientInsight, from_report, merged
from lockstep_operator.core.model import JobReport
from lockstep_operator.core.plan import mismatches


class Reports:
    """The newest report, plan and outcome of every job."""

    def __init__(self) -> None:
        self._by_uid: dict[str, JobReport] = {}
        self._noticed: dict[str, list[Notice]] = {}

    def get(self, uid: str) -> JobReport | None:
        return self._by_uid.get(uid)

    def forget(self, uid: str) -> None:
        self._by_uid.pop(uid, None)
        self._noticed.pop(uid, None)

    def asked(self, uid: str, request: PlanRequest) -> list[Notice]:
        """Store what a request says of the job; returns the notices that were not in the last one.

        A cloud pod repeats its notices until a request is answered.
        """
        problem = request.checkpoint_problem
        self._by_uid[uid] = replace(self._of(uid), checkpoint_problem=problem)
        before = self._noticed.get(uid, [])
        self._noticed[uid] = list(request.notices)
        return [notice for notice in request.notices if notice not in before]

    def round_done(self, uid: str, report: RoundReport | None) -> int:
        """Store a report; returns how many clients had another frequency than planned."""
        before = self._of(uid)
        if report is None or (before.report and before.report.round == report.round):
            return 0  # a repeated request: its plan may be the next round's already
        found = mismatches(before.plan, report) if before.plan else {}
        measured = {
            client: merged(one, before.measured.get(client, ClientInsight()))
            for client, one in from_report(report).items()
        }
        self._by_uid[uid] = replace(
            before, report=report, mismatches=found, measured={**before.measured, **measured}
        )
        return len(found)

    def informed(self, uid: str, *, telemetry: str | None, policy: str | None) -> None:
        """Store what was missing when a round was planned."""
        before = self._of(uid)
        self._by_uid[uid] = replace(before, telemetry_problem=telemetry, policy_problem=policy)

    def planned(self, uid: str, plan: RoundPlan, *, now: datetime) -> None:
        before = self._of(uid)
        first = before.started_at is None and plan.round == 1
        self._by_uid[uid] = replace(
            before, plan=plan, started_at=now if first else before.started_at, planned_at=now
        )

    def ended(self, uid: str, outcome: Outcome) -> None:
        before = self._of(uid)
        report = outcome.report or before.report
        self._by_uid[uid] = replace(before, outcome=outcome, report=report)

    def _of(self, uid: str) -> JobReport:
        return self._by_uid.get(uid, JobReport())
