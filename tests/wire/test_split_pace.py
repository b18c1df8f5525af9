"""How long the steps of a device last: as its frequency and its link say, measured."""

import asyncio
from pathlib import Path

import pytest

from lockstep_allocator.bandwidth import Trace
from lockstep_api.spec import Model
from lockstep_workers.device.link import Link, Links
from tests.support.patience import PATIENCE_S
from tests.support.split_clusters import SplitDevice, a_cluster, order_of, play_round, start_of
from tests.wire.jobs import serving
from tests.wire.split import a_job, edge_of

CORES, MBPS, STEPS = 0.2, 40.0, 15
TIMES = 5


@pytest.mark.cores
async def test_a_step_lasts_as_long_as_its_work_at_its_frequency_and_its_transfers(
    tmp_path: Path,
) -> None:
    """No less than that; and no more, but where the machine had no core for the device."""
    stretches, frequencies = [], []
    for number in range(TIMES):
        folder = tmp_path / str(number)
        folder.mkdir()
        stretch, ghz = await a_round(folder)
        stretches.append(stretch)
        frequencies.append(ghz)
    assert min(stretches) == pytest.approx(1.0, rel=0.1)
    assert max(frequencies) == pytest.approx(2.0 * CORES / 0.5, rel=0.1)


async def a_round(tmp_path: Path) -> tuple[float, float]:
    """How much longer its steps took than its work and its transfers; and its frequency in GHz."""
    job = a_job(tmp_path, replicas=1).model_copy(update={"model": Model(name="cnn")})
    edge, link = edge_of(job), Link(Trace.constant(MBPS))
    async with (
        asyncio.timeout(PATIENCE_S),
        a_cluster(job, tmp_path) as (dataset, _),
        serving(edge.routes, edge.port, config=edge.config()),
    ):
        device = SplitDevice(
            job, "d-0", dataset=dataset, folder=tmp_path, links=Links(link, link),
            throttle_milli=round(1000 * CORES),
        )  # fmt: skip
        order = order_of(job, dataset, steps=STEPS, batch_size=32, cut="3")
        done = await play_round(edge, order, start_of(job), devices=[device])
    (told,) = done.result.clients
    update, moved = told.update, told.update.moved
    assert moved is not None
    work_s = update.cpu_seconds / CORES
    transfer_s = 8e-6 * (moved.up_bytes + moved.down_bytes) / MBPS
    took_s = update.compute_seconds + moved.up_seconds + moved.down_seconds
    of_a_step = [1e3 * seconds / STEPS for seconds in (took_s, work_s, transfer_s)]
    print("a step: {:.1f} ms; W/f {:.1f} ms + transfer {:.1f} ms".format(*of_a_step))
    return took_s / (work_s + transfer_s), update.frequency_ghz
