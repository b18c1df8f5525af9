"""Reads a job's telemetry from Prometheus: bandwidth and work per step.

The planner calls it before every round of a policy that needs it. All queries of a round run at
once and share one deadline; without an answer in time the round's report stands in.

What Prometheus has is what pages of the job's pods said. Invariant: an answer is read to so many
bytes as the job's devices can need and no further, and beside the event loop, so that no page makes
the operator large or slow.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from lockstep_api import series
from lockstep_api.series import labels
from lockstep_operator.answers import read_at_most
from lockstep_operator.beside import Beside
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
BYTES_OF_A_CLIENT = 8 << 10
"""Of an answer: labels, and a sample a second, of a pod and of the one that it replaced."""
MOST_BYTES = 4 << 20
"""Of any answer: a large job's devices are scraped more rarely, and have few samples each."""
_HISTORY_S = 63
_BY_CLIENT = f"sum by ({labels.CLIENT})"

_SERIES = {
    "carried": f'{series.LINK_MBITS.queried}{{%s,{labels.DIRECTION}="up"}}[{_HISTORY_S}s]',
    "uplink": f"{series.UPLINK_MBITS_PER_SECOND.queried}{{%s}}[{_HISTORY_S}s]",
}
_SHOWN = {"carried": series.LINK_MBITS.queried, "uplink": series.UPLINK_MBITS_PER_SECOND.queried}
Slots = tuple[float, ...] | None
Answer = list[Mapping[str, Any]]
Found = list[tuple[str, ClientInsight]]
"""What an answer says of clients, in its order."""


_SLOTS: Mapping[str, Callable[[Samples, float], Slots]] = {
    "carried": slots_from_counter,
    "uplink": slots_from_gauge,
}


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
    _beside: Beside = field(default_factory=Beside, repr=False)

    async def insight(self, key: JobKey, *, clients: int) -> dict[str, ClientInsight]:
        """What is known of the job's devices, which are so many, by client.

        Raises:
            TelemetryError: no answer in time, or none that can be read.
        """
        match = f'{labels.NAMESPACE}="{key.namespace}",{labels.JOB}="{key.name}"'
        texts = _SERIES | {name: value.query for name, value in _VALUES.items()}
        most = most_bytes(clients)

        async def said(name: str) -> Found:
            body, status = await self._ask(texts[name].replace("%s", match), most=most)
            work = self._beside.run(key.namespace, _read, body, name=name, now_s=self.clock())
            try:
                return await work
            except TelemetryError as error:
                raise TelemetryError(f"Prometheus at {self.url}: {str(error) or status}") from error

        asked = [asyncio.ensure_future(said(name)) for name in texts]
        try:
            async with asyncio.timeout(self.deadline_s):
                answers = await asyncio.gather(*asked)
        except TimeoutError as error:
            message = f"Prometheus at {self.url} did not answer within {self.deadline_s:g} s"
            raise TelemetryError(message) from error
        finally:
            for one in asked:  # nobody waits for the others where one has failed
                one.cancel()
        return _by_client(answers)

    async def close(self) -> None:
        """Ends the connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, query: str, *, most: int) -> tuple[bytes, int]:
        """What is answered, and its status."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        url = f"{self.url.rstrip('/')}/api/v1/query"
        try:
            async with self._session.post(url, data={"query": query}) as answer:
                body = await read_at_most(answer, most)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = f"Prometheus at {self.url}: {str(error) or type(error).__name__}"
            raise TelemetryError(message) from error
        if body is None:
            raise TelemetryError(
                f"Prometheus at {self.url} answers with more than {most} bytes: pages "
                "of the job's pods have series that are not theirs"
            )
        return body, answer.status


def most_bytes(clients: int) -> int:
    """Of an answer about so many devices."""
    return min(MOST_BYTES, (clients + 1) * BYTES_OF_A_CLIENT)


def _by_client(answers: Iterable[Found]) -> dict[str, ClientInsight]:
    """What is said first counts."""
    found: dict[str, ClientInsight] = {}
    for client, one in itertools.chain.from_iterable(answers):
        known = found.get(client, ClientInsight())
        doubted = (*(known.doubted or ()), *(one.doubted or ())) or None
        found[client] = replace(merged(known, one), doubted=doubted)
    return found


def _read(body: bytes, *, name: str, now_s: float) -> Found:
    """What the answer to a query says.

    Raises:
        TelemetryError: it is none, or cannot be read; without words: nothing is said of why.
    """
    try:
        told = json.loads(body)
    except ValueError as error:
        raise TelemetryError(str(error)) from error
    if not isinstance(told, dict) or told.get("status") != "success":
        raise TelemetryError(str((isinstance(told, dict) and told.get("error")) or ""))
    try:
        result: Answer = told["data"]["result"]
        if name in _VALUES:
            return [(client, _VALUES[name].of(number)) for client, number in _numbers(result)]
        return [
            (client, _bandwidth(samples, _SLOTS[name], name=_SHOWN[name], now_s=now_s))
            for client, samples in _series(result).items()
        ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise TelemetryError(f"an answer that cannot be read: {error}") from error


def _bandwidth(
    samples: Samples, slots: Callable[[Samples, float], Slots], *, name: str, now_s: float
) -> ClientInsight:
    found, unfit = None, unfit_sample(samples)
    if unfit is None and (found := slots(samples, now_s)) is not None:
        unfit = unfit_slot(found)
    if unfit is not None:
        return ClientInsight(doubted=(f"{name} ({unfit:g})",))
    return ClientInsight(slots_mbps=found)


def _numbers(answer: Answer) -> Iterator[tuple[str, float]]:
    """(client, number) of those that have one: nothing divided by nothing is none."""
    for item in answer:
        client, number = item["metric"].get(labels.CLIENT), float(item["value"][1])
        if client is not None and number > 0:  # not NaN either
            yield client, number


def _series(answer: Answer) -> dict[str, Samples]:
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
