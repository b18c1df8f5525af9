"""Calls to the planner, by the cloud pod and by trainers."""

import asyncio
import random
from pathlib import Path

import httpx2
import structlog

from lockstep_api.names import OUTCOME_ROUTE, PLAN_ROUTE, POLICY_ROUTE
from lockstep_api.settings import JobSettings
from lockstep_api.wire import Outcome, PlanRequest, PolicyVerdict, RoundPlan
from lockstep_workers.errors import PlannerRefused, PlannerUnreachable

_log = structlog.get_logger()
_TIMEOUT_S = 10.0
_MAX_BACKOFF_S = 30.0


class PlannerClient:
    """Plans, outcomes and policies over HTTP, with the pod's token."""

    def __init__(self, job: JobSettings, token_file: Path, client: httpx2.AsyncClient) -> None:
        """`token_file` is read for every call: the kubelet renews it."""
        names = {"namespace": job.namespace, "job": job.job}
        self._plan_url = job.planner_url + PLAN_ROUTE.format(**names)
        self._outcome_url = job.planner_url + OUTCOME_ROUTE.format(**names)
        self._policy_url = job.planner_url + POLICY_ROUTE.format(**names)
        self._token_file = token_file
        self._client = client

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self._token_file.exists():
            headers["authorization"] = f"Bearer {self._token_file.read_text().strip()}"
        return headers

    async def _post(self, url: str, body: str | bytes) -> bytes:
        try:
            answer = await self._client.post(
                url, content=body, headers=self._headers(), timeout=_TIMEOUT_S
            )
        except httpx2.HTTPError as error:
            raise PlannerUnreachable(f"{type(error).__name__}: {error}") from error
        if answer.status_code != 200:
            told = f"the planner says {answer.status_code}: {answer.text[:500]}"
            raise (PlannerRefused if 400 <= answer.status_code < 500 else PlannerUnreachable)(told)
        return answer.content

    async def plan_once(self, request: PlanRequest) -> RoundPlan:
        """Asks once.

        Raises:
            PlannerUnreachable: no answer, a refusal, or an answer that is not a plan.
        """
        answer = await self._post(self._plan_url, request.to_json())
        try:
            plan = RoundPlan.model_validate_json(answer)
        except ValueError as error:
            raise PlannerUnreachable(f"the answer is not a plan: {error}") from error
        if plan.round != request.round or not plan.participants:
            raise PlannerUnreachable(
                f"the answer is a plan of round {plan.round} for {len(plan.participants)} clients"
            )
        return plan

    async def plan(self, request: PlanRequest, *, within_s: float | None) -> RoundPlan:
        """Asks again and again, for `within_s` seconds in all (None: until there is a plan).

        Raises:
            PlannerUnreachable: there was no plan in time.
        """
        try:
            async with asyncio.timeout(within_s):
                return await self._insist(request)
        except TimeoutError as error:
            raise PlannerUnreachable(f"no plan within {within_s} s") from error

    async def _insist(self, request: PlanRequest) -> RoundPlan:
        attempt = 0
        while True:
            try:
                return await self.plan_once(request)
            except PlannerUnreachable as error:
                attempt += 1
                _log.warning("no plan yet", round=request.round, attempt=attempt, why=str(error))
            await asyncio.sleep(_backoff_s(attempt))

    async def offer_policy(self, content: bytes, *, tries: int) -> PolicyVerdict:
        """Offers a policy, several times if need be.

        Raises:
            PlannerUnreachable: there was no answer, or a refusal.
        """
        attempt = 0
        while True:
            try:
                answer = await self._post(self._policy_url, content)
                return PolicyVerdict.model_validate_json(answer)
            except PlannerUnreachable as error:
                attempt += 1
                if attempt == tries or isinstance(error, PlannerRefused):
                    raise
                _log.warning("policy not judged yet", attempt=attempt, why=str(error))
            await asyncio.sleep(_backoff_s(attempt))

    async def tell_outcome(self, outcome: Outcome) -> None:
        """Repeats the outcome until the planner has taken it."""
        attempt = 0
        while True:
            try:
                await self._post(self._outcome_url, outcome.to_json())
            except PlannerUnreachable as error:
                attempt += 1
                _log.warning("outcome not taken yet", attempt=attempt, why=str(error))
                await asyncio.sleep(_backoff_s(attempt))
            else:
                return


def _backoff_s(attempt: int) -> float:
    """0.25 s doubling to 30 s, with full jitter."""
    return random.uniform(0.1, min(_MAX_BACKOFF_S, 0.25 * 2.0 ** min(attempt, 10)))
