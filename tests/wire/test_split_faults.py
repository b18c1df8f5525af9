"""What goes wrong in split rounds, over real sockets: devices, frames, user code, deadlines."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from lockstep_api.sessions import Refusal, key_at_edge
from lockstep_workers.device import split_round
from lockstep_workers.device.split_connection import open_split
from lockstep_workers.edge.running import ClusterOutcome
from lockstep_workers.edge.split_work import FRONT
from lockstep_workers.edge.splitting import SplitRunner
from lockstep_workers.errors import InvalidJob, NoSession
from lockstep_workers.learning.cluster_training import ClusterTraining
from lockstep_workers.split_frames import Flat, Shape
from tests.support.patience import PATIENCE_S
from tests.support.split_clusters import (
    SplitDevice,
    SplitEdge,
    a_cluster,
    broken_once,
    key_of,
    order_of,
    play_cluster,
    play_round,
    same,
    start_of,
    watching,
)
from tests.wire.jobs import serving
from tests.wire.split import a_job, edge_of


async def test_a_device_that_comes_back_joins_at_the_next_step(tmp_path: Path) -> None:
    job = a_job(tmp_path, deterministic=False)
    edge, back, steps = edge_of(job), threading.Event(), [0, 0]
    breaks = broken_once("before", "send_activations", after=1)

    def returning(when: str, name: str) -> None:
        steps[1] += name == "opened"
        if steps[1] == 2:
            back.set()
        breaks(when, name)

    def waiting(when: str, name: str) -> None:
        steps[0] += (when, name) == ("before", "send_activations")
        if steps[0] == 3:
            assert back.wait(PATIENCE_S)

    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order = order_of(job, dataset, steps=5)
        with watching({"d-0": waiting, "d-1": returning}):
            done = await play_round(edge, order, start_of(job), devices=devices)
    assert done.result.lost == {}
    assert [one.update.client for one in done.result.clients] == ["d-0", "d-1", "d-2"]
    assert done.result.report.missed in {1, 2}
    assert done.result.report.steps == 5


async def test_a_frame_that_is_not_finite_costs_its_device_the_round_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(tmp_path)
    edge = edge_of(job)

    def opened(url: str, name: str, **more: Any) -> Any:
        made: Any = open_split(url, name, **more)
        if name == "d-1":
            send = made.send_activations

            def spoilt(step: int, values: Flat, **rest: Any) -> None:
                send(step, values * np.float32(np.nan), **rest)

            made.send_activations = spoilt
        return made

    monkeypatch.setattr(split_round, "open_split", opened)
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order = order_of(job, dataset, steps=2)
        done = (await play_round(edge, order, start_of(job), devices=devices)).result
    assert [one.update.client for one in done.clients] == ["d-0", "d-2"]
    assert list(done.lost) == done.rejected == ["d-1"]
    assert "not finite" in done.lost["d-1"]
    assert done.refused == {Refusal.NON_FINITE: 1}
    assert edge.refused == [Refusal.NON_FINITE]


async def test_an_error_of_the_users_back_half_says_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(tmp_path)
    edge = edge_of(job)

    def broken(*_given: Any) -> None:
        raise ZeroDivisionError("of the user's")

    monkeypatch.setattr(ClusterTraining, "step", broken)
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order = order_of(job, dataset, steps=2)
        running = asyncio.ensure_future(edge.runner(order, start_of(job)).run())
        playing = [asyncio.ensure_future(one_try(one, order)) for one in devices]
        what = (
            "the back half, in step 1 of round 1, cluster c0 at edge e-0, raised .*"
            "ZeroDivisionError.*of the user's"
        )
        with pytest.raises(InvalidJob, match=what):
            await running
        assert await asyncio.gather(*playing) == [False] * 3  # they ask the cloud pod again


async def one_try(device: SplitDevice, order: Any) -> bool:
    """A device's part over one connection."""
    return await asyncio.to_thread(device.play, order, until=lambda: False)


async def test_probes_are_answered_while_a_back_half_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(tmp_path)
    edge, runs, may_end = edge_of(job), threading.Event(), threading.Event()
    step = ClusterTraining.step

    def slow(training: ClusterTraining, present: Any) -> Any:
        runs.set()
        assert may_end.wait(PATIENCE_S)
        return step(training, present)

    monkeypatch.setattr(ClusterTraining, "step", slow)
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
        httpx2.AsyncClient() as http,
    ):
        order = order_of(job, dataset, steps=1)
        playing = asyncio.ensure_future(play_round(edge, order, start_of(job), devices=devices))
        await asyncio.to_thread(runs.wait, PATIENCE_S)
        answer = await http.get(f"{job.edge_urls['e-0']}/v1/nothing")
        assert not may_end.is_set()
        may_end.set()
        await playing
    assert answer.status_code == 404, "an answer, at once"


