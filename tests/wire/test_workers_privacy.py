"""A cloud pod whose job hides its clients: what it counts, and what it goes on from."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep_api.privacy import PrivacyPlan
from lockstep_api.records import RoundRecord
from lockstep_api.spec import Privacy
from lockstep_api.wire import Outcome, PlanRequest
from lockstep_workers.cloud.checkpoint import checkpoints
from lockstep_workers.cloud.store import LEDGER_FILE, Store
from lockstep_workers.learning.ledger import Ledger
from lockstep_workers.learning.strategy import MODEL
from tests.support.patience import PATIENCE_S
from tests.wire.cloud import Cloud, Device, cloud, devices
from tests.wire.jobs import FakePlanner

PRIVACY = Privacy(clip_norm=0.5, noise_multiplier=0.01)


def account(*, most: int | None = None, known: int = 0) -> Any:
    """A planner's answers: ε is ten times the rounds; `known` ones are in the job's status."""

    def told(request: PlanRequest) -> PrivacyPlan:
        counted = request.private_rounds or 0
        least = 0 if counted >= known else known + 1
        rounds = max(counted, least)
        return PrivacyPlan(
            rounds=rounds,
            epsilon=10 * rounds,
            epsilon_after=10 * rounds + 10,
            delta=0.01,
            most_rounds=most,
            least_rounds=least,
        )

    return told


@dataclass
class Planner(FakePlanner):
    """A planner of a private job, whose requests can be waited for."""

    heard: "asyncio.Queue[PlanRequest]" = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        """Hears all requests."""
        super().__post_init__()
        self.arrived = self.heard.put_nowait

    async def told(self) -> int | None:
        """The rounds that count, as the next request says."""
        return (await asyncio.wait_for(self.heard.get(), PATIENCE_S)).private_rounds


def planner(rounds: int = 9, **more: Any) -> Planner:
    """A planner of a private job."""
    return Planner(rounds=rounds, account=account(**more))


async def play(made: list[Device], number: int) -> None:
    """A round in which each device sends an update."""
    works = await asyncio.wait_for(
        asyncio.gather(*(each.work(after=number - 1) for each in made)), PATIENCE_S
    )
    assert [work.task.round for work in works if work] == [number] * len(made)
    for each in made:
        status, _ = await each.send(number, body=each.update(1.0))
        assert status == 200


async def outcome_of(server: Cloud) -> Outcome:
    """How its job ended."""
    return await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)


def history(folder: Path) -> list[RoundRecord]:
    """What is written down of its rounds."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [RoundRecord.model_validate_json(line) for line in lines]


async def test_an_update_over_the_wire_is_clipped(tmp_path: Path) -> None:
    async with (
        cloud(tmp_path, planner(rounds=1), replicas=1, privacy=PRIVACY) as server,
        devices(server, 1) as made,
    ):
        before = server.vectors.state.vectors[MODEL].copy()
        await play(made, 1)
        await outcome_of(server)
        moved = server.vectors.state.vectors[MODEL].astype(np.float64) - before
    noise = 0.01 * 0.5 * np.sqrt(before.size)
    assert np.linalg.norm(moved) == pytest.approx(np.hypot(0.5, noise), rel=0.05)


async def test_the_account_is_told_with_requests_reports_and_the_end(tmp_path: Path) -> None:
    async with (
        cloud(tmp_path, planner(rounds=2), privacy=PRIVACY) as server,
        devices(server, 3) as made,
    ):
        await play(made, 1)
        await play(made, 2)
        ended = await outcome_of(server)
        assert [one.private_rounds for one in server.planner.requests] == [0, 1]
        assert ended.private_rounds == 2
    told = [one.privacy for one in history(tmp_path)]
    assert [one and (one.rounds, one.epsilon, one.delta) for one in told] == [
        (1, 10, 0.01),
        (2, 20, 0.01),
    ]


async def test_a_client_that_is_lost_to_a_round_spends_nothing_in_it(tmp_path: Path) -> None:
    planned = planner(rounds=2)
    async with (
        cloud(tmp_path, planned, privacy=PRIVACY) as server,
        devices(server, 3) as made,
    ):
        await asyncio.gather(*(each.work() for each in made))
        for each in made[:2]:
            await each.send(1, body=each.update(1.0))
        made[2].close()
        assert [await planned.told(), await planned.told()] == [0, 1]
    ledger = Store(tmp_path, server.job.uid).ledger()
    assert [ledger.of(client) for client in ("d-0", "d-1", "d-2")] == [1, 1, 0]


async def test_the_budget_ends_the_job_with_the_model_within_it(tmp_path: Path) -> None:
    async with (
        cloud(tmp_path, planner(most=2), privacy=PRIVACY) as server,
        devices(server, 3) as made,
    ):
        await play(made, 1)
        await play(made, 2)
        ended = await outcome_of(server)
    assert (ended.result, ended.private_rounds) == ("PrivacyBudgetSpent", 2)
    assert ended.report is not None
    assert ended.report.round == 2
    assert "after 2 of 9 rounds; another round would spend more than" in ended.message
    assert (tmp_path / "model.safetensors").exists()


async def test_a_budget_holds_while_the_planner_is_away(tmp_path: Path) -> None:
    planned = planner(most=2)
    async with (
        cloud(tmp_path, planned, privacy=PRIVACY) as server,
        devices(server, 3) as made,
    ):
        await play(made, 1)
        assert [await planned.told(), await planned.told()] == [0, 1]
        planned.no = [400] * 10  # from now on the last plan is used again
        await play(made, 2)
        ended = await outcome_of(server)
    assert (ended.result, ended.private_rounds) == ("PrivacyBudgetSpent", 2)


