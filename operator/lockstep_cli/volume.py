"""The files that a job has on its volume: history, clients, models.

Commands call it. They come through the cloud pod while it runs, else through a pod made for it
(`reader`). What prints them is the image's own python3, which may say anything.
Invariants: a file comes whole, with the size it had when it was opened, or not at all; no more is
taken than was announced, and nothing of a file that is announced as larger than it can be.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lockstep_api import names
from lockstep_api.records import (
    CLIENTS_FILE,
    HISTORY_FILE,
    MOST_CLIENTS_BYTES,
    MOST_HISTORY_BYTES,
)
from lockstep_cli.cluster import CLAIMS, PODS, Cluster, Json
from lockstep_cli.errors import CliError, NotFound
from lockstep_cli.execution import BrokenOff, Command, CommandFailed, output_of
from lockstep_cli.reader import CONTAINER, Reader, reading_pod

NO_SUCH_FILE = 44
_PRINTS = f"""
import os, sys
try:
    file = open(sys.argv[1], "rb")
except FileNotFoundError:
    sys.exit({NO_SUCH_FILE})
left = os.fstat(file.fileno()).st_size
out = sys.stdout.buffer
out.write(b"%d\\n" % left)
while left:
    piece = file.read(min(left, 1 << 20))
    if not piece:
        sys.exit("the file became shorter")
    out.write(piece)
    left -= len(piece)
"""
_MOST_HEAD = 32
_MOST_BYTES = {HISTORY_FILE: MOST_HISTORY_BYTES, CLIENTS_FILE: MOST_CLIENTS_BYTES}
MOST_MODEL_BYTES = 16 << 30
"""Of any other file: 4 billion parameters as float32."""

_NOT_OURS = "python3 in the pod is no plain one: --image names another, once the job has ended"

Progress = Callable[[int, int], None]
"""Bytes that have come, of how many."""


class NotWritten(NotFound):
    """The volume has no such file."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How large a file may be, and why."""

    most: int
    why: str


def bound_of(name: str) -> Bound:
    """What is read of a file at the most."""
    most = _MOST_BYTES.get(name, MOST_MODEL_BYTES)
    return Bound(most, f"{name} has {most:,} at the most")


def _room(folder: Path) -> Bound:
    """What a folder can take."""
    free = shutil.disk_usage(folder).free
    return Bound(free, f"there is room for {free:,} in {folder}")


