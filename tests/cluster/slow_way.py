"""A program: passes TCP on, and holds what callers send for some seconds: a slow apiserver.

    python slow_way.py HOST:PORT TARGET:PORT FILE

FILE has the seconds, and may change at any time. `lifecycle` starts it in the first node. TLS goes
through as it is, so a call on a connection that is there takes so much longer, one on a new
connection twice that. It needs nothing but Python.
"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

Address = tuple[str, int]
_PIECE_BYTES = 1 << 16
_MOST_HELD = 256
"""Pieces of a connection; a caller that sends more waits."""


def address_of(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def serve(at: Address, target: Address, *, delay_s: Callable[[], float]) -> asyncio.Server:
    """Passes on from now on."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind, ahead = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        ways = (_held(reader, ahead, delay_s=delay_s), _passed(behind, writer))
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for end in (ahead, writer):
                end.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    return await asyncio.start_server(connected, *at)


async def _passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()


async def _held(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delay_s: Callable[[], float]
) -> None:
    """Every piece so much later than it came, in order."""
    now = asyncio.get_running_loop().time
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_HELD)

    async def take() -> None:
        while piece := await reader.read(_PIECE_BYTES):
            await queue.put((now() + delay_s(), piece))
        await queue.put((now(), b""))

    async with asyncio.TaskGroup() as group:
        group.create_task(take())
        while True:
            due_s, piece = await queue.get()
            await asyncio.sleep(due_s - now())
            if not piece:
                return
            writer.write(piece)
            await writer.drain()


async def _main(at: str, target: str, *, file: str) -> None:
    def delay_s() -> float:
        return float(Path(file).read_text())

    server = await serve(address_of(at), address_of(target), delay_s=delay_s)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], file=sys.argv[3]))
