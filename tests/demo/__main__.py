"""`make demo`: compiles, builds, installs and runs one job, and tells how long each step took.

    python3 -m tests.demo --python .venv-demo/bin/python --stamp .venv-demo/.installed

Runs with the standard library alone, since the environment of its steps is made by one of them.
Each is a command that can be repeated by hand. Kubernetes compiles while the images build.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from images.alone import end_with_starter
from images.cli import layout_folder
from images.command import cache_folder
from images.recipe import RECIPES
from tests.demo.steps import Beside, Lane, Step, StepFailed, Took, run_alone, table


def stages(python: str, stamp: str) -> list[list[Lane]]:
    """What the demo does: stages one after the other, the lanes of each side by side."""
    cluster = (python, "-m", "tests.cluster")
    paths = [str(layout_folder(cache_folder(), name)) for name in RECIPES]
    return [
        [[Step("venv", ("make", "--silent", "--no-print-directory", stamp))]],
        [[Step("packages", (*cluster, "deps"))]],  # apt-get cannot run twice: before the lanes
        [
            [Step("compile", (*cluster, "build")), Step("cluster", (*cluster, "up"))],
            [Step("images", (python, "images/build.py"))],
        ],
        [[Step("load", (*cluster, "load", *paths))]],
        [[Step("install", (python, "-m", "tests.demo.job", "install"))]],
        [[Step("job", (python, "-m", "tests.demo.job", "run"))]],
    ]


def run_stage(lanes: Sequence[Lane]) -> list[Took]:
    """One step has the terminal; several lanes share it line by line."""
    if len(lanes) > 1:
        return Beside(lanes).run()
    return [run_alone(step) for step in lanes[0]]


def main() -> int:
    """Runs the demo."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.demo", description=__doc__)
    parser.add_argument("--python", required=True, help="of the environment that the steps use")
    parser.add_argument("--stamp", required=True, help="what make makes to have it")
    arguments = parser.parse_args()
    began = time.monotonic()
    took: list[Took] = []
    try:
        for stage in stages(arguments.python, arguments.stamp):
            took += run_stage(stage)
    except StepFailed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; make cluster-down takes away what runs", file=sys.stderr)
        return 130
    finally:
        if took:
            print(f"\n{table(took, seconds=time.monotonic() - began)}", flush=True)
    return 0


if __name__ == "__main__":
    end_with_starter()
    sys.exit(main())
