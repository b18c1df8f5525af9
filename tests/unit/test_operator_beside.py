"""Work in threads, of which one namespace has one at a time, whoever has given it up."""

import asyncio
import threading

import pytest

from lockstep_operator.beside import Beside


class Piece:
    """Work that a test lets end."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, answer: int) -> int:
        self.begun.set()
        assert self.may_end.wait(5)
        return answer


async def begun(piece: Piece) -> None:
    assert await asyncio.to_thread(piece.begun.wait, 5)


async def test_a_namespace_has_one_piece_at_a_time_and_keeps_no_other_waiting() -> None:
    beside, first, second, other = Beside(), Piece(), Piece(), Piece()
    other.may_end.set()
    tasks = [asyncio.create_task(beside.run("a", piece, 1)) for piece in (first, second)]
    await begun(first)
    assert await beside.run("b", other, 2) == 2
    assert not second.begun.is_set()
    first.may_end.set()
    second.may_end.set()
    assert await asyncio.gather(*tasks) == [1, 1]
    assert not beside._newest, "a namespace without work is forgotten"


@pytest.mark.parametrize("given_up", [[0], [0, 1]], ids=["at work", "and one that waits"])
async def test_a_thread_that_nobody_waits_for_counts_to_its_end(given_up: list[int]) -> None:
    beside, first, second, third = Beside(), Piece(), Piece(), Piece()
    pieces = (first, second, third)
    tasks = [asyncio.create_task(beside.run("a", piece, 1)) for piece in pieces]
    await begun(first)
    for number in given_up:
        tasks[number].cancel()
    await asyncio.wait([tasks[number] for number in given_up])
    assert not second.begun.is_set()
    assert not third.begun.is_set()
    for piece in pieces:
        piece.may_end.set()
    assert await tasks[2] == 1
    assert second.begun.is_set() == (1 not in given_up)


async def test_what_fails_is_told_and_ends() -> None:
    beside = Beside()
    with pytest.raises(ZeroDivisionError):
        await beside.run("a", lambda: 1 // 0)
    assert await beside.run("a", lambda: 1) == 1
