"""The real worker processes on loopback, and jobs whose processes are killed."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from lockstep_api import names
from lockstep_api.settings import JobSettings
from lockstep_api.spec import CheckpointSpec, Mode, StrategySpec
from lockstep_api.wire import PlanRequest, RoundReport
from tests.support.certificates import local_ca
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.wire.forking import Process, fork
from tests.wire.jobs import FakePlanner, serving, settings, write_dataset
from tests.wire.signing import Signer, planner_ca, planner_channel, with_tls

_ROUNDS = 6
Maker = Callable[[], AbstractAsyncContextManager[Process]]
"""Starts a process, and ends it."""


@asynccontextmanager
async def worker(
    role: str,
    folder: Path,
    *,
    program: str = "lockstep_workers",
    log: "Lines | None" = None,
    **env: str,
) -> AsyncIterator[Process]:
    """A worker process; SIGTERM must end it in order, unless the test has killed it.

    One that is still starting is let start first: until it listens, nothing in it hears SIGTERM.
    What it says goes to `log`, if there is one.
    """
    process = await fork(
        program, role, piped=log is not None,
        env={
            **os.environ, "LOCKSTEP_SETTINGS": str(folder / "job.json"),
            "LOCKSTEP_DATA_DIR": str(folder / "data"), "LOCKSTEP_HOST": "127.0.0.1",
            "LOCKSTEP_DATASETS": str(folder / "datasets"), "OMP_NUM_THREADS": "1",
            "LOCKSTEP_MEMORY": str(folder / "memory"), "LOCKSTEP_METRICS_PORT": "0", **env,
        },
    )  # fmt: skip
    reading = asyncio.ensure_future(log.read(process.stdout)) if log and process.stdout else None
    try:
        yield process
    finally:
        try:
            await listens(process, int(env.get("LOCKSTEP_PORT") or env["LOCKSTEP_METRICS_PORT"]))
            if process.returncode is None:
                process.terminate()
                assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if reading is not None:
                await reading


class Lines:
    """What a process has said, also in lives before."""

    def __init__(self) -> None:
        """Nothing."""
        self.all: list[str] = []
        self._news = asyncio.Event()

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Reads a life's lines to its end."""
        while line := await stream.readline():
            self.all.append(line.decode(errors="replace"))
            self._news.set()

    async def heard(self, what: str, *, times: int = 1) -> None:
        """Returns when so many lines have these words."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(what in line for line in self.all) < times:
                self._news.clear()
                await self._news.wait()


async def listens(process: Process, port: int) -> None:
    """Waits until a process takes connections, or has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)  # another process starting gives no event
            else:
                writer.close()
                return


def device(
    folder: Path, number: int, *, program: str = "lockstep_workers", log: Lines | None = None
) -> AbstractAsyncContextManager[Process]:
    """A device process of group d."""
    return worker(
        "device", folder, program=program, log=log, LOCKSTEP_POD=f"job-device-d-{number}",
        LOCKSTEP_GROUP="d", LOCKSTEP_METRICS_PORT=str(free_port()),
    )  # fmt: skip


def cloud(
    folder: Path,
    job: JobSettings,
    *,
    program: str = "lockstep_workers",
    log: Lines | None = None,
    metrics_port: int = 0,
) -> AbstractAsyncContextManager[Process]:
    """The cloud pod's process."""
    ports = {
        "LOCKSTEP_PORT": job.cloud_url.rpartition(":")[2],
        "LOCKSTEP_METRICS_PORT": str(metrics_port),
    }
    return worker("cloud", folder, program=program, log=log, **ports)


def edge(
    folder: Path,
    job: JobSettings,
    *,
    name: str,
    program: str = "lockstep_workers",
    log: Lines | None = None,
) -> AbstractAsyncContextManager[Process]:
    """An edge's process."""
    group, _, ordinal = name.rpartition("-")
    port = job.edge_urls[name].rpartition(":")[2]
    return worker(
        "edge", folder, program=program, log=log, LOCKSTEP_POD=f"job-edge-{group}-{ordinal}",
        LOCKSTEP_GROUP=group, LOCKSTEP_PORT=port,
    )  # fmt: skip


def with_edges(job: JobSettings, count: int) -> JobSettings:
    """The same job in mode hierarchical, with edges e-0, e-1, …"""
    urls = {f"e-{i}": f"http://127.0.0.1:{free_port()}" for i in range(count)}
    return job.model_copy(update={"mode": Mode.HIERARCHICAL, "edge_urls": urls})


def prepare(folder: Path, job: JobSettings) -> None:
    """Writes the files that the processes read."""
    (folder / "job.json").write_text(job.to_json())
    (folder / names.CA_FILE).write_text(local_ca().pem)
    (folder / names.PLANNER_CA_FILE).write_text(planner_ca().pem)
    write_dataset(folder / "datasets")


