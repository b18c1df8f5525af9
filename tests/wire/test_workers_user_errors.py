"""The user's code fails on a device: the cloud pod hears of it, counts, and ends it in words."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lockstep_api import names
from lockstep_api.sessions import ClientFailure, Registration
from lockstep_api.wire import NoticeReason, PlanRequest
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.device.connection import report_failure
from lockstep_workers.device.failing import tell
from lockstep_workers.device.loop import DeviceLoop
from lockstep_workers.device.metrics import DeviceMetrics
from lockstep_workers.device.parts import Parts, memory_file
from lockstep_workers.device.session import SessionKeeper
from lockstep_workers.errors import NoSession
from lockstep_workers.hosting.front import Front
from lockstep_workers.learning.client import Client, LocalTask, Trained
from lockstep_workers.learning.constants import constants
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.strategy import NO_MEMORY, ClientMemory, Vector
from lockstep_workers.learning.training import Enough, Pace
from lockstep_workers.models import mlp
from tests.support.clients import SayingClient, saying_client
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.cloud import Cloud, Device, cloud
from tests.wire.jobs import FakePlanner, serving


@dataclass(frozen=True, kw_only=True)
class Failing(SayingClient):
    """Raises in some rounds."""

    errors: dict[int, BaseException] = field(default_factory=dict)
    """What it raises, by round; round 0 stands for all of them."""

    def train(
        self,
        received: Mapping[str, Vector],
        task: LocalTask,
        *,
        memory: ClientMemory = NO_MEMORY,
        pace: Pace | None = None,
        enough: Enough | None = None,
    ) -> Trained:
        """Says the round, or raises."""
        done = super().train(received, task, memory=memory, pace=pace)
        if (error := self.errors.get(task.round, self.errors.get(0))) is not None:
            raise error
        return done


def failing(client: str, errors: dict[int, BaseException]) -> Failing:
    """A client that raises in these rounds."""
    made = saying_client(client, of=Failing)
    assert isinstance(made, Failing)
    return replace(made, errors=errors)


def at_work(server: Cloud, client: Client) -> "asyncio.Future[None]":
    """A device at work in a thread; it ends when the job is over for it."""
    session = SessionKeeper(
        server.url, Registration(client=client.name, incarnation="1", examples=10)
    )
    session.start()
    parts = Parts(
        job=server.job, client=client, session=session, metrics=DeviceMetrics("job", client.name),
        memory=memory_file(server.job, client, folder=server.folder / "memory"),
    )  # fmt: skip
    return asyncio.ensure_future(asyncio.to_thread(DeviceLoop(parts).run))


async def ended(server: Cloud, *devices: "asyncio.Future[None]") -> Any:
    """The outcome, once the devices know, too."""
    outcome = await asyncio.wait_for(asyncio.shield(server.planner.outcome), PATIENCE_S)
    await asyncio.wait_for(asyncio.gather(*devices), PATIENCE_S)
    return outcome


def notices(planner: FakePlanner) -> list[str]:
    """What people were told of clients that failed."""
    found = [notice for request in planner.requests for notice in request.notices]
    return [notice.message for notice in found if notice.reason is NoticeReason.CLIENT_FAILED]


@pytest.mark.parametrize(
    "error",
    [IndexError("index 7 is out of range"), SystemExit("no"), MemoryError(), StopIteration()],
)
async def test_a_client_that_always_fails_ends_a_job_that_needs_all(
    tmp_path: Path, error: BaseException
) -> None:
    planner = FakePlanner(rounds=99)
    async with cloud(tmp_path, planner, replicas=2) as server:
        bad, good = failing("d-0", {0: error}), saying_client("d-1")
        outcome = await ended(server, at_work(server, bad), at_work(server, good))
    assert bad.trained == [1, 2, 3]
    assert outcome.result == "Failed"
    assert "given up after 3 errors of the user's code: client d-0: training in round 3" in (
        outcome.message
    )
    assert type(error).__name__ in outcome.message
    assert f"{Path(__file__)}:" in outcome.message
    assert "1 of 2 clients are left, and participation.quorum is not set" in outcome.message
    assert len(set(notices(planner))) >= 2
    assert "client d-0: training in round 1 raised" in notices(planner)[0]
    assert server.metric("lockstep_client_failures_total") == 3
    reports = [request.report for request in planner.requests if request.report is not None]
    assert all(report.lost == ["d-0"] for report in reports)


async def test_with_a_quorum_the_job_goes_on_without_a_client_that_always_fails(
    tmp_path: Path,
) -> None:
    planner = FakePlanner(rounds=6, quorum=1, deadline_seconds=600)
    told = {"quorum": 1, "roundDeadlineSeconds": 600}
    async with cloud(tmp_path, planner, replicas=2, participation=told) as server:
        bad, good = failing("d-0", {0: KeyError("x")}), saying_client("d-1")
        outcome = await ended(server, at_work(server, bad), at_work(server, good))
    assert outcome.result == "RoundsCompleted"
    assert bad.trained == [1, 2, 3]
    assert good.trained == [1, 2, 3, 4, 5, 6]
    assert [r.given_up is None for r in planner.requests] == [True] * 3 + [False] * 3
    assert "client d-0: training in round 3 raised KeyError: 'x' at" in str(
        planner.requests[-1].given_up
    )
    assert [[c.client for c in r.clients] for r in planner.requests[3:]] == [["d-1"]] * 3


async def test_an_error_in_one_round_costs_that_round_only(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=4)
    async with cloud(tmp_path, planner, replicas=2) as server:
        odd, good = failing("d-0", {2: ValueError("odd batch")}), saying_client("d-1")
        outcome = await ended(server, at_work(server, odd), at_work(server, good))
    assert outcome.result == "RoundsCompleted"
    assert odd.trained == good.trained == [1, 2, 3, 4]
    (said,) = set(notices(planner))
    assert "training in round 2 raised ValueError: odd batch" in said
    assert "(error 1 of 3; it is in the next round again" in said
    assert planner.requests[2].report is not None
    assert planner.requests[2].report.lost == ["d-0"]


async def test_a_job_whose_clients_all_fail_ends_after_three_tries(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=9), replicas=2) as server:
        made = [failing(f"d-{i}", {0: ValueError(f"bad {i}")}) for i in range(2)]
        outcome = await ended(server, *(at_work(server, one) for one in made))
    assert outcome.result == "Failed"
    assert "ValueError: bad 0" in outcome.message
    assert [one.trained for one in made] == [[1, 1, 1]] * 2


async def test_a_deterministic_round_does_not_wait_for_a_client_whose_code_failed(
    tmp_path: Path,
) -> None:
    planner = FakePlanner(rounds=2)
    async with cloud(tmp_path, planner, replicas=2, deterministic=True) as server:
        odd, good = failing("d-0", {1: ValueError("odd")}), saying_client("d-1")
        outcome = await ended(server, at_work(server, odd), at_work(server, good))
    assert outcome.result == "RoundsCompleted"
    assert odd.trained == [1, 2]


async def test_a_device_that_builds_another_model_is_told_so(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(rounds=9), replicas=1) as server:
        client = Client(**{**vars_of(saying_client()), "model": flatten(mlp(hidden=7))})
        outcome = await ended(server, at_work(server, client))
    assert outcome.result == "Failed"
    assert "d-0: the model that is built here is not the cloud pod's (shape is" in outcome.message
    assert "the function must build the same model in every pod" in outcome.message


def vars_of(client: Client) -> dict[str, Any]:
    """The fields of a plain client."""
    return {name: getattr(client, name) for name in Client.__dataclass_fields__}


class Features(nn.Module):
    """Random features that each process draws for itself."""

    frequencies: Tensor

    def __init__(self) -> None:
        """From the system's entropy."""
        super().__init__()
        drawn = np.random.default_rng().normal(size=(784, 8)).astype(np.float32)
        self.register_buffer("frequencies", torch.from_numpy(drawn))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.head(torch.sin(x.flatten(1) @ self.frequencies))  # type: ignore[no-any-return]