def silent(done: int, size: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume, and the container through which it is read."""

    cluster: Cluster
    namespace: str
    pod: str
    container: str

    def read(self, name: str, *, progress: Progress = silent) -> bytes:
        """A file's content.

        Raises:
            NotWritten: there is none.
            CliError: it did not come whole.
        """
        return b"".join(self._pieces(name, bound_of(name), progress=progress))

    def copy(self, name: str, to: Path, *, progress: Progress = silent) -> int:
        """Writes a file's content to `to`, which is as before when anything fails; its bytes.

        Raises:
            NotWritten: there is none.
            CliError: it did not come whole.
            OSError: it cannot be written.
        """
        bound = min(bound_of(name), _room(to.absolute().parent), key=lambda one: one.most)
        part = to.with_name(f".{to.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                for piece in self._pieces(name, bound, progress=progress):
                    file.write(piece)
                size = file.tell()
                file.flush()
                os.fsync(file.fileno())
            part.replace(to)
        finally:
            part.unlink(missing_ok=True)
        return size

    def _pieces(self, name: str, bound: Bound, *, progress: Progress) -> Iterator[bytes]:
        words = ("python3", "-I", "-c", _PRINTS, f"{names.DATA_DIR}/{name}")
        command = Command(self.namespace, self.pod, self.container, words)
        try:
            with closing(output_of(self.cluster, command)) as pieces:
                yield from whole(pieces, bound, progress=progress)
        except CommandFailed as error:
            if error.exit_code == NO_SUCH_FILE:
                raise NotWritten(f"the volume has no {name} yet") from error
            raise


def whole(pieces: Iterator[bytes], bound: Bound, *, progress: Progress) -> Iterator[bytes]:
    """A file's pieces, of a stream that begins with its size and a line break.

    Raises:
        BrokenOff: less came than that.
        CliError: more came, of which nothing is taken, or it is too large.
    """
    size, first = _head(pieces)
    if size > bound.most:
        raise CliError(f"a file of {size:,} bytes was announced: {bound.why}")
    done = 0
    for piece in chain((first,), pieces):
        done += len(piece)
        if done > size:
            raise CliError(f"more came than the {size:,} bytes that were announced: {_NOT_OURS}")
        progress(done, size)
        yield piece
    if done != size:
        raise BrokenOff(f"{done:,} of {size:,} bytes came: try again")


def _head(pieces: Iterator[bytes]) -> tuple[int, bytes]:
    """The size, and what came with it."""
    head = b""
    for piece in pieces:
        head += piece
        if b"\n" in head or len(head) > _MOST_HEAD:
            break
    size, line_break, rest = head.partition(b"\n")
    if not line_break or not size.isdigit():
        raise CliError(f"a file's size should come first, not {head[:_MOST_HEAD]!r}: try again")
    return int(size), rest


@contextmanager
def volume_of(cluster: Cluster, job: Json, *, image: str | None = None) -> Iterator[Volume]:
    """A job's volume.

    Args:
        cluster: where the job is.
        job: the FederatedJob.
        image: what reads it when the job has no pods; the job's own when empty.

    Raises:
        NotFound: the job has none.
        CliError: it cannot be read.
    """
    meta = job["metadata"]
    namespace = meta["namespace"]
    claim = _claim(cluster, job)
    pod = _cloud_pod(cluster, job)
    if pod is not None:
        yield Volume(cluster, namespace, pod, names.WORKER_CONTAINER)
        return
    reader = Reader(job, image or _image(job, claim))
    with reading_pod(cluster, reader) as name:
        yield Volume(cluster, namespace, name, CONTAINER)


def _claim(cluster: Cluster, job: Json) -> Json:
    """The job's claim, which has been bound."""
    meta = job["metadata"]
    name = names.cloud_name(meta["name"])
    try:
        claim = cluster.get(CLAIMS, meta["namespace"], name=name)
    except NotFound as error:
        raise NotFound(f"job {meta['name']} has no volume: claim {name} is not there") from error
    owners = claim["metadata"].get("ownerReferences") or ()
    if not any(one.get("uid") == meta["uid"] for one in owners):
        raise NotFound(f"claim {name} is not of job {meta['name']}, which has no volume")
    if (phase := claim["status"].get("phase")) != "Bound":
        raise NotFound(f"the volume of job {meta['name']} has nothing yet: claim {name} is {phase}")
    return claim


def _cloud_pod(cluster: Cluster, job: Json) -> str | None:
    """The cloud pod, if its worker runs."""
    meta = job["metadata"]
    try:
        pod = cluster.get(PODS, meta["namespace"], name=f"{names.cloud_name(meta['name'])}-0")
    except NotFound:
        return None
    if pod["metadata"].get("deletionTimestamp"):
        return None
    statuses = pod["status"].get("containerStatuses") or ()
    running = any("running" in (one.get("state") or {}) for one in statuses)
    return str(pod["metadata"]["name"]) if running else None


def _image(job: Json, claim: Json) -> str:
    """What the job's pods ran."""
    noted = (claim["metadata"].get("annotations") or {}).get(names.IMAGE_ANNOTATION)
    found = job["spec"].get("image") or noted
    if not found:
        name = job["metadata"]["name"]
        raise CliError(
            f"nobody knows which image can read the volume of {name}: an older operator made it: "
            "--image says one with python3, such as the worker image of your chart's values"
        )
    return str(found)
