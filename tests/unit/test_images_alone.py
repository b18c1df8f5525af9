"""One build at a time: who waits is told for whom, and a build ends with the make that began it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from images.alone import Holder, waiting
from images.recipe import ROOT

HOLDS = """
import sys
from pathlib import Path
from images.alone import alone
with alone(Path(sys.argv[1])):
    print("holds", flush=True)
    sys.stdin.read()
"""
BUILDS = """
from pathlib import Path
from images.alone import end_with_starter
from images.command import run
end_with_starter()
run(["sh", "-c", "echo STEP 1/1: RUN sleeping; sleep 10000; true"], log=Path("log"))
"""


def builder(code: str, *words: str, cwd: Path) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )


def test_a_second_build_says_once_whom_it_waits_for_and_goes_on_after_it(tmp_path: Path) -> None:
    with builder(HOLDS, str(tmp_path), cwd=tmp_path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "holds\n"
        with builder(HOLDS, str(tmp_path), cwd=tmp_path) as second:
            assert second.stderr is not None
            told = second.stderr.readline()
            first.communicate()
            out, rest = second.communicate()
    assert told.startswith(f"images: waiting for the build of process {first.pid} (-c {tmp_path})")
    assert "which runs since" in told
    assert str(tmp_path / "logs") in told
    assert "kill" not in told  # it is no orphan
    assert (out, rest) == ("holds\n", "")


def test_an_orphan_is_called_one_and_how_to_end_it_is_said(tmp_path: Path) -> None:
    with builder("input()", cwd=tmp_path) as process:
        orphan = Holder(process.pid, "images/build.py", began=100.0, starter=process.pid)
        kept = Holder(process.pid, "images/build.py", began=100.0, starter=os.getpid())
        said = [waiting(each, now=160.0, logs=tmp_path) for each in (orphan, kept)]
        process.communicate("\n")
    assert said[0].endswith(f"; what started it has ended: kill {process.pid} ends it")
    assert "(60 s)" in said[1]
    assert "kill" not in said[1]


@pytest.mark.parametrize("note", ["", "no note", '{"pid": 1}'])
def test_a_lock_without_a_readable_note_is_waited_for_all_the_same(
    tmp_path: Path, note: str
) -> None:
    lock = tmp_path / "images.lock"
    script = f"flock {lock} sh -c 'printf %s \"$0\" > {lock}; echo held; read line'"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        ["sh", "-c", script.replace("$0", note.replace('"', '\\"'))], stdin=pipe, stdout=pipe
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with builder(HOLDS, str(tmp_path), cwd=tmp_path) as second:
            assert second.stderr is not None
            told = second.stderr.readline()
            other.communicate(b"\n")
            second.communicate()
    assert told == f"images: waiting for another build; its logs are in {tmp_path / 'logs'}\n"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_and_its_programs_end_when_make_alone_is_ended(tmp_path: Path, how: int) -> None:
    (tmp_path / "build.py").write_text(BUILDS)
    recipe = f"PYTHONPATH={ROOT} exec {sys.executable} build.py"
    (tmp_path / "Makefile").write_text(f"build:\n\t{recipe}\n")
    with subprocess.Popen(
        ["make", "--silent"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as make:
        assert make.stdout is not None
        assert make.stdout.readline() == "  RUN sleeping\n"
        os.kill(make.pid, how)
        make.stdout.read()  # ends once nobody is left who could write
    assert "RUN sleeping" in (tmp_path / "log").read_text()