async def test_rounds_that_are_done_again_count_again(tmp_path: Path) -> None:
    planned = planner()
    async with (
        cloud(tmp_path, planned, every_rounds=2, privacy=PRIVACY) as server,
        devices(server, 3) as made,
    ):
        for number in (1, 2, 3):
            await play(made, number)
        assert [await planned.told() for _ in range(4)] == [0, 1, 2, 3]
    checkpoints(tmp_path / "checkpoints")[0].unlink()  # round 3 was written as the pod ended
    planned = planner()
    async with (
        cloud(tmp_path, planned, every_rounds=2, privacy=PRIVACY) as server,
        devices(server, 3) as made,
    ):
        assert await planned.told() == 3
        works = await asyncio.gather(*(each.work() for each in made))
        assert [work.task.round for work in works if work] == [3] * 3
        for each in made:
            await each.send(3, body=each.update(1.0))
        assert await planned.told() == 4


async def test_a_lost_file_is_made_up_for_by_the_checkpoint(tmp_path: Path) -> None:
    planned = planner()
    async with (
        cloud(tmp_path, planned, privacy=PRIVACY) as server,
        devices(server, 3) as made,
    ):
        await play(made, 1)
        assert [await planned.told(), await planned.told()] == [0, 1]
    (tmp_path / LEDGER_FILE).unlink()
    planned = planner()
    async with cloud(tmp_path, planned, privacy=PRIVACY) as server, devices(server, 3):
        assert await planned.told() == 1


async def test_a_lost_volume_is_made_up_for_by_the_status(tmp_path: Path) -> None:
    async with (
        cloud(tmp_path, planner(most=7, known=5), privacy=PRIVACY) as server,
        devices(server, 3) as made,
    ):
        await play(made, 1)  # the seventh, as the one that was on may have been the sixth
        ended = await outcome_of(server)
    assert (ended.result, ended.private_rounds) == ("PrivacyBudgetSpent", 7)


async def test_a_ledger_has_a_name_from_before_the_first_plan_on(tmp_path: Path) -> None:
    """A cloud pod that is made anew before a model has the same one, on another volume another."""
    told = []
    for folder in ("one", "one", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
        planned = planner()
        async with (
            cloud(tmp_path / folder, planned, replicas=1, privacy=PRIVACY) as server,
            devices(server, 1),
        ):
            told.append((await asyncio.wait_for(planned.heard.get(), PATIENCE_S)).ledger)
    first, again, other = told
    assert first == again
    assert first is not None
    assert other is not None
    assert first.ledger != other.ledger
    assert first.models == other.models == 0


async def test_an_older_volume_is_made_up_for_though_it_has_the_greatest_count(
    tmp_path: Path,
) -> None:
    """It says as many rounds as are known, of which its planner knows more models."""
    planned = planner(most=5)
    of_rounds = account(most=5)

    def older(request: PlanRequest) -> PrivacyPlan:
        plan: PrivacyPlan = of_rounds(request)
        assert request.ledger is not None
        missing = request.ledger.models < 8
        return plan.model_copy(update={"least_rounds": 4, "least_models": 8} if missing else {})

    planned.account = older
    store = Store(tmp_path, "u1")
    store.save_ledger(Ledger(rounds={"d-0": 4, "d-1": 1}, models=4).begun())
    async with cloud(tmp_path, planned, privacy=PRIVACY) as server, devices(server, 3) as made:
        await play(made, 1)
        ended = await outcome_of(server)
        assert [one.ledger and one.ledger.models for one in planned.requests] == [4, 9]
    assert (ended.result, ended.private_rounds) == ("PrivacyBudgetSpent", 5)
    assert store.ledger().rounds == {"d-0": 5, "d-1": 5, "d-2": 5}


async def test_a_budget_that_is_spent_on_lost_models_is_no_success(tmp_path: Path) -> None:
    async with (
        cloud(tmp_path, planner(most=3, known=3), privacy=PRIVACY) as server,
        devices(server, 3),
    ):
        ended = await outcome_of(server)
    assert (ended.result, ended.private_rounds) == ("Failed", 4)
    assert "epsilonBudget" in ended.message


async def test_no_model_is_made_that_is_not_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with (
        cloud(tmp_path, planner(), replicas=1, privacy=PRIVACY) as server,
        devices(server, 1) as made,
    ):
        before = server.vectors.state.vectors[MODEL].copy()
        monkeypatch.setattr(Store, "save_ledger", full)
        for turn in range(3):
            await asyncio.wait_for(made[0].work(after=turn), PATIENCE_S)
            await made[0].send(1, body=made[0].update(1.0))
        ended = await outcome_of(server)
        np.testing.assert_array_equal(server.vectors.state.vectors[MODEL], before)
    assert (ended.result, ended.private_rounds) == ("Failed", 0)
    assert "No space left on device" in ended.message


async def test_a_model_that_cannot_be_evaluated_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = planner()
    async with (
        cloud(tmp_path, planned, replicas=1, privacy=PRIVACY) as server,
        devices(server, 1) as made,
    ):
        await asyncio.wait_for(made[0].work(), PATIENCE_S)
        monkeypatch.setattr(server.rounds, "_evaluated", lambda: 1 / 0)
        await made[0].send(1, body=made[0].update(1.0))
        assert [await planned.told(), await planned.told()] == [0, 1]


async def test_a_job_that_hides_nobody_has_no_account(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=1)) as server, devices(server, 3) as made:
        await play(made, 1)
        ended = await outcome_of(server)
    assert (server.planner.requests[0].private_rounds, ended.private_rounds) == (None, None)
    assert not (tmp_path / LEDGER_FILE).exists()
