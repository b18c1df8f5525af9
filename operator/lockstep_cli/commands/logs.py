"""`lockstep logs`: what all pods of a job say, as one log.

Without --follow the lines of all are put in order of time while they are read; with it they come as
they are written, of pods that come later too, until the job has ended. Invariants: a pod that
cannot be read does not keep the others from being read; of each no more is held than _HELD and a
line.
"""

import heapq
import sys
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Annotated

import typer
from rich.text import Text

from lockstep_api.names import Role
from lockstep_cli.cluster import Cluster
from lockstep_cli.errors import CliError, NotFound
from lockstep_cli.facts import Job
from lockstep_cli.feed import Ended, Feed, Heard
from lockstep_cli.follow import Change, follow
from lockstep_cli.jobs import find_job, its_pods, pods_of, this_job
from lockstep_cli.log_lines import (
    Asked,
    Line,
    Run,
    colour_of,
    line_of,
    request_for,
    run_of,
    wanted,
)
from lockstep_cli.log_lines import shown as shown_line
from lockstep_cli.options import Job as JobName
from lockstep_cli.options import a_time, on_cluster
from lockstep_cli.pods import Pod
from lockstep_cli.shown import console, say

MOST = 100
"""Logs that are followed at a time: a connection and a thread each."""
_AT_ONCE = 8
_HELD = 64 << 10
"""Bytes of a pod's log that are read ahead; the log of a pod that said more stays open."""
MOST_LINE = 64 << 10
"""Bytes of a line that are shown."""
_SILENCE_S = 24 * 3600.0
_JOB, _PODS = "job", "pods"
_TAIL = 50


@on_cluster
def logs(
    cluster: Cluster,
    *,
    job: JobName,
    follow_: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    tail: Annotated[
        int, typer.Option(help="So many lines of each pod to begin with; -1: all.")
    ] = _TAIL,
    since: Annotated[float | None, a_time("--since", help="Not older than")] = None,
    tier: Annotated[Role | None, typer.Option(help="Pods of one tier alone.")] = None,
    pod: Annotated[
        list[str] | None,
        typer.Option(help="One pod alone, or the device or edge that it is (repeatable)."),
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="When it was said.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="As it was written; always so where it is piped.")
    ] = False,
) -> None:
    """The log of all pods of a job: cloud, edges, devices and trainers."""
    asked = Asked(tier, tuple(pod or ()), tail, None if since is None else round(since), follow_)
    found, show = find_job(cluster, job), Shower(timestamps, raw or not console().is_terminal)
    if follow_ and not found.ended:
        with closing(Feed(cluster)) as feed:
            Follower(cluster, asked, show=show, feed=feed).run(found)
        return
    chosen = _chosen(found, pods_of(cluster, found), asked=replace(asked, follow=False))
    show.widen(chosen)
    for line in in_order(cluster, chosen, asked=asked):
        show(line)


def _chosen(job: Job, bodies: Iterable[dict[str, object]], *, asked: Asked) -> list[Pod]:
    """Whose logs are read.

    Raises:
        NotFound: nobody's.
    """
    there = [Pod(body) for body in bodies]
    chosen = wanted(there, asked)
    if chosen:
        return chosen
    if not there:
        raise NotFound(
            f"{job.name} is {job.phase.lower()} and has no pods: logs go with them"
            " (lockstep events and lockstep describe tell what is known)"
        )
    names = ", ".join(sorted(pod.short for pod in there)[:10])
    raise NotFound(f"no pod of {job.name} is meant: there are {names}")


def in_order(cluster: Cluster, pods: list[Pod], *, asked: Asked) -> Iterator[Line]:
    """Lines of all pods, oldest first."""

    def read(pod: Pod) -> Generator[Line, None, None]:
        if not pod.started:
            return
        try:
            for raw in cluster.lines(request_for(pod, asked), most=MOST_LINE):
                yield line_of(pod, raw)
        except CliError as error:
            say(f"{pod.short}: {error}", style="yellow")

    with ExitStack() as stack:
        rests = [stack.enter_context(closing(read(pod))) for pod in pods]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            begun = list(pool.map(_ahead, rests))
        whole = (chain(first, rest) for first, rest in zip(begun, rests, strict=True))
        yield from heapq.merge(*whole, key=lambda line: line.stamp)