async def test_a_device_trains_with_the_cloud_pods_constants(tmp_path: Path) -> None:
    own, clouds = Features(), Features()
    assert not torch.equal(own.frequencies, clouds.frequencies)
    async with cloud(tmp_path, FakePlanner(rounds=1, steps=2), replicas=1, module=clouds) as server:
        client = Client(**{**vars_of(saying_client()), "model": flatten(own)})
        outcome = await ended(server, at_work(server, client))
    assert outcome.result == "RoundsCompleted"
    assert torch.equal(own.frequencies, clouds.frequencies)


async def test_constants_of_another_model_are_an_error_of_the_code(tmp_path: Path) -> None:
    module = Features()
    async with cloud(tmp_path, FakePlanner(rounds=9), replicas=1, module=module) as server:
        outcome = await ended(server, at_work(server, saying_client()))
    assert outcome.result == "Failed"
    assert (
        "other buffers or frozen parameters than the cloud pod's (frequencies)" in outcome.message
    )


# -- before the first session ----------------------------------------------------------------------


def failure(run: int, client: str = "d-0", round_number: int = 0) -> ClientFailure:
    """The code failed in this run of a client."""
    return ClientFailure(
        client=client, incarnation=str(run), round=round_number, message="loading raised E at f:3"
    )


async def test_a_device_that_cannot_begin_three_times_ends_the_job(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(), replicas=2) as server:
        good = Device(server, "d-1")
        await good.open()
        asked = [asyncio.to_thread(tell, server.url, failure(run)) for run in (1, 1, 2, 2, 3)]
        assert [await one for one in asked] == [True, True, True, True, False]
        outcome = await asyncio.wait_for(server.planner.outcome, PATIENCE_S)
        assert server.planner.requests == [], "before round 1"
        good.close()
    assert outcome.result == "Failed"
    assert "client d-0: loading raised E at f:3; 1 of 2 clients are left" in outcome.message