async def test_after_the_deadline_a_cluster_closes_with_its_quorum_and_the_steps_done(
    tmp_path: Path,
) -> None:
    job = a_job(tmp_path)
    edge = edge_of(job)
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order = order_of(job, dataset, steps=4, quorum=2, deadline_seconds=0.0)
        done = (await play_round(edge, order, start_of(job), devices=devices[:2])).result
    assert [one.update.client for one in done.clients] == ["d-0", "d-1"]
    assert done.lost == {"d-2": "it never came to its edge"}
    assert done.report.steps == 1


async def test_who_is_no_member_or_comes_for_another_round_gets_no_connection(
    tmp_path: Path,
) -> None:
    job = a_job(tmp_path)
    edge = edge_of(job)
    edge.members.hold_s = 0.0
    url = job.edge_urls["e-0"]

    def ask(client: str, key: str, number: int) -> None:
        shape = Shape(round=number, rows=1, values=8, front_values=1, wire=job.split.wire_dtype)  # type: ignore[union-attr]
        open_split(url, client, key=key, shape=shape).close()

    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, _),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        edge.runner(order_of(job, dataset, steps=1), start_of(job))
        for client, key in (
            ("d-0", ""),
            ("d-0", key_of("d-0")),
            ("d-0", key_at_edge(key_of("d-0"), "e-1")),
            ("d-0", key_at_edge(key_of("d-1"), "e-0")),
            ("x-0", key_at_edge(key_of("x-0"), "e-0")),
        ):
            with pytest.raises(NoSession, match="ask the cloud pod"):
                await asyncio.to_thread(ask, client, key, 1)
        with pytest.raises(Exception, match=r"503: .*round 7 is not under way here"):
            await asyncio.to_thread(ask, "d-0", key_at_edge(key_of("d-0"), "e-0"), 7)


async def test_a_device_whose_end_was_not_answered_is_told_that_it_counts(tmp_path: Path) -> None:
    job = a_job(tmp_path)
    edge = edge_of(job)
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order, start = order_of(job, dataset, steps=2), start_of(job)
        with watching({"d-1": broken_once("after", "end", after=0)}):
            done = await ended(edge, order, start, devices=devices)
        alone, _ = play_cluster(job, order, start, dataset=dataset)
    assert same(done.tensors[FRONT], alone.vectors.front)
    assert devices[1].account.untold.model is None


async def ended(
    edge: SplitEdge, order: Any, start: Any, *, devices: list[SplitDevice]
) -> ClusterOutcome:
    """A round in which every device goes on until it is told that its part is over."""
    running = asyncio.ensure_future(edge.runner(order, start).run())
    told = await asyncio.gather(*(asyncio.to_thread(one.play, order) for one in devices))
    assert told == [True] * len(devices)
    return await running


async def test_a_device_may_come_before_its_edge_has_the_order(tmp_path: Path) -> None:
    """Of round 2, whose members' keys the edge knows from round 1 already."""
    job = a_job(tmp_path)
    edge = edge_of(job, hold_s=PATIENCE_S)
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order, start = order_of(job, dataset, steps=1), start_of(job)
        await ended(edge, order, start, devices=devices)
        later = order.model_copy(update={"round": 2, "turn": 2})
        early = asyncio.ensure_future(one_try(devices[0], later))
        done, _ = await asyncio.wait({early}, timeout=0.3)
        assert not done
        await asyncio.gather(
            edge.runner(later, start).run(), *(one_try(one, later) for one in devices[1:])
        )
        assert await early


async def test_devices_of_a_cluster_that_was_taken_away_ask_the_cloud_pod_again(
    tmp_path: Path,
) -> None:
    job = a_job(tmp_path)
    edge = edge_of(job)
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order = order_of(job, dataset, steps=2)
        runner = edge.runner(order, start_of(job))
        running = asyncio.ensure_future(runner.run())
        playing = asyncio.ensure_future(one_try(devices[0], order))
        async with edge_sees(runner):
            running.cancel()
        assert not await playing
        assert not await one_try(devices[1], order)  # answered 503: it may come again


@asynccontextmanager
async def edge_sees(runner: SplitRunner) -> AsyncIterator[None]:
    """Waits until a member is here."""
    seats = list(runner._seats.values())
    coming = [asyncio.ensure_future(seat.here()) for seat in seats]
    await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
    yield
    for each in coming:
        each.cancel()
