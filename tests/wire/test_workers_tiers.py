"""Rounds with edges over real sockets, and what becomes of them when somebody goes."""

import asyncio
import http.client
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from lockstep_api import series
from lockstep_api.sessions import Refusal
from lockstep_api.wire import NoticeReason, PlanRequest, RoundReport
from lockstep_workers.errors import NoSession
from lockstep_workers.tensors import Flat, decode
from tests.support.patience import PATIENCE_S
from tests.wire.jobs import FakePlanner
from tests.wire.tiers import Guest, Scene, guests, tiers


async def model_of(scene: Scene, guest: Guest, *, after: int) -> Flat:
    """The model of the round after a turn, as the guest's edge has it."""
    task = await guest.sent(after)
    assert task.edge is not None
    await guest.enter(task.edge)
    work = await guest.fetch(task)
    return decode(work.body, n_values=scene.cloud.n_values)


class Asked:
    """Lets a test wait until the planner was asked for a round."""

    def __init__(self, planner: FakePlanner) -> None:
        self.rounds: dict[int, asyncio.Future[PlanRequest]] = defaultdict(asyncio.Future)
        planner.arrived = self._arrived

    def _arrived(self, request: PlanRequest) -> None:
        if not self.rounds[request.round].done():
            self.rounds[request.round].set_result(request)

    async def report(self, number: int) -> RoundReport:
        """The report of a round, with which the next one is asked for."""
        request = await asyncio.wait_for(self.rounds[number + 1], PATIENCE_S)
        assert request.report is not None
        return request.report


async def test_a_round_goes_over_the_edges_and_comes_back_as_one_mean(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=2)
    async with tiers(tmp_path, planner) as scene, guests(scene, 3) as made:
        tasks = await asyncio.gather(*(guest.play(float(i)) for i, guest in enumerate(made)))
        assert [(t.edge, t.cluster) for t in tasks] == [
            ("e-0", "c0"), ("e-1", "c1"), ("e-0", "c0"),
        ]  # fmt: skip
        turns = [task.turn for task in tasks]
        flat = await model_of(scene, made[0], after=max(turns))
        np.testing.assert_allclose(flat, 1.0, rtol=1e-6)
        request = planner.requests[1]
        assert [one.edge for one in request.edges] == ["e-0", "e-1"]
        told = request.report
        assert told is not None
        assert {one.update.client for one in told.clients} == {"d-0", "d-1", "d-2"}
        assert all(one.asked_steps == 20 for one in told.clients)
        found = [(c.cluster, c.edge, c.tries, c.clients, c.examples) for c in told.clusters]
        assert found == [("c0", "e-0", 1, 2, 20), ("c1", "e-1", 1, 1, 10)]
        assert all(c.up_bytes > 0 and c.down_bytes > 0 for c in told.clusters)
        assert scene.cloud.metric("lockstep_edges_connected") == 2
        assert scene.cloud.metric("lockstep_updates_accepted_total") == 3
        for state in ("connected", "updated"):
            of_group = {"group": "d", "state": state}
            assert scene.cloud.metric(series.GROUP_CLIENTS.queried, **of_group) == 3
        assert scene.edges["e-0"].metric("lockstep_edge_updates_accepted_total") == 2
        assert scene.edges["e-1"].metric("lockstep_edge_orders_total") == 2


async def test_an_edge_that_is_lost_costs_its_own_cluster_s_part_which_another_one_repeats(
    tmp_path: Path,
) -> None:
    planner = FakePlanner(rounds=2)
    async with tiers(tmp_path, planner, replicas=4) as scene, guests(scene, 4) as made:
        await made[1].play(10.0)
        first = await made[0].play(1.0)
        assert first.edge == "e-0"
        await scene.kill("e-0")
        again = await made[0].play(2.0, after=first.turn)
        assert (again.edge, again.cluster, again.round) == ("e-1", "c0", 1)
        assert again.turn > first.turn
        await made[2].play(3.0, after=first.turn)
        await made[3].play(10.0)
        flat = await model_of(scene, made[1], after=again.turn)
        np.testing.assert_allclose(flat, (2 + 3 + 10 + 10) / 4, rtol=1e-6)
        request = planner.requests[1]
        assert [n.message for n in request.notices if n.reason is NoticeReason.EDGE_LOST] == [
            "round 1: edge e-0 is lost: cluster c0 is done again by e-1"
        ]
        assert request.report is not None
        assert [(c.cluster, c.edge, c.tries) for c in request.report.clusters] == [
            ("c0", "e-1", 2), ("c1", "e-1", 1),
        ]  # fmt: skip
        assert request.report.lost == []
        assert scene.cloud.metric("lockstep_clusters_moved_total") == 1


