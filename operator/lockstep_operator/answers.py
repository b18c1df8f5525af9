"""Answers of servers that say what others have written: read within a bound, never to any end."""

import aiohttp


async def read_at_most(answer: aiohttp.ClientResponse, most: int) -> bytes | None:
    """The whole body; None: it has more bytes than these, and no more of it is read."""
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > most:
            answer.close()
            return None
    return bytes(body)
