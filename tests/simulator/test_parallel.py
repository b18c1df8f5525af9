"""Tasks in processes: pieces as they come, failures that stay alone, the same for any number."""

import os
from collections.abc import Iterator

import pytest

from lockstep_simulator.parallel import Came, Event, Over, tasks_in_processes


def doubled(task: int) -> Iterator[int]:
    """Gives two pieces; 13 raises between them, 14 takes its process along."""
    yield 2 * task
    if task == 13:
        raise ValueError("thirteen\nis not doubled")
    if task == 14:
        os._exit(5)
    yield 2 * task + 1


def came(events: list[Event], task: int) -> list[int]:
    return [one.piece for one in events if isinstance(one, Came) and one.task == task]


@pytest.mark.parametrize("parallel", [1, 3])
def test_each_task_gives_its_pieces_in_order(parallel: int) -> None:
    events = list(tasks_in_processes(doubled, [1, 2, 3, 4], parallel=parallel))
    assert [came(events, task) for task in range(4)] == [[2, 3], [4, 5], [6, 7], [8, 9]]
    assert {one.task for one in events if one == Over(one.task)} == {0, 1, 2, 3}


def test_a_task_that_raises_or_takes_its_process_along_fails_alone() -> None:
    events = list(tasks_in_processes(doubled, [1, 13, 14, 4], parallel=2))
    over = {one.task: one.error for one in events if isinstance(one, Over)}
    assert over == {
        0: None,
        1: "thirteen; is not doubled",
        2: "its process died (exit code 5)",
        3: None,
    }
    assert came(events, 3) == [8, 9]


def test_one_process_after_another_serves_many_tasks() -> None:
    events = list(tasks_in_processes(whose, list(range(5)), parallel=1))
    assert len({one.piece for one in events if isinstance(one, Came)}) == 1


def whose(_task: int) -> Iterator[int]:
    yield os.getpid()


def test_who_stops_listening_leaves_no_process() -> None:
    events = tasks_in_processes(endless, [1, 2], parallel=2)
    first = next(events)
    assert isinstance(first, Came)
    events.close()  # type: ignore[attr-defined]  # a generator
    with pytest.raises(ProcessLookupError):
        os.kill(first.piece, 0)


def endless(_task: int) -> Iterator[int]:
    while True:
        yield os.getpid()
