"""The route of a device's connection for a round of split training.

Plain ASGI beside the devices' other routes. Invariant: who does not show the key of a member
(`edge.members`) gets no connection, and learns nothing.
"""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress

from lockstep_api.orders import ClusterOrder
from lockstep_serving import receiving
from lockstep_workers.edge.members import HOLD_S, Members
from lockstep_workers.edge.split_connection import can_carry, carry, upgrade_required
from lockstep_workers.edge.split_work import Shop
from lockstep_workers.edge.splitting import SplitRunner
from lockstep_workers.hosting.asgi import App, Scope, Send, send_json
from lockstep_workers.hosting.reading import Receive
from lockstep_workers.hosting.sessions import shown_key
from lockstep_workers.parcels import Tensor

_SPLIT = re.compile(r"/v1/rounds/(?P<round>[0-9]{1,10})/split/(?P<client>[a-z0-9-]{1,63})")
_REST_S = 24 * 3600
"""A cluster's step may take long, and a device waits for it."""


class SplitRoutes:
    """Answers the route and leaves all others to `rest`; knows the runner of each member."""

    def __init__(self, members: Members, rest: App, *, shop: Shop, hold_s: float = HOLD_S) -> None:
        """`members` admits; a request for a round to come is held for `hold_s`."""
        self._hold_s, self._ordered = hold_s, asyncio.Event()
        self._members, self._rest, self._shop = members, rest, shop
        self._runners: dict[str, SplitRunner] = {}

    def runner(self, order: ClusterOrder, vectors: Mapping[str, Tensor]) -> SplitRunner:
        """A runner of an order, to which its members are led from now on."""
        made = SplitRunner(order, vectors, shop=self._shop)
        self._runners.update({one.client: made for one in order.members})
        old, self._ordered = self._ordered, asyncio.Event()
        old.set()
        return made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        match = _SPLIT.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if match is None or scope["method"] not in {"GET", "POST"}:
            await self._rest(scope, receive, send)
        elif not await self._members.admits(match["client"], shown_key(scope["headers"])):
            message = f"no order names {match['client']} with this key: ask the cloud pod"
            await send_json(send, 409, content={"message": message}, close=True)
        elif not can_carry(scope):
            await upgrade_required(send)
        else:
            await self._carry(match, scope, receive, send)

    async def _carry(
        self, match: re.Match[str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        if (known := scope["extensions"].get(receiving.KNOWN)) is not None:
            known(_REST_S, f"device {match['client']}")
        runner = await self._runner_of(match["client"], int(match["round"]))
        if runner is None:
            message = f"round {match['round']} is not under way here: ask the cloud pod"
            await send_json(send, 503, content={"message": message}, close=True)
            return
        connection = runner.connection(match["client"])
        with suppress(ConnectionResetError):
            await carry(scope, receive, send, connection=connection)

    async def _runner_of(self, client: str, number: int) -> SplitRunner | None:
        """Who runs a member's round; a device may come before its edge has the order."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._hold_s):
                while (found := self._runners.get(client)) is None or found.order.round < number:
                    await self._ordered.wait()
                if found.order.round == number and not found.is_dropped:
                    return found
        return None
