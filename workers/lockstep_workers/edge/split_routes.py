"""The route of a device's connection for a round of split training.

Plain ASGI beside the devices' other routes. Invariant: who does not show the key of its session at
the cloud pod gets no connection, and learns nothing.
"""

import re
from collections.abc import Mapping
from contextlib import suppress

from lockstep_api.orders import ClusterOrder
from lockstep_serving import receiving
from lockstep_workers.edge.members import Members
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

    def __init__(self, members: Members, rest: App, *, shop: Shop) -> None:
        """`members` admits."""
        self._members, self._rest, self._shop = members, rest, shop
        self._runners: dict[str, SplitRunner] = {}

    def runner(self, order: ClusterOrder, vectors: Mapping[str, Tensor]) -> SplitRunner:
        """A runner of an order, to which its members are led from now on."""
        made = SplitRunner(order, vectors, shop=self._shop)
        self._runners.update({one.client: made for one in order.members})
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
        runner = self._runners.get(match["client"])
        if runner is None or runner.order.round != int(match["round"]):
            message = f"round {match['round']} is not under way here: ask the cloud pod"
            await send_json(send, 503, content={"message": message}, close=True)
            return
        if (known := scope["extensions"].get(receiving.KNOWN)) is not None:
            known(_REST_S)
        connection = runner.connection(match["client"])
        with suppress(ConnectionResetError):
            await carry(scope, receive, send, connection=connection)