def _ahead(log: Iterator[Line]) -> list[Line]:
    """The beginning of a log, which most often is all of it."""
    held, size = [], 0
    for line in log:
        held.append(line)
        size += len(line.stamp) + len(line.text)
        if size > _HELD:
            break
    return held


@dataclass(slots=True)
class Shower:
    """Prints lines."""

    stamps: bool
    raw: bool
    width: int = 0
    prefixes: dict[str, str] = field(default_factory=dict)

    def widen(self, pods: Iterable[Pod]) -> None:
        """Makes room for names."""
        self.width = max([self.width, *(len(pod.short) for pod in pods)])

    def __call__(self, line: Line) -> None:
        """Prints one."""
        whose, text = shown_line(line, width=self.width, stamps=self.stamps, raw=self.raw)
        sys.stdout.write(f"{self._coloured(line.pod.short, whose)}{text}\n")
        sys.stdout.flush()

    def _coloured(self, name: str, whose: str) -> str:
        if whose not in self.prefixes:
            on = console()
            with on.capture() as captured:
                on.print(Text(whose, colour_of(name)), end="", soft_wrap=True)
            self.prefixes[whose] = captured.get()
        return self.prefixes[whose]


@dataclass(slots=True)
class Follower:
    """Logs of a job's pods as they come and go."""

    cluster: Cluster
    asked: Asked
    show: Shower
    feed: Feed
    job_ended: bool = False
    listed: bool = False
    open: set[str] = field(default_factory=set)
    """Pods whose logs are read."""
    seen: set[Run] = field(default_factory=set)
    there: list[Pod] = field(default_factory=list)
    """Pods when they were heard of last."""

    def run(self, job: Job) -> None:
        """Until the job has ended and nothing more comes."""
        cluster = self.cluster
        self.feed.add(_JOB, lambda: follow(cluster, this_job(cluster, job.name)))
        self.feed.add(_PODS, lambda: follow(cluster, its_pods(cluster, job.name)))
        while self.open or not (self.job_ended and self.listed):
            self._take()

    def _take(self) -> None:
        match self.feed.next():
            case Ended(source, error) if source in (_JOB, _PODS):
                raise error or CliError(f"the watch of {source} ended")
            case Ended(source, error):
                self.open.discard(source)
                if error is not None:
                    say(f"{source}: {error}", style="yellow")
                self._begin()
            case Heard(_, Line() as line):
                self.show(line)
            case Heard(source, Change() as change) if change.trouble:
                say(f"{source}: {change.trouble}", style="yellow")
            case Heard("job", Change(objects=objects)):
                self.job_ended = all(Job(body).ended for body in objects.values())
            case Heard("pods", Change(objects=objects)):
                self.listed = True
                self.there = [Pod(body) for body in objects.values()]
                self._begin()

    def _begin(self) -> None:
        """Reads logs that have begun, and those of containers that were restarted.

        A restart may be heard of before the log of the life before has ended.
        """
        chosen = wanted(self.there, self.asked)
        self.show.widen(chosen)
        for pod in chosen:
            if not pod.started or (run := run_of(pod)) in self.seen or pod.name in self.open:
                continue
            if len(self.open) >= MOST:
                continue
            again = any(uid == run[0] for uid, _ in self.seen)
            self.seen.add(run)
            self.open.add(pod.name)
            self.feed.add(pod.name, partial(self._read, pod, again=again))

    def _read(self, pod: Pod, *, again: bool) -> Iterator[Line]:
        """A restarted container's log is read from its beginning."""
        asked = replace(self.asked, tail=-1, since_s=None) if again else self.asked
        request = request_for(pod, asked)
        for raw in self.cluster.lines(request, silence_s=_SILENCE_S, most=MOST_LINE):
            yield line_of(pod, raw)
