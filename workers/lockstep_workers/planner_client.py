"""Calls to the planner, by the cloud pod and by trainers."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import httpx2
import structlog

from lockstep_api.certificates import Certificate, CertificateRequest
from lockstep_api.identity import PublishedKeys
from lockstep_api.names import (
    CERTIFICATE_ROUTE,
    KEYS_ROUTE,
    OUTCOME_ROUTE,
    PLAN_ROUTE,
    POLICY_ROUTE,
)
from lockstep_api.settings import JobSettings
from lockstep_api.wire import Outcome, PlanRequest, PolicyVerdict, RoundPlan
from lockstep_serving.tls import NoCertificate
from lockstep_workers.credentials import shown
from lockstep_workers.errors import PlannerRefused, PlannerUnreachable
from lockstep_workers.jitter import jitter

_T = TypeVar("_T")
_log = structlog.get_logger()
_TIMEOUT_S = 10.0
_MAX_BACKOFF_S = 30.0
_NOT_YET = (401, 403, 404, 408, 429)
"""Refusals that pass by themselves: a token is renewed, a job or its pod is not yet known."""


class PlannerClient:
    """Plans, outcomes and policies over HTTP, with the pod's token."""

    def __init__(self, job: JobSettings, token_file: Path, *, client: httpx2.AsyncClient) -> None:
        """`token_file` is read for every call: the kubelet renews it."""
        names = {"namespace": job.namespace, "job": job.job}
        self._plan_url = job.planner_url + PLAN_ROUTE.format(**names)
        self._outcome_url = job.planner_url + OUTCOME_ROUTE.format(**names)
        self._certificate_url = job.planner_url + CERTIFICATE_ROUTE.format(**names)
        self._policy_url = job.planner_url + POLICY_ROUTE.format(**names)
        self._keys_url = job.planner_url + KEYS_ROUTE.format(**names)
        self._token_file = token_file
        self._client = client
        self._certifying = asyncio.Lock()

    def _headers(self) -> dict[str, str]:
        return {"content-type": "application/json", **shown(self._token_file)}

    async def _post(self, url: str, body: str | bytes) -> bytes:
        return await self._call("POST", url, content=body)

    async def _call(self, method: str, url: str, *, content: str | bytes = b"") -> bytes:
        try:
            answer = await self._client.request(
                method, url, content=content, headers=self._headers(), timeout=_TIMEOUT_S
            )
        except httpx2.HTTPError as error:
            raise PlannerUnreachable(f"{type(error).__name__}: {error}") from error
        if answer.status_code != 200:
            told = f"the planner says {answer.status_code}: {answer.text[:500]}"
            final = 400 <= answer.status_code < 500 and answer.status_code not in _NOT_YET
            raise (PlannerRefused if final else PlannerUnreachable)(told)
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
            PlannerRefused: asking again within that time is of no use. Without a limit it may be:
                a spec can be mended, a job resumed.
            PlannerUnreachable: there was no plan in time.
        """
        try:
            async with asyncio.timeout(within_s):
                return await _insist(
                    partial(self.plan_once, request),
                    f"no plan of round {request.round} yet",
                    take_no=within_s is not None,
                )
        except TimeoutError as error:
            raise PlannerUnreachable(f"no plan within {within_s} s") from error

    async def offer_policy(self, content: bytes, *, tries: int) -> PolicyVerdict:
        """Offers a policy, several times if need be.

        Raises:
            PlannerUnreachable: there was no answer, or a refusal.
        """
        offer = partial(self._post, self._policy_url, content)
        answer = await _insist(offer, "policy not judged yet", take_no=True, tries=tries)
        return PolicyVerdict.model_validate_json(answer)

    async def keys(self, missed: str) -> PublishedKeys:
        """With which keys tokens are signed; asks until there is an answer.

        `missed` names a key that is not known here.
        """

        async def once() -> PublishedKeys:
            answer = await self._call("GET", f"{self._keys_url}?{urlencode({'kid': missed})}")
            try:
                return PublishedKeys.model_validate_json(answer)
            except ValueError as error:
                raise PlannerUnreachable("the answer is no keys") from error

        return await _insist(once, "keys of tokens not known yet", take_no=False)

    async def certificate(self, request: CertificateRequest) -> Certificate:
        """A certificate for a server of the job; asks once, and for one at a time: the planner
        takes few calls of a job at once, and plans come first.

        Raises:
            NoCertificate: there is none now; says why.
        """
        try:
            async with self._certifying:
                answer = await self._post(self._certificate_url, request.to_json())
            return Certificate.model_validate_json(answer)
        except (PlannerUnreachable, ValueError) as error:
            raise NoCertificate(str(error)) from error

    async def tell_outcome(self, outcome: Outcome) -> None:
        """Repeats the outcome until the planner has taken it."""
        tell = partial(self._post, self._outcome_url, outcome.to_json())
        await _insist(tell, "outcome not taken yet", take_no=False)


async def _insist(
    call: Callable[[], Awaitable[_T]], event: str, *, take_no: bool, tries: int | None = None
) -> _T:
    """Calls until there is an answer, at most `tries` times, with growing pauses in between.

    With `take_no` a refusal ends it at once.
    """
    attempt = 0
    while True:
        try:
            return await call()
        except PlannerUnreachable as error:
            attempt += 1
            if attempt == tries or (take_no and isinstance(error, PlannerRefused)):
                raise
            _log.warning(event, attempt=attempt, why=str(error))
        await asyncio.sleep(_backoff_s(attempt))


def _backoff_s(attempt: int) -> float:
    """0.25 s doubling to 30 s, with full jitter."""
    return jitter(0.1, min(_MAX_BACKOFF_S, 0.25 * 2.0 ** min(attempt, 10)))
