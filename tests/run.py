"""`make test`: all tests in four parts, each with what it needs; and which of them took longest.

    python -m tests.run [--fast]

0. Lint and images, while Kubernetes is compiled: that takes minutes, where it was not before.
1. Tests without a cluster, on all cores, while parts 2 and 3 run, which mostly wait: it yields to
   them.
2. Those that disturb the whole cluster (marker `alone`): they have it for themselves.
3. Tests that share the cluster, side by side.
4. Those that measure (marker `cores`): nothing runs beside them.

The cluster is brought up once, and taken down only if it was not up before.
`--fast` is part 1 without what takes longest in it (marker `slow`). Every part of the tests runs,
also after one that failed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.cluster.errors import ClusterError
from tests.demo.steps import Beside, Step, StepFailed, Took, run_alone
from tests.e2e.shared import KUBECONFIG_OF_ALL, ready_cluster

LANES = 3
"""Processes of part 3: tests/e2e/conftest.py deals its modules out to so many."""
SLOWEST = 10


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the tests, and how they run."""

    title: str
    words: tuple[str, ...]
    prefix: tuple[str, ...] = ()
    """What its command begins with."""


ON_ALL_CORES = ("-n", str(os.cpu_count() or 1), "--dist", "worksteal")
WITHOUT_CLUSTER = Part(
    "without a cluster",
    ("-m", "not cluster and not cores", *ON_ALL_CORES),
    prefix=("nice", "-n", "10"),
)
FAST = Part("that are fast", ("-m", "not cluster and not slow and not cores", *ON_ALL_CORES))
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Of parts that have a process for each core: more threads of torch would only wait."""
COMPILED_ONCE = {"PYTHONDONTWRITEBYTECODE": ""}
"""Of all parts: tests start hundreds of processes, and torch takes long to compile."""
ALONE = Part("alone on the cluster", ("tests/e2e", "-m", "alone"))
SIDE_BY_SIDE = Part(
    "side by side on the cluster",
    ("tests/e2e", "-m", "not alone and not cores", "-n", str(LANES), "--dist", "loadscope"),
)
MEASURING = Part("alone on the cores", ("-m", "cores"))


@dataclass(frozen=True, slots=True)
class Case:
    """A test that ran."""

    name: str
    seconds: float
    """With the fixtures that were made for it."""
    outcome: str
    """passed, failed or skipped."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a part."""

    part: Part
    code: int
    seconds: float
    cases: tuple[Case, ...]


def read_cases(xml: str) -> tuple[Case, ...]:
    """The tests of a JUnit report."""
    return tuple(
        Case(
            f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}",
            float(case.get("time", 0)),
            _outcome({child.tag for child in case}),
        )
        for case in ElementTree.fromstring(xml).iter("testcase")
    )


def _outcome(tags: set[str]) -> str:
    if tags & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in tags else "passed"


def told(results: Iterable[Result], *, seconds: float, before: Iterable[Took] = ()) -> str:
    """The slowest tests, and a line for each step before them, each part, and all in `seconds`."""
    results = tuple(results)
    cases = [case for result in results for case in result.cases]
    slowest = sorted(cases, key=lambda case: -case.seconds)[:SLOWEST]
    lines = [f"the {len(slowest)} slowest tests:"]
    lines += [f"{case.seconds:7.1f} s  {case.name}" for case in slowest]
    lines += [f"{took.seconds:7.0f} s  {took.title}" for took in before]
    lines += [f"{result.seconds:7.0f} s  {_line(result)}" for result in results]
    lines.append(f"{seconds:7.0f} s  in all: {_counts(cases)}")
    return "\n".join(lines)


def _line(result: Result) -> str:
    failed = "" if result.code == 0 else f" — pytest ended with {result.code}"
    return f"{result.part.title}: {_counts(result.cases)}{failed}"


def _counts(cases: Iterable[Case]) -> str:
    outcomes = [case.outcome for case in cases]
    kinds = [kind for kind in ("passed", "failed", "skipped") if kind in outcomes]
    return ", ".join(f"{outcomes.count(kind)} {kind}" for kind in kinds) or "no tests"


def run(part: Part, environment: Mapping[str, str], *, quiet: bool = False) -> Result:
    """Runs a part to its end; one that is quiet shows what it printed at its end only."""
    print(f"== tests {part.title}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ("-m", "pytest", "-q", *part.words, f"--junitxml={report}")
        command = (*part.prefix, sys.executable, *words)
        ended = subprocess.run(
            command,
            env={**os.environ, **COMPILED_ONCE, **environment},
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            text=True,
            check=False,
        )
        cases = read_cases(report.read_text()) if report.exists() else ()
    if quiet:
        print(f"== tests {part.title} have ended", ended.stdout, sep="\n", flush=True)
    return Result(part, ended.returncode, time.monotonic() - began, cases)


def get_ready() -> list[Took]:
    """Lint and images, while Kubernetes is compiled.

    Raises:
        StepFailed: one of them has failed; it has told why.
    """
    cluster = (sys.executable, "-m", "tests.cluster")
    lint = ("make", "--silent", "--no-print-directory", "lint")
    packages = run_alone(Step("packages", (*cluster, "deps")))  # apt-get cannot run twice
    lanes = (
        [Step("compile", (*cluster, "build"))],
        [Step("lint", lint), Step("images", (sys.executable, "images/build.py"))],
    )
    return [packages, *Beside(lanes).run()]


def run_all(*, fast: bool) -> list[Result]:
    """Runs the parts: the first beside the next two, the last alone.

    Raises:
        ClusterError: there is no cluster to run on.
    """
    if fast:
        return [run(FAST, ONE_THREAD)]
    with ThreadPoolExecutor(max_workers=1) as beside:
        first = beside.submit(run, WITHOUT_CLUSTER, ONE_THREAD)
        with ready_cluster() as kubeconfig:
            shared = {KUBECONFIG_OF_ALL: str(kubeconfig)}
            results = [run(part, shared, quiet=True) for part in (ALONE, SIDE_BY_SIDE)]
            return [first.result(), *results, run(MEASURING, shared)]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="only tests that need no cluster")
    began, fast = time.monotonic(), parser.parse_args().fast
    try:
        before = [] if fast else get_ready()
        results = run_all(fast=fast)
    except (ClusterError, StepFailed) as error:
        print(f"tests: {error}", file=sys.stderr)
        return 1
    print(told(results, seconds=time.monotonic() - began, before=before))
    return max(result.code for result in results)


if __name__ == "__main__":
    sys.exit(main())