async def test_without_any_edge_the_round_waits_for_one_to_come_back(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=2)
    async with tiers(tmp_path, planner, edges=1) as scene, guests(scene, 3) as made:
        first = await made[0].play(1.0)
        await scene.kill("e-0")
        poll = asyncio.ensure_future(made[0].work(after=first.turn))
        done, _ = await asyncio.wait({poll}, timeout=0.2)
        assert not done, "there is nowhere to go"
        await scene.start("e-0")
        work = await asyncio.wait_for(poll, PATIENCE_S)
        assert work is not None
        await asyncio.gather(*(guest.play(2.0, after=first.turn) for guest in made))
        flat = await model_of(scene, made[1], after=work.task.turn)
        np.testing.assert_allclose(flat, 2.0, rtol=1e-6)
        messages = [notice.message for notice in planner.requests[1].notices]
        assert "round 1: edge e-0 is lost: cluster c0 waits for an edge" in messages


async def test_a_device_that_leaves_the_job_is_lost_by_word_of_its_edge(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=2)
    asked = Asked(planner)
    async with tiers(tmp_path, planner) as scene, guests(scene, 3) as made:
        await made[0].play(1.0)
        await made[1].play(3.0)
        made[2].close()
        told = await asked.report(1)
        assert told.lost == ["d-2"]
        assert {one.update.client for one in told.clients} == {"d-0", "d-1"}


async def test_a_broken_connection_to_the_edge_alone_loses_nobody(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=2)
    asked = Asked(planner)
    async with tiers(tmp_path, planner) as scene, guests(scene, 3) as made:
        task = await made[0].sent()
        assert task.edge is not None
        await made[0].enter(task.edge)
        await made[0].fetch(task)
        made[0].at.close()
        await asyncio.gather(*(guest.play(1.0) for guest in made))
        told = await asked.report(1)
        assert told.lost == []


async def test_a_deterministic_round_tells_the_edge_of_a_device_that_starts_anew(
    tmp_path: Path,
) -> None:
    """Its new key opens a session there, its old one does not any more."""
    planner = FakePlanner(rounds=2)
    asked = Asked(planner)
    async with tiers(tmp_path, planner, deterministic=True) as scene, guests(scene, 3) as made:
        task = await made[0].sent()
        assert task.edge is not None
        old = made[0].key
        made[0].close()
        again = Guest(scene, "d-0")
        await again.open()
        assert again.key != old
        await again.play(1.0)  # with its new key, which the edge has heard of by then
        with pytest.raises(http.client.HTTPException, match="409"):
            await again.enter(task.edge, key=old)
        await asyncio.gather(*(guest.play(1.0) for guest in made[1:]))
        told = await asked.report(1)
        assert told.lost == []
        again.close()


async def test_after_the_deadline_edges_close_once_the_quorum_is_in_anywhere(
    tmp_path: Path,
) -> None:
    planner = FakePlanner(rounds=2, quorum=2, deadline_seconds=1.0)
    asked = Asked(planner)
    told = {"quorum": 2, "roundDeadlineSeconds": 1.0}
    async with (
        tiers(tmp_path, planner, participation=told) as scene,
        guests(scene, 3) as made,
    ):
        await made[0].play(1.0)
        await made[1].play(3.0)
        said = await asked.report(1)
        assert said.lost == ["d-2"]
        assert len(said.clusters) == 2


