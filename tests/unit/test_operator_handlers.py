"""How Kopf is set: it waits for Kubernetes, however long that takes."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from kopf._cogs.clients import api
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from lockstep_operator.handlers import operator_settings

TRIES = 100


@dataclass
class Answer:
    """As aiohttp gives it, as far as Kopf looks at it."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)

    async def json(self) -> Any:
        return {"kind": "Status", "code": self.status, "message": "no server is available"}

    def raise_for_status(self) -> None:
        info = aiohttp.RequestInfo(URL("https://sick"), "GET", CIMultiDictProxy(CIMultiDict()))
        raise aiohttp.ClientResponseError(info, ())


@dataclass
class Sick:
    """A session with an apiserver that answers 503 for a long time; its context, too."""

    server: str = "https://sick"
    closed: bool = False
    tries: int = 0

    @property
    def session(self) -> "Sick":
        return self

    async def request(self, **_: Any) -> Answer:
        self.tries += 1
        return Answer(503 if self.tries < TRIES else 200)


async def test_an_apiserver_that_is_sick_for_long_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", wait)
    for _ in range(2):  # every call has the same patience
        sick = Sick()
        answer = await api.request(
            "get",
            "/apis",
            settings=operator_settings(),
            context=sick,  # type: ignore[arg-type]
            logger=logging.getLogger("test"),
        )
        assert (answer.status, sick.tries) == (200, TRIES)
    assert waited[:3] == waited[TRIES - 1 : TRIES + 2] == [1, 2, 5]
    assert max(waited) == 30