async def test_with_a_quorum_a_job_begins_without_a_device_that_cannot(tmp_path: Path) -> None:
    planner = FakePlanner(rounds=2, quorum=1, deadline_seconds=600)
    told = {"quorum": 1, "roundDeadlineSeconds": 600}
    async with cloud(tmp_path, planner, replicas=2, participation=told) as server:
        good = at_work(server, saying_client("d-1"))
        for run in (1, 2, 3):
            await asyncio.to_thread(tell, server.url, failure(run))
        outcome = await ended(server, good)
    assert outcome.result == "RoundsCompleted"


async def test_a_client_that_was_given_up_finds_the_job_over_for_it(tmp_path: Path) -> None:
    """Its pod, once it is made anew, is there and waits, instead of starting again and again."""
    told = {"quorum": 1, "roundDeadlineSeconds": 600}
    async with cloud(tmp_path, FakePlanner(), replicas=2, participation=told) as server:
        for run in (1, 2, 3):
            await asyncio.to_thread(tell, server.url, failure(run))
        client = saying_client()
        await asyncio.wait_for(at_work(server, client), PATIENCE_S)
        assert client.trained == []
        assert not server.planner.outcome.done()


async def test_a_stranger_cannot_speak_for_a_client_that_is_there(tmp_path: Path) -> None:
    async with cloud(tmp_path, FakePlanner(), replicas=2) as server:
        device = Device(server, "d-0")
        await device.open()
        connection = await device.connect()
        for told in (failure(1), failure(1, round_number=1)):
            with pytest.raises(NoSession, match="d-0"):
                await asyncio.to_thread(report_failure, connection, told, key="x" * 20)
            connection = await device.connect()
        assert server.reception.troubles.told == {}
        assert await asyncio.to_thread(report_failure, connection, failure(1), key=device.key)
        device.close()


async def test_constants_are_for_those_with_a_session(tmp_path: Path) -> None:
    module = Features()
    async with (
        cloud(tmp_path, FakePlanner(), replicas=1, module=module) as server,
        httpx2.AsyncClient() as http,
    ):
        path = names.CONSTANTS_ROUTE.format(client="d-0")
        assert (await http.get(server.url + path)).status_code == 409
    assert constants(module)


@pytest.mark.parametrize(
    ("client", "body", "status"),
    [
        ("d-0", b"{}", 422),
        ("d-0", b"x" * 70_000, 413),
        ("d-1", failure(1).to_json().encode(), 404),
        ("x-9", failure(1, "x-9").to_json().encode(), 404),
    ],
)
async def test_a_failure_that_is_none_changes_nothing(
    tmp_path: Path, client: str, body: bytes, status: int
) -> None:
    async with cloud(tmp_path, FakePlanner(), replicas=2) as server:
        async with httpx2.AsyncClient() as http:
            path = names.FAILURE_ROUTE.format(client=client)
            assert (await http.post(server.url + path, content=body)).status_code == status
        assert server.reception.troubles.told == {}


async def test_a_device_insists_until_the_cloud_pod_has_loaded_the_job() -> None:
    """And tries again when the job itself could not begin, until its pod is taken away."""
    port = free_port()
    front = Front(CloudMetrics("job").registry)
    telling = asyncio.ensure_future(asyncio.to_thread(tell, f"http://127.0.0.1:{port}", failure(1)))
    async with serving(front, port):
        async with httpx2.AsyncClient() as http:
            path = names.FAILURE_ROUTE.format(client="d-0")
            answer = await http.post(f"http://127.0.0.1:{port}{path}", content=b"{}")
        assert answer.status_code == 503
        assert not telling.done()
        front.failed = True
        assert await asyncio.wait_for(telling, PATIENCE_S)


async def test_a_resumed_job_remembers_whom_it_gave_up(tmp_path: Path) -> None:
    told = {"quorum": 1, "roundDeadlineSeconds": 600}
    planner = FakePlanner(rounds=99, quorum=1, deadline_seconds=600)
    seen: asyncio.Future[PlanRequest] = asyncio.Future()

    def note(request: PlanRequest) -> None:
        if request.given_up and request.round > 4 and not seen.done():
            seen.set_result(request)

    planner.arrived = note
    async with cloud(tmp_path, planner, replicas=2, participation=told) as server:
        bad, good = failing("d-0", {0: KeyError("x")}), saying_client("d-1")
        working = [at_work(server, bad), at_work(server, good)]
        await asyncio.wait_for(seen, PATIENCE_S)
        server.rounds.reception.end("Failed")
        await asyncio.wait_for(asyncio.gather(*working), PATIENCE_S)
    again = FakePlanner(rounds=99, quorum=1, deadline_seconds=600)
    first: asyncio.Future[PlanRequest] = asyncio.Future()
    again.arrived = lambda request: None if first.done() else first.set_result(request)
    async with cloud(tmp_path, again, replicas=2, participation=told) as server:
        device = Device(server, "d-1")
        await device.open()
        request = await asyncio.wait_for(first, PATIENCE_S)
        assert "client d-0: training in round 3 raised KeyError" in str(request.given_up)
        device.close()