async def test_bad_updates_are_refused_at_the_edge_and_counted_at_the_cloud_pod(
    tmp_path: Path,
) -> None:
    planner = FakePlanner(rounds=2)
    asked = Asked(planner)
    async with tiers(tmp_path, planner) as scene, guests(scene, 3) as made:
        task = await made[0].sent()
        assert task.edge is not None
        await made[0].enter(task.edge)
        await made[0].fetch(task)
        answer = await made[0].bring(task, float("nan"))
        assert answer.reason == "non_finite"
        await asyncio.gather(*(guest.play(1.0) for guest in made[1:]))
        told = await asked.report(1)
        assert told.lost == ["d-0"]
        assert told.refused == {"non_finite": 1}
        labels = {"reason": "non_finite"}
        edge = scene.edges[task.edge]
        assert edge.metric("lockstep_edge_updates_refused_total", **labels) == 1


async def test_when_every_update_is_bad_the_round_is_repeated_and_then_the_job_fails(
    tmp_path: Path,
) -> None:
    planner = FakePlanner(rounds=2)

    async def bring(guest: Guest) -> None:
        after = 0
        for _ in range(3):
            task = await guest.sent(after)
            assert task.edge is not None
            await guest.enter(task.edge)
            await guest.fetch(task)
            assert not (await guest.bring(task, float("inf"))).accepted
            after = task.turn

    async with tiers(tmp_path, planner, replicas=2) as scene, guests(scene, 2) as made:
        await asyncio.gather(*map(bring, made))
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
    assert outcome.result == "Failed"
    assert "round 1: all updates were refused" in outcome.message
    assert "(tried 3 times)" in outcome.message


async def test_a_result_that_is_refused_leaves_no_round_waiting_for_its_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edge says that there is nothing in it; after three tries the job fails with the words."""
    monkeypatch.setattr("lockstep_workers.edge.averaging.SUMS", "other")
    planner = FakePlanner(rounds=2)

    async def play(guest: Guest) -> None:
        after = 0
        for _ in range(3):
            after = (await guest.play(1.0, after=after)).turn

    async with tiers(tmp_path, planner, replicas=2) as scene, guests(scene, 2) as made:
        await asyncio.gather(*map(play, made))
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        assert scene.cloud.refused(Refusal.SHAPE) == 6
    assert outcome.result == "Failed"
    assert "the result was refused (shape): the result must hold one tensor" in outcome.message


async def test_an_edge_without_the_cloud_pod_lets_its_devices_go(tmp_path: Path) -> None:
    """They ask the cloud pod again, which knows where their work is."""
    planner = FakePlanner(rounds=2)
    async with tiers(tmp_path, planner) as scene, guests(scene, 3) as made:
        task = await made[0].sent()
        assert task.edge is not None
        await made[0].enter(task.edge)
        await made[0].fetch(task)
        poll = asyncio.ensure_future(made[0].fetch(task.model_copy(update={"turn": 99})))
        tiered = scene.cloud.rounds.tiers
        assert tiered is not None
        session = tiered._sessions.by_client[task.edge]
        tiered.close_session(session)
        session.over.set()
        with pytest.raises(NoSession):
            await asyncio.wait_for(poll, PATIENCE_S)
        again = await made[0].play(1.0, after=task.turn)
        assert again.turn > task.turn


async def test_an_edge_holds_a_poll_for_a_while_only(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=2)
    asked = Asked(planner)
    async with tiers(tmp_path, planner) as scene, guests(scene, 3) as made:
        task = await made[0].play(1.0)
        with pytest.raises(NoSession, match="ask the cloud pod"):
            await made[0].fetch(task)
        await asyncio.gather(*(guest.play(1.0) for guest in made[1:]))
        assert (await asked.report(1)).lost == []


async def test_the_job_waits_for_its_edges(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=1)
    async with tiers(tmp_path, planner) as scene:
        await scene.kill("e-0")
        await scene.kill("e-1")
        async with guests(scene, 3) as made:
            await scene.start("e-1")
            assert planner.asked == 0
            await scene.start("e-0")
            await asyncio.gather(*(guest.play(1.0) for guest in made))
            outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
            assert outcome.result == "RoundsCompleted"
            for edge in scene.edges.values():
                await asyncio.wait_for(edge.keeping, PATIENCE_S)
