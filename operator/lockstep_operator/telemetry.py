"""Reads a job's telemetry from Prometheus: bandwidth and work per step.

The planner calls it before every round of a policy that needs it. All queries of a round run at
once and share one deadline; without an answer in time the round's report stands in.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from lockstep_api import series
from lockstep_api.series import labels
from lockstep_operator.core.figures import unfit_sample, unfit_slot
from lockstep_operator.core.insight import (
    ClientInsight,
    Samples,
    merged,
    slots_from_counter,
    slots_from_gauge,
)
from lockstep_operator.core.model import JobKey
from lockstep_operator.errors import TelemetryError

DEADLINE_S = 1.0
_HISTORY_S = 63
_BY_CLIENT = f"sum by ({labels.CLIENT})"

_SERIES = {
    "carried": f'{series.LINK_MBITS.queried}{{%s,{labels.DIRECTION}="up"}}[{_HISTORY_S}s]',
    "uplink": f"{series.UPLINK_MBITS_PER_SECOND.queried}{{%s}}[{_HISTORY_S}s]",
}
_SHOWN = {"carried": series.LINK_MBITS.queried, "uplink": series.UPLINK_MBITS_PER_SECOND.queried}
Slots = tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class _Value:
    """A number that a query gives for each client."""

    query: str
    of: Callable[[float], ClientInsight]


_VALUES = {
    "mean_mbps": _Value(
        f"{_BY_CLIENT} ({series.UPLOAD_BYTES.queried}{{%s}}) * 8e-6 "
        f"/ ({_BY_CLIENT} ({series.UPLOAD_SECONDS.queried}{{%s}}) > 0)",
        lambda value: ClientInsight(mean_mbps=value),
    ),
    "work_per_step": _Value(
        f"{_BY_CLIENT} (increase({series.CPU_SECONDS.queried}{{%s}}[5m])) "
        f"/ ({_BY_CLIENT} (increase({series.STEPS.queried}{{%s}}[5m])) > 0)",
        lambda value: ClientInsight(work_per_step=value),
    ),
}


@dataclass(slots=True)
class Prometheus:
    """A Prometheus server; `close` it at the end."""

    url: str
    """Base URL."""
    deadline_s: float = DEADLINE_S
    clock: Callable[[], float] = time.time
    _session: aiohttp.ClientSession | None = field(default=None, repr=False)

    async def insight(self, key: JobKey) -> dict[str, ClientInsight]:
        """What is known of the job's devices, by client.

        Raises:
            TelemetryError: no answer in time, or none that can be read.
        """
        match = f'{labels.NAMESPACE}="{key.namespace}",{labels.JOB}="{key.name}"'
        texts = _SERIES | {name: value.query for name, value in _VALUES.items()}
        queries = {name: text.replace("%s", match) for name, text in texts.items()}
        try:
            async with asyncio.timeout(self.deadline_s):
                answers = await asyncio.gather(*map(self._ask, queries.values()))
        except TimeoutError as error:
            message = f"Prometheus at {self.url} did not answer within {self.deadline_s:g} s"
            raise TelemetryError(message) from error
        return _by_client(dict(zip(queries, answers, strict=True)), self.clock())

    async def close(self) -> None:
        """Ends the connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, query: str) -> list[Mapping[str, Any]]:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        url = f"{self.url.rstrip('/')}/api/v1/query"
        try:
            async with self._session.post(url, data={"query": query}) as answer:
                found = await answer.json(content_type=None)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = f"Prometheus at {self.url}: {str(error) or type(error).__name__}"
            raise TelemetryError(message) from error
        if not isinstance(found, dict) or found.get("status") != "success":
            told = found.get("error") if isinstance(found, dict) else None
            raise TelemetryError(f"Prometheus at {self.url}: {told or answer.status}")
        result: list[Mapping[str, Any]] = found["data"]["result"]
        return result


def _by_client(
    answers: Mapping[str, list[Mapping[str, Any]]], now_s: float
) -> dict[str, ClientInsight]:
    found: dict[str, ClientInsight] = {}

    def note(client: str, one: ClientInsight) -> None:
        known = found.get(client, ClientInsight())
        doubted = (*(known.doubted or ()), *(one.doubted or ())) or None
        found[client] = replace(merged(known, one), doubted=doubted)

    try:
        for name, slots in (("carried", slots_from_counter), ("uplink", slots_from_gauge)):
            for client, samples in _series(answers[name]).items():
                note(client, _bandwidth(samples, slots, name=_SHOWN[name], now_s=now_s))
        for name, value in _VALUES.items():
            for client, number in _numbers(answers[name]):
                note(client, value.of(number))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise TelemetryError(f"Prometheus gave an answer that cannot be read: {error}") from error
    return found


def _bandwidth(
    samples: Samples, slots: Callable[[Samples, float], Slots], *, name: str, now_s: float
) -> ClientInsight:
    found, unfit = None, unfit_sample(samples)
    if unfit is None and (found := slots(samples, now_s)) is not None:
        unfit = unfit_slot(found)
    if unfit is not None:
        return ClientInsight(doubted=(f"{name} ({unfit:g})",))
    return ClientInsight(slots_mbps=found)


def _numbers(answer: list[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """(client, number) of those that have one: nothing divided by nothing is none."""
    for item in answer:
        client, number = item["metric"].get(labels.CLIENT), float(item["value"][1])
        if client is not None and number > 0:  # not NaN either
            yield client, number


def _series(answer: list[Mapping[str, Any]]) -> dict[str, Samples]:
    """Client → its samples; of two pods of one client the one that was seen last."""
    newest: dict[str, Samples] = {}
    for item in answer:
        values = item["values"]
        samples = Samples(tuple(float(t) for t, _ in values), tuple(float(v) for _, v in values))
        client = item["metric"].get(labels.CLIENT)
        if client is None or not samples.times_s:
            continue
        if client not in newest or newest[client].times_s[-1] < samples.times_s[-1]:
            newest[client] = samples
    return newest
