"""Plays the plans of a cluster's job again, from the history that its cloud pod wrote.

A history has one JSON line a round (`lockstep_workers.cloud.history`): its newest rounds are whole,
and say who took part, with how many steps, at which frequency in the end. The CLI reads it; a
simulation then plans with a `Replay` instead of a `LivePlanner`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import ValidationError

from lockstep_api.base import problems_of
from lockstep_api.records import RoundSummary
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import ClientPlan, PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.allocate import cpu_milli, groups_by_client
from lockstep_workers.errors import InvalidJob

_LOST = "it gave nothing on the cluster either"


def read_history(text: str, *, source: str) -> list[RoundReport]:
    """The rounds of a history that are whole.

    Raises:
        InvalidJob: a line is none of a history; or no round is whole.
    """
    reports = [
        report
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and (report := _report(line, f"{source}, line {number}")) is not None
    ]
    if not reports:
        raise InvalidJob(
            f"{source} has no round with its clients: give the history of a job, "
            "history.jsonl on its cloud pod's volume, whose newest rounds have them"
        )
    return reports


def _report(line: str, where: str) -> RoundReport | None:
    """A whole report; None: an older round that was summed up."""
    try:
        return RoundReport.model_validate_json(line)
    except ValidationError as error:
        try:
            RoundSummary.model_validate_json(line)
        except ValidationError:
            raise InvalidJob(f"{where} is no round of a history: {problems_of(error)}") from error
        return None


@dataclass(frozen=True, slots=True)
class Replay:
    """The plans of finished rounds."""

    spec: FederatedJobSpec
    reports: Mapping[int, RoundReport]
    """By round."""

    @classmethod
    def of(cls, spec: FederatedJobSpec, reports: Sequence[RoundReport]) -> "Replay":
        """The plans of these reports.

        Raises:
            InvalidJob: the first rounds are missing, or they are of another job.
        """
        found = {report.round: report for report in reports}
        whole = [number for number in range(1, len(found) + 1) if number in found]
        if len(whole) < len(found):
            missing = next(n for n in range(1, max(found)) if n not in found)
            raise InvalidJob(f"the plans of round {missing} are missing: give a whole history")
        known = groups_by_client(spec)
        clients = {one.update.client for report in reports for one in report.clients}
        if unknown := sorted(clients - known.keys()):
            raise InvalidJob(
                f"the plans are of another job: it has client {unknown[0]}, this one has not"
            )
        return cls(spec, found)

    def plan(self, request: PlanRequest, *, now_s: float) -> RoundPlan | None:
        """As `Planner.plan`: after the last round of the history there are no more."""
        report = self.reports.get(request.round)
        if report is None:
            return None
        return RoundPlan(
            round=report.round,
            rounds=max(self.reports),
            target=self.spec.training.target,
            participants=self._participants(report),
            quorum=self.spec.participation.quorum,
            deadline_seconds=self.spec.participation.round_deadline_seconds,
            planned=report.planned,
        )

    def gone(self, number: int) -> Mapping[str, str]:
        """Those that were lost on the cluster."""
        return dict.fromkeys(self.reports[number].lost, _LOST)

    def _participants(self, report: RoundReport) -> list[ClientPlan]:
        """In the order of the partition, as plans have them."""
        done = {one.update.client: one.update for one in report.clients}
        usual = round(median([update.steps for update in done.values()] or [1]))
        plans = []
        for client, group in groups_by_client(self.spec).items():
            if client not in done and client not in report.lost:
                continue
            update = done.get(client)
            ghz = group.frequency.max_ghz if update is None else update.frequency_ghz
            quota = None if update is None else update.quota_cores
            milli = cpu_milli(group, ghz) if quota is None else max(1, round(1000 * quota))
            plans.append(
                ClientPlan(
                    client=client,
                    frequency_ghz=ghz,
                    cpu_milli=milli,
                    steps=usual if update is None else update.steps,
                    applied=True,
                )
            )
        return plans
