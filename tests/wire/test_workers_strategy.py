"""A strategy with more than a model: extra vectors down and up, server state, client memory."""

from pathlib import Path

import numpy as np
import torch

from lockstep_api.spec import StrategyName, StrategySpec
from lockstep_api.wire import Task
from lockstep_workers.learning.latest import MEAN, SEEN, SINCE
from lockstep_workers.learning.strategies import build_strategy
from lockstep_workers.learning.strategy import MODEL, NO_MEMORY, LocalPlan, LocalResult
from lockstep_workers.tensors import decode, encode, split
from tests.support.strategies import scaffold
from tests.support.tasks import no_probe
from tests.wire.cloud import Device, cloud, devices, first_task, tasks
from tests.wire.jobs import FakePlanner

PLAN = LocalPlan(round=1, steps=5, learning_rate=0.1, momentum=0.0)


async def test_extra_vectors_travel_and_the_server_keeps_its_own(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=3, choose=lambda _request: ["d-0", "d-1"])
    async with cloud(tmp_path, planner, strategy=scaffold()) as server, devices(server, 3) as made:
        await first_task(made[:2])
        n = server.n_values // 2
        for each, (model, delta) in zip(made, ((1.0, 3.0), (3.0, 6.0)), strict=False):
            body = encode([np.full(n, model, np.float32), np.full(n, delta, np.float32)])
            assert (await each.send(body=body))[0] == 200
        work = await made[0].work(after=1)
        assert work is not None
        received = split(decode(work.body, n_values=2 * n), (MODEL, "c"))
        np.testing.assert_allclose(received[MODEL], 2.0)
        np.testing.assert_allclose(received["c"], 4.5 * 2 / 3, rtol=1e-6)
        kept = server.vectors.state.vectors["last"]
        assert (await made[0].send(2, body=encode([np.zeros(2 * n, np.float32)])))[0] == 200
        np.testing.assert_allclose(kept, 4.5)  # adding the next update does not touch it


async def test_each_vector_of_an_update_has_a_weight_of_its_own(tmp_path: Path) -> None:
    """The model counts by examples, the other vector the same for every client."""
    planner = FakePlanner(rounds=2, choose=lambda _request: ["d-0", "d-1"])
    async with (
        cloud(tmp_path, planner, strategy=scaffold(), examples={"d-1": 30}) as server,
        devices(server, 3) as made,
    ):
        await first_task(made[:2])
        n = server.n_values // 2
        for each, value in ((made[0], 1.0), (made[1], 5.0)):
            body = encode([np.full(n, value, np.float32), np.full(n, value, np.float32)])
            assert (await each.send(body=body))[0] == 200
        work = await made[0].work(after=1)
        assert work is not None
        received = split(decode(work.body, n_values=2 * n), (MODEL, "c"))
        np.testing.assert_allclose(received[MODEL], (10 * 1 + 30 * 5) / 40, rtol=1e-6)
        np.testing.assert_allclose(received["c"], (1 + 5) / 2 * 2 / 3, rtol=1e-6)


async def test_a_device_that_has_lost_its_memory_makes_the_mean_of_gradients_begin_anew(
    tmp_path: Path,
) -> None:
    """From its report, which names no memory although an update of it is in the model."""
    planner = FakePlanner(rounds=4)
    strategy = build_strategy(StrategySpec(name=StrategyName.CALIBRATED), momentum=0.0)
    async with (
        cloud(tmp_path, planner, strategy=strategy, replicas=2) as server,
        devices(server, 2) as made,
    ):
        n = server.n_values // 2

        async def play(number: int, *changes: float, memory: list[int | None]) -> Task:
            for each, change, remembered in zip(made, changes, memory, strict=True):
                body = encode([np.ones(n, np.float32), np.full(n, change, np.float32)])
                answer = await each.send(number, body=body, memory_round=remembered)
                assert answer[0] == 200
            return (await tasks(made, number, of_round=number + 1))[0].task

        def mean() -> float:
            return float(server.vectors.state.vectors[MEAN][0])

        await first_task(made)
        task = await play(1, 1.0, 3.0, memory=[None, None])
        assert (mean(), task.numbers[SINCE], task.base_round) == (2.0, 0.0, 1)
        task = await play(2, 1.0, 5.0, memory=[1, None])
        # d-0's has grown by 1; d-1 is at 5, and in the place of its 3 the mean goes.
        assert (mean(), task.numbers[SINCE]) == ((1 + 3 + 1 + 5 - 2) / 2, 2.0)
        await play(3, 2.0, 6.0, memory=[2, 2])
        assert mean() == (2 + 6) / 2, "both gave all they had"


async def test_updates_that_are_repeated_bad_or_late_leave_the_mean_of_gradients_as_it_is(
    tmp_path: Path,
) -> None:
    strategy = build_strategy(StrategySpec(name=StrategyName.CALIBRATED), momentum=0.0)
    async with (
        cloud(tmp_path, FakePlanner(rounds=3), strategy=strategy, replicas=3) as server,
        devices(server, 3) as made,
    ):
        n = server.n_values // 2

        async def send(each: Device, number: int, change: float) -> int:
            body = encode([np.ones(n, np.float32), np.full(n, change, np.float32)])
            return (await each.send(number, body=body))[0]

        await first_task(made)
        assert await send(made[0], 1, 2.0) == 200
        assert await send(made[0], 1, 50.0) == 409, "repeated"
        assert await send(made[1], 1, float("nan")) == 422, "bad: it is lost to the round"
        assert await send(made[2], 1, 6.0) == 200
        second = [work.task.base_round for work in await tasks(made, 1, of_round=2)]
        assert second == [1, None, 1]
        assert await send(made[0], 1, 50.0) == 409, "late"
        state = server.vectors.state
        np.testing.assert_array_equal(state.vectors[MEAN], (2.0 + 6.0) / 2)
        assert state.numbers == {SINCE: 0.0, SEEN: 20.0}, "examples of the two that count"


def test_a_client_remembers_and_corrects() -> None:
    strategy = scaffold()
    received = {MODEL: torch.ones(3), "c": torch.full((3,), 0.5)}
    part = strategy.begin(received, plan=PLAN, memory=NO_MEMORY, probe=no_probe)
    upload, memory = part.finish(LocalResult(torch.zeros(3), steps=5, examples=1))
    torch.testing.assert_close(memory.vectors["c"], torch.full((3,), 1.5))
    torch.testing.assert_close(upload["delta"], torch.full((3,), 1.5))
    correct = strategy.begin(received, plan=PLAN, memory=memory, probe=no_probe).correct
    assert correct is not None
    gradient = torch.zeros(3)
    correct(torch.ones(3), gradient)
    torch.testing.assert_close(gradient, torch.full((3,), -1.0))
