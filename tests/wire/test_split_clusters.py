"""Rounds of a cluster over real sockets: an edge's runner, and devices' split rounds in threads."""

import asyncio
import time
from pathlib import Path

import pytest

from lockstep_api.spec import FrontUpdate, WireDtype
from lockstep_workers.edge.split_work import BACK, FRONT
from tests.support.patience import PATIENCE_S
from tests.support.split_clusters import (
    a_cluster,
    breaking,
    broken_once,
    order_of,
    play_cluster,
    play_round,
    same,
    start_of,
)
from tests.wire.jobs import serving
from tests.wire.split import a_job, edge_of


@pytest.mark.parametrize("update", list(FrontUpdate))
@pytest.mark.parametrize("wire", list(WireDtype))
async def test_a_cluster_over_sockets_comes_to_the_same_bits_as_in_one_process(
    tmp_path: Path, wire: WireDtype, update: FrontUpdate
) -> None:
    job = a_job(tmp_path, wire_dtype=wire, front_update=update)
    edge = edge_of(job)
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order, start = order_of(job, dataset, steps=4), start_of(job)
        done = await play_round(edge, order, start, devices=devices)
        alone, _ = play_cluster(job, order, start, dataset=dataset)
    assert same(done.tensors[FRONT], alone.vectors.front)
    assert same(done.tensors[BACK], alone.vectors.back)
    front = done.tensors[FRONT]
    assert not same(front, start[: front.size])
    assert not same(done.tensors[BACK], start[front.size :])
    told = done.result
    assert [one.update.client for one in told.clients] == ["d-0", "d-1", "d-2"]
    assert (told.lost, told.refused, told.report.missed) == ({}, {}, 0)
    assert (told.report.steps, told.report.samples) == (4, 4 * (8 + 10 + 12))
    assert [one.update.samples for one in told.clients] == [32, 40, 48]


BROKEN = [
    ("before", "receive_front", 0), ("before", "receive_front", 2), ("after", "receive_front", 1),
    ("after", "send_activations", 0), ("after", "send_activations", 3),
    ("after", "receive_gradient", 1), ("after", "send_front_gradient", 0),
    ("after", "send_front_gradient", 3), ("before", "end", 0), ("after", "end", 0),
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=str)
async def test_a_patient_cluster_comes_to_the_same_bits_wherever_a_connection_breaks(
    tmp_path: Path, broken: tuple[str, str, int]
) -> None:
    job = a_job(tmp_path)
    edge = edge_of(job)
    when, name, after = broken
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order, start = order_of(job, dataset, steps=4), start_of(job)
        with breaking("d-1", broken_once(when, name, after=after)):
            done = await play_round(edge, order, start, devices=devices)
        alone, _ = play_cluster(job, order, start, dataset=dataset)
    assert same(done.tensors[FRONT], alone.vectors.front)
    assert same(done.tensors[BACK], alone.vectors.back)
    assert (done.result.lost, done.result.report.missed) == ({}, 0)
    assert len(done.result.clients) == 3


@pytest.mark.parametrize("broken", [("after", "receive_gradient", 1), ("before", "end", 0)])
async def test_a_patient_cluster_whose_devices_step_their_fronts_begins_anew_when_one_is_lost(
    tmp_path: Path, broken: tuple[str, str, int]
) -> None:
    job = a_job(tmp_path, front_update=FrontUpdate.ROUND)
    edge = edge_of(job)
    when, name, after = broken
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order, start = order_of(job, dataset, steps=4), start_of(job)
        with breaking("d-1", broken_once(when, name, after=after)):
            done = await play_round(edge, order, start, devices=devices)
        alone, _ = play_cluster(job, order, start, dataset=dataset)
    assert same(done.tensors[FRONT], alone.vectors.front)
    assert same(done.tensors[BACK], alone.vectors.back)
    assert done.result.lost == {}


async def test_a_device_that_dies_costs_its_cluster_one_step_and_is_reported(
    tmp_path: Path,
) -> None:
    job = a_job(tmp_path, deterministic=False)
    edge = edge_of(job)
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order, start = order_of(job, dataset, steps=5), start_of(job)
        running = asyncio.ensure_future(edge.runner(order, start).run())
        with breaking("d-1", broken_once("after", "send_activations", after=2)):
            others = [
                asyncio.ensure_future(asyncio.to_thread(one.play, order))
                for one in (devices[0], devices[2])
            ]
            assert not await asyncio.to_thread(devices[1].play, order, until=lambda: False)
        await asyncio.gather(*others)
        done = (await running).result
    assert [one.update.client for one in done.clients] == ["d-0", "d-2"]
    assert done.lost == {"d-1": "it was gone at the end of the round"}
    assert done.report.steps == 5
    assert done.report.missed == 2
    assert done.report.examples == sum(one.update.examples for one in done.clients)


async def test_a_device_accounts_for_its_waiting_and_its_sending_too(tmp_path: Path) -> None:
    """What it is on for, from its first connection to its end; and its radio, while it sends."""
    job = a_job(tmp_path)
    (group,) = job.groups
    watts = {"idle_watts": 7.0, "transmit_watts": 3.0, "kappa": 0.0}
    job = job.model_copy(update={"groups": (group.model_copy(update=watts),)})
    edge = edge_of(job)
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, devices),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        order, start = order_of(job, dataset, steps=3), start_of(job)
        began_s = time.monotonic()
        done = await play_round(edge, order, start, devices=devices)
        took_s = time.monotonic() - began_s
    for one in done.result.clients:
        update = one.update
        moved = update.moved
        assert moved is not None
        assert update.energy_joules.model is not None
        sending_j = 3.0 * moved.up_seconds
        least_s = update.compute_seconds + moved.wait_seconds + moved.up_seconds
        assert 7.0 * least_s <= update.energy_joules.model - sending_j + 1e-6
        assert update.energy_joules.model - sending_j <= 7.0 * took_s + 1e-6
