"""`make fuzz`: each target for a while under Atheris, with bounds on memory and on a single input.

    python -m tests.fuzz [--seconds 60] [--runs 1000000] [TARGET …]

Inputs that found something new are kept in the cache folder and used again; one that breaks a
target is written beside them and named.
"""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MEMORY_MB = 2048
ONE_INPUT_S = 10


def corpus(name: str) -> Path:
    """Where a target's inputs are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "lockstep" / "fuzz" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_one(name: str, words: list[str]) -> None:
    """Runs a target in this process; Atheris ends it."""
    atheris: Any = importlib.import_module("atheris")  # not there for every platform
    ours = ["lockstep_allocator", "lockstep_api", "lockstep_serving"]
    ours += ["lockstep_workers", "lockstep_operator"]
    with atheris.instrument_imports(include=ours):
        from tests.fuzz.targets import target_of  # noqa: PLC0415

    target, seeds = target_of(name)
    folder = corpus(name)
    for index, seed in enumerate(seeds):
        (folder / f"seed-{index}").write_bytes(seed)
    limits = [f"-rss_limit_mb={MEMORY_MB}", f"-timeout={ONE_INPUT_S}", "-max_len=4096"]
    artifacts = f"-artifact_prefix={folder.parent}/crash-{name}-"
    atheris.Setup([sys.argv[0], *words, *limits, artifacts, str(folder)], target)
    atheris.Fuzz()


def main() -> int:
    """The command line."""
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - the child instruments it first

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", default=[], metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--runs", type=int, default=-1, help="inputs of each target, at the most")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}: one of {', '.join(TARGETS)}")
    broken = []
    for name in given.targets or TARGETS:
        print(f"fuzz {name}: {given.seconds} s", flush=True)
        words = [
            f"-max_total_time={given.seconds}",
            f"-runs={given.runs}",
            "-verbosity=0",
            "-print_final_stats=1",
        ]
        command = [sys.executable, "-m", "tests.fuzz", "--child", name, *words]
        if subprocess.run(command, check=False).returncode != 0:
            broken.append(name)
    print(f"broken: {', '.join(broken)}" if broken else "nothing found")
    return 1 if broken else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_one(sys.argv[2], sys.argv[3:])
    sys.exit(main())
