"""The demo's steps: what runs beside what, what is shown of it, and what a failure leaves."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from images.recipe import ROOT
from tests.demo import job
from tests.demo.__main__ import stages
from tests.demo.steps import Beside, Lane, Step, StepFailed, Took, run_alone, table

IMPORTED = """
import importlib.metadata, json, sys
before = set(sys.modules)
import images.cli, tests.cluster.cli, tests.demo.job
import kubernetes.config, kubernetes.stream
import lockstep_cli.commands.devices, lockstep_cli.commands.report, lockstep_cli.commands.watching
owners = importlib.metadata.packages_distributions()
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
found = {owner.lower().replace("_", "-") for top in tops for owner in owners.get(top, ())}
print(json.dumps(sorted(found)))
"""

TAKEN_IF_THERE = {"jsonpointer", "pysocks"}
"""Imported by packages that go on without them (jsonschema's formats, urllib3's SOCKS proxies)."""


def shell(title: str, script: str) -> Step:
    return Step(title, ("sh", "-c", script))


def titles(stage: Sequence[Lane]) -> list[list[str]]:
    return [[step.title for step in lane] for lane in stage]


def test_kubernetes_compiles_and_starts_while_the_images_build() -> None:
    planned = [titles(stage) for stage in stages("python", "stamp")]
    lanes = [["compile", "cluster"], ["images"]]
    assert lanes in planned
    assert planned.index([["load"]]) == planned.index(lanes) + 1
    assert planned[0] == [["venv"]]


def test_every_line_names_its_step_and_every_step_is_timed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lanes = [[shell("a", "echo one; echo two >&2"), shell("b", "echo three")], [shell("c", ":")]]
    took = Beside(lanes).run()
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "took" not in line] == ["[a] one", "[a] two", "[b] three"]
    assert {each.title: each.beside for each in took} == {"a": ("c",), "b": ("c",), "c": ("a", "b")}


def test_a_step_that_fails_ends_those_beside_it_and_begins_none_after_it(
    tmp_path: Path,
) -> None:
    started = tmp_path / "started"
    failing = shell("fails", f"until [ -e {started} ]; do sleep 0.01; done; exit 3")
    never = shell("after", f"touch {tmp_path / 'after'}")
    beside = Beside([[failing, never], [shell("long", f"touch {started}; exec sleep 10000")]])
    with pytest.raises(StepFailed, match=r"fails failed \(3\): sh -c"):
        beside.run()
    assert sorted(child.wait() for child in beside.children) == [-15, 3]
    assert not (tmp_path / "after").exists()


def test_a_step_without_news_is_said_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def hear(*words: object, **_: object) -> None:
        said.append(" ".join(map(str, words)))
        if "still at it" in said[-1]:
            (tmp_path / "heard").touch()

    monkeypatch.setattr("builtins.print", hear)
    silent = shell("silent", f"until [ -e {tmp_path / 'heard'} ]; do sleep 0.01; done")
    Beside([[silent], [shell("other", ":")]], quiet_s=0.01).run()
    assert any("still at it" in line and "silent" in line for line in said)


def test_a_step_that_fails_alone_is_named() -> None:
    with pytest.raises(StepFailed, match=r"alone failed \(4\): sh -c exit 4"):
        run_alone(shell("alone", "exit 4"))


def test_the_table_says_what_ran_beside_what() -> None:
    took = [Took("venv", 12.34), Took("compile", 200.0, beside=("images",))]
    assert table(took, seconds=212.5).splitlines() == [
        "where the time went:",
        "  venv        12.3 s",
        "  compile    200.0 s   beside images",
        "  in all     212.5 s",
    ]


def test_the_demo_begins_with_the_standard_library_alone() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import tests.demo.__main__"
    subprocess.run([sys.executable, "-E", "-S", "-c", code], check=True)


def test_what_the_demo_imports_is_in_its_lock() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    pinned = {
        line.partition("==")[0]
        for line in (ROOT / "requirements/demo.lock").read_text().splitlines()
        if "==" in line
    }
    assert set(json.loads(done.stdout)) - {"lockstep"} - TAKEN_IF_THERE <= pinned


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Runs the demo's last step with programs that tell what they were asked for."""

    def run(watch_ends_with: int) -> list[str]:
        log = tmp_path / "log"
        for name in ("kubectl", "lockstep"):
            program = tmp_path / name
            code = f'[ "$1" = watch ] && exit {watch_ends_with}; exit 0'
            program.write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\n{code}\n')
            program.chmod(0o755)
        monkeypatch.setattr(job, "environment", lambda: {"PATH": f"{tmp_path}:/bin"})
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
        monkeypatch.setattr(job, "PROGRAM", (str(tmp_path / "lockstep"),))
        monkeypatch.setattr(job, "REPORT", tmp_path / "demo" / "report.html")
        monkeypatch.setattr("tests.cluster.api.kubeconfig", lambda: "kubeconfig")
        monkeypatch.setattr("tests.cluster.api.tools", lambda: "tools")
        try:
            job.run_job(Console())
        finally:
            said = log.read_text().splitlines()
        return said

    return run


def test_the_demo_watches_its_job_and_ends_with_the_report(
    ran: Callable[[int], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ran(0)
    assert [line.split()[:3] for line in said[1:]] == [
        ["kubectl", "apply", "--filename"],
        ["lockstep", "watch", "fashion-mnist"],
        ["lockstep", "devices", "fashion-mnist"],
        ["lockstep", "report", "fashion-mnist"],
    ]
    assert said[2].endswith("--wait")
    path = tmp_path / "demo" / "report.html"
    assert said[-1].endswith(f"--output {path}")
    assert path.parent.is_dir()
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"$ lockstep report fashion-mnist --output {path}"
    )


def test_a_demo_whose_job_does_not_complete_fails(ran: Callable[[int], list[str]]) -> None:
    with pytest.raises(SystemExit, match="fashion-mnist did not complete"):
        ran(1)
