"""A strategy with more than a model: extra vectors down and up, server state, client memory."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lockstep_workers.learning.strategies import (
    MODEL,
    ClientMemory,
    Correction,
    LocalResult,
    ServerState,
    Strategy,
    Totals,
    Vector,
)
from lockstep_workers.tensors import decode, encode, split
from tests.wire.cloud import cloud, devices, first_task
from tests.wire.jobs import FakePlanner

RATE = 0.1


def scaffold() -> Strategy:
    """SCAFFOLD, option II (Karimireddy et al. 2020), and a vector that the server keeps."""

    def start(model: Vector) -> ServerState:
        return ServerState({MODEL: model, "c": np.zeros_like(model), "last": np.zeros_like(model)})

    def begin(received: Mapping[str, Tensor], memory: ClientMemory) -> Correction:
        own = memory.vectors.get("c", torch.zeros_like(received["c"]))

        def correct(_weights: Tensor, gradient: Tensor) -> None:
            gradient.add_(received["c"] - own)

        return correct

    def finish(
        received: Mapping[str, Tensor], result: LocalResult, memory: ClientMemory
    ) -> tuple[Mapping[str, Tensor], ClientMemory]:
        own = memory.vectors.get("c", torch.zeros_like(received["c"]))
        moved = (received[MODEL] - result.weights) / (result.steps * RATE)
        new = own - received["c"] + moved
        return {MODEL: result.weights, "delta": new - own}, ClientMemory({"c": new})

    def weigh(*, examples: int, steps: int) -> float:
        return 1.0

    def aggregate(state: ServerState, mean: Mapping[str, Vector], totals: Totals) -> ServerState:
        c = state.vectors["c"] + mean["delta"] * (totals.accepted / totals.clients)
        return ServerState({MODEL: mean[MODEL], "c": c, "last": mean["delta"]})

    return Strategy((MODEL, "c"), (MODEL, "delta"), start, begin, finish, weigh, aggregate)


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


def test_a_client_remembers_and_corrects() -> None:
    strategy = scaffold()
    received = {MODEL: torch.ones(3), "c": torch.full((3,), 0.5)}
    upload, memory = strategy.finish(
        received, LocalResult(torch.zeros(3), steps=5, examples=1), ClientMemory({})
    )
    torch.testing.assert_close(memory.vectors["c"], torch.full((3,), 1.5))
    torch.testing.assert_close(upload["delta"], torch.full((3,), 1.5))
    correct = strategy.begin(received, memory)
    assert correct is not None
    gradient = torch.zeros(3)
    correct(torch.ones(3), gradient)
    torch.testing.assert_close(gradient, torch.full((3,), -1.0))
