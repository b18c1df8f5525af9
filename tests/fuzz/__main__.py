"""`make fuzz`: each target for a while under Atheris, with bounds on memory and on a single input.

    python -m tests.fuzz [--seconds 60] [--runs 1000000] [TARGET …]

Inputs that found something new are kept in the cache folder and used again; one that breaks a
target is written beside them and named. Afterwards it says how far the inputs came.
"""

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import structlog

from tests.fuzz.mutating import mutator
from tests.fuzz.stages import Target, told
from tests.fuzz.targets import NAMES, found_before, target_of

MEMORY_MB = 2048
ONE_INPUT_S = 10
MOST_BYTES = 6000
MEASURED = 8
"""One of so many inputs is measured: it then takes three times as long."""
_EVERY = 1000
"""Inputs after which the counts are written down: Atheris ends its process without a word."""


def cache() -> Path:
    """Where all that is found is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "lockstep" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_one(name: str, words: list[str]) -> None:
    """Runs a target in this process; Atheris ends it."""
    atheris: Any = importlib.import_module("atheris")  # not there for every platform
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    ours = ["lockstep_allocator", "lockstep_api", "lockstep_cli", "lockstep_serving"]
    ours += ["lockstep_workers", "lockstep_operator"]
    with atheris.instrument_imports(include=ours):
        target = target_of(name)
    folder = cache() / name
    folder.mkdir(exist_ok=True)
    for index, seed in enumerate((*target.seeds, *found_before(name))):
        (folder / f"seed-{index}").write_bytes(seed)
    limits = [f"-rss_limit_mb={MEMORY_MB}", f"-timeout={ONE_INPUT_S}", f"-max_len={MOST_BYTES}"]
    artifacts = f"-artifact_prefix={cache()}/crash-{name}-"
    words = [*limits, *words, artifacts, f"-dict={Path(__file__).with_name('words.dict')}"]
    words = [sys.argv[0], *words, str(folder)]
    read = counting(target, _counts(name))

    def mutate(data: bytes, most: int) -> bytes:
        return bytes(atheris.Mutate(data, most))  # another one once it fuzzes

    atheris.Setup(words, read, custom_mutator=mutator(mutate, target.seeds))
    atheris.Fuzz()


def counting(target: Target, file: Path) -> Any:
    """The target, which counts in a file how far its inputs come, and keeps one that breaks it."""
    counts: Counter[str] = Counter()
    for seed in target.seeds:  # what is made once belongs to no input
        target.stage_of(seed)

    def read(data: bytes) -> None:
        measured = counts.total() % MEASURED == MEASURED - 1
        try:
            counts[target.measured(data) if measured else target.stage_of(data)] += 1
        except BaseException:
            file.with_suffix(".broken").write_bytes(data)
            raise
        if counts.total() % _EVERY == 0:
            file.write_text(json.dumps(counts))

    return read


def _counts(name: str) -> Path:
    return cache() / f"{name}.counts"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", default=[], metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--runs", type=int, default=-1, help="inputs of each target, at the most")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(NAMES):
        parser.error(f"no target {', '.join(sorted(unknown))}: one of {', '.join(NAMES)}")
    broken = [name for name in given.targets or NAMES if not _is_sound(name, given)]
    print(f"broken: {', '.join(broken)}" if broken else "nothing found")
    return 1 if broken else 0


def _is_sound(name: str, given: argparse.Namespace) -> bool:
    """Runs a target in a process of its own; whether nothing was found."""
    print(f"fuzz {name}: {given.seconds} s", flush=True)
    counts = _counts(name)
    broken = counts.with_suffix(".broken")
    for file in (counts, broken):
        file.unlink(missing_ok=True)
    limits = [f"-max_total_time={given.seconds}", f"-runs={given.runs}"]
    words = [*limits, "-verbosity=0", "-print_final_stats=1"]
    command = [sys.executable, "-m", "tests.fuzz", "--child", name, *words]
    done = subprocess.run(command, check=False)
    if counts.exists():
        print(told(Counter(json.loads(counts.read_text()))), flush=True)
    if broken.exists():
        print(f"broken by {broken}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_one(sys.argv[2], sys.argv[3:])
    sys.exit(main())
