"""Namespaces take turns at what only one pass at a time may do."""

import asyncio
from collections.abc import Iterable

import pytest

from lockstep_operator.fair import FairLock


async def order_of(waiting: Iterable[str], *, gone: Iterable[int] = ()) -> list[str]:
    """Who had the lock one after another, that waited for it in this order; some gave up."""
    lock, had = FairLock(), []

    async def take(number: int, namespace: str) -> None:
        async with lock.of(namespace):
            had.append(f"{namespace}{number}")
            await asyncio.sleep(0)

    async with lock.of("first"):
        tasks = [asyncio.create_task(take(*one)) for one in enumerate(waiting)]
        await asyncio.sleep(0)
        for number in gone:
            tasks[number].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5), lock.of("last"):
        return had


@pytest.mark.parametrize(
    ("waiting", "had"),
    [
        ("aaaab", "a0 b4 a1 a2 a3"),
        ("aaabbc", "a0 b3 c5 a1 b4 a2"),
        ("abab", "a0 b1 a2 b3"),
    ],
)
async def test_a_namespace_waits_once_for_each_of_the_others(waiting: str, had: str) -> None:
    assert " ".join(await order_of(waiting)) == had


async def test_who_gives_up_keeps_nobody_waiting() -> None:
    assert await order_of("aaab", gone=[0, 3]) == ["a1", "a2"]


async def test_a_turn_that_comes_to_one_who_gives_up_goes_to_the_next() -> None:
    lock = FairLock()

    async def take() -> None:
        async with lock.of("a"):
            pass

    async with lock.of("a"):
        gone, next_one = asyncio.create_task(take()), asyncio.create_task(take())
        await asyncio.sleep(0)
    gone.cancel()  # its turn has been given, and it has not run yet
    async with asyncio.timeout(5):
        await next_one
    assert gone.cancelled()


async def test_a_pass_that_fails_leaves_it_free() -> None:
    lock = FairLock()
    with pytest.raises(ValueError, match="a pass"):
        async with lock.of("a"):
            raise ValueError("a pass")
    async with asyncio.timeout(5), lock.of("b"):
        pass