def served(planner: FakePlanner, job: JobSettings) -> AbstractAsyncContextManager[None]:
    """The planner, where the job's settings say that it is."""
    port = int(job.planner_url.rpartition(":")[2])
    return serving(planner.app(), port, channel=planner_channel(job))


class Watch:
    """Lets a test wait for a plan request of some kind."""

    def __init__(self, planner: FakePlanner) -> None:
        """Sees every request from now on."""
        self._wanted: Callable[[PlanRequest], bool] | None = None
        self._seen = asyncio.Event()
        self._holds = False
        self._planner = planner
        planner.arrived = self._arrived

    def _arrived(self, request: PlanRequest) -> None:
        if self._wanted is not None and self._wanted(request):
            self._seen.set()
            if self._holds:
                self._wanted = None
                self._planner.answering.clear()

    async def until(self, wanted: Callable[[PlanRequest], bool], *, holds: bool = False) -> None:
        """Returns when such a request has come; with `holds` none is answered until `go_on`."""
        self._seen.clear()
        self._wanted, self._holds = wanted, holds
        await asyncio.wait_for(self._seen.wait(), PATIENCE_S)

    def go_on(self) -> None:
        """Requests are answered again."""
        self._planner.answering.set()


def is_at(number: int, request: PlanRequest) -> bool:
    """Whether a request asks for this round, or a later one."""
    return request.round >= number


class Pods:
    """The processes of a job: cloud pod, edges and devices, each of which may be killed."""

    def __init__(
        self,
        folder: Path,
        job: JobSettings,
        *,
        program: str = "lockstep_workers",
        watched: bool = False,
    ) -> None:
        """Nothing runs yet; of `watched` ones it is known what they say."""
        names = ("cloud", *job.edge_urls, *job.clients())
        self.said = {name: Lines() for name in names}
        log = self.said if watched else dict.fromkeys(names)
        self._makers: dict[str, Maker] = {
            "cloud": partial(cloud, folder, job, program=program, log=log["cloud"]),
            **{
                name: partial(edge, folder, job, name=name, log=log[name]) for name in job.edge_urls
            },
            **{
                name: partial(device, folder, number, program=program, log=log[name])
                for number, name in enumerate(job.clients())
            },
        }
        self._running: dict[str, tuple[AsyncExitStack, Process]] = {}

    async def start_all(self) -> None:
        """Starts all of them."""
        for name in self._makers:
            await self.start(name)

    async def start(self, name: str) -> None:
        """Starts one."""
        stack = AsyncExitStack()
        self._running[name] = (stack, await stack.enter_async_context(self._makers[name]()))

    async def kill(self, name: str) -> None:
        """Kills one; it stays away."""
        stack, process = self._running.pop(name)
        process.kill()
        await process.wait()
        await stack.aclose()

    async def kill_and_start(self, name: str) -> None:
        """Kills one, and starts it anew."""
        await self.kill(name)
        await self.start(name)

    async def end(self) -> None:
        """Ends all in order."""
        for stack, _ in self._running.values():
            await stack.aclose()


async def run_to_the_end(
    folder: Path,
    kills: dict[int, tuple[str, ...]],
    *,
    program: str = "lockstep_workers",
    strategy: StrategySpec | None = None,
    momentum: float = 0.9,
    every_rounds: int = 1,
    between_rounds: bool = False,
    devices: int = 3,
    edges: int = 0,
    signer: Signer | None = None,
) -> tuple[bytes, list[RoundReport]]:
    """A deterministic job whose pods are killed in these rounds, or just before they begin.

    With a signer all of its servers speak TLS, and have new certificates before the last round.

    Returns:
        The bytes of its final model, and all reports of its rounds.
    """
    planner = FakePlanner(rounds=_ROUNDS, steps=20)
    watch = Watch(planner)
    job = settings(
        cloud_port=free_port(),
        planner_port=free_port(),
        deterministic=True,
        momentum=momentum,
        replicas=devices,
    ).model_copy(
        update={
            "checkpoint": CheckpointSpec(every_rounds=every_rounds),
            "strategy": strategy or StrategySpec(),
        }
    )
    job = with_edges(job, edges) if edges else job
    if signer is not None:
        job, planner.signer = with_tls(job), signer
    prepare(folder, job)
    pods = Pods(folder, job, program=program)
    async with served(planner, job):
        await pods.start_all()
        for number, victims in kills.items():
            await watch.until(partial(is_at, number), holds=between_rounds)
            for name in victims:
                await pods.kill_and_start(name)
            watch.go_on()
        if signer is not None:
            await watch.until(partial(is_at, _ROUNDS), holds=True)
            await signer.renewed(("cloud", *job.edge_urls))
            watch.go_on()
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        await pods.end()
    assert outcome.result == "RoundsCompleted", outcome.message
    model = (folder / "data" / "model.safetensors").read_bytes()
    reports = [request.report for request in planner.requests] + [outcome.report]
    return model, [report for report in reports if report is not None]
