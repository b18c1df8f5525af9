"""What processes use, read from a made-up /proc and from the real one."""

import os
from pathlib import Path

from tests.cluster.usage import Usage, usage_of

STATUS = (
    "Name:\tpython3\nVmRSS:\t 9000 kB\nRssAnon:\t {anon} kB\nRssFile:\t 70 kB\nRssShmem:\t 2 kB\n"
)


def process(proc: Path, pid: int, *, anon: int, descriptors: int, threads: int) -> Path:
    """A process of a container; its root."""
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    for number in range(descriptors):
        (folder / "fd" / str(number)).touch()
    (folder / "status").write_text(STATUS.format(anon=anon) + f"Threads:\t{threads}\n")
    return folder / "root"


def test_processes_of_a_container_count_together_and_its_files_once(tmp_path: Path) -> None:
    root = process(tmp_path, 7, anon=10, descriptors=3, threads=2)
    process(tmp_path, 8, anon=20, descriptors=1, threads=1)
    (root / "tmp" / "deep").mkdir(parents=True)
    (root / "tmp" / "deep" / "a").write_bytes(bytes(5))
    (root / "tmp" / "b").write_bytes(bytes(6))
    (root / "var" / "lib" / "lockstep").mkdir(parents=True)
    (root / "var" / "lib" / "lockstep" / "history.jsonl").write_bytes(bytes(100))
    assert usage_of([7, 8], proc=tmp_path) == Usage(34 * 1024, 4, 3, 2, 11, 100)


def test_a_process_that_has_ended_uses_nothing(tmp_path: Path) -> None:
    process(tmp_path, 7, anon=10, descriptors=3, threads=2)
    assert usage_of([9], proc=tmp_path) == Usage()
    (tmp_path / "7" / "status").unlink()
    assert usage_of([7], proc=tmp_path) == Usage(descriptors=3)


def test_a_descriptor_of_a_real_process_is_seen(tmp_path: Path) -> None:
    before = usage_of([os.getpid()])
    with (tmp_path / "file").open("w"):
        during = usage_of([os.getpid()])
    assert during.descriptors == before.descriptors + 1
    assert before.memory_bytes > 0
    assert before.threads >= 1
