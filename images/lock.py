"""Owns how the locks are made; called by `make lock`.

Each image's lock is compiled from its extra in pyproject.toml for the Python of Debian trixie,
with hashes, no index address, and the versions of requirements/dev.lock, so that the tests run
what the images hold. What Debian's packages bring to an image is left out of its lock. The demo's
lock is its extra and what `lockstep` needs to watch a job and report of it, also with the versions
of the tests.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from images.parts import normalised

ROOT = Path(__file__).resolve().parent.parent
FROM_DEBIAN: dict[str, frozenset[str]] = {
    "operator": frozenset(),
    "worker": frozenset({"numpy", "torch"}),
}
ONLY_FOR_GPUS = (
    "cuda-bindings",
    "cuda-pathfinder",
    "cuda-toolkit",
    "nvidia-cuda-cccl",
    "nvidia-cusolver",
    "triton",
)
"""What torch asks for and imports only on a GPU, 1.3 GB. The index has no torch without CUDA for
Linux: it is linked to the other libraries, and does not start without them."""
ONLY_FOR_DATA_SETS = (
    "joblib",
    "munch",
    "pandas",
    "pynvml",
    "scikit-learn",
    "torchvision",
)
"""What fedlab asks for and needs for its data sets alone, 100 MB; the tests use none of them.
Its pynvml is nvidia-ml-py, which stays."""
NOT_IN_THE_DEMO = frozenset({"numpy"})
"""60 MB that the commands about clusters do not import."""
COMMON = ("--generate-hashes", "--quiet", "--no-header", "--no-annotate", "--no-emit-index-url")


def requirement_name(requirement: str) -> str:
    matched = re.match(r"[A-Za-z0-9._-]+", requirement)
    if matched is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return normalised(matched.group())


def image_requirements(pyproject: str, extra: str) -> list[str]:
    """What the image's lock starts from: the project's and the extra's, less Debian's."""
    project = tomllib.loads(pyproject)["project"]
    wanted: list[str] = [*project["dependencies"], *project["optional-dependencies"][extra]]
    return [each for each in wanted if requirement_name(each) not in FROM_DEBIAN[extra]]


def demo_requirements(pyproject: str) -> list[str]:
    """What the demo's environment starts from; the project itself runs from the checkout."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    wanted: list[str] = [*project["dependencies"], *extras["cli"], *extras["demo"]]
    return [each for each in wanted if requirement_name(each) not in NOT_IN_THE_DEMO]


def compile_lock(arguments: list[str], requirements: list[str]) -> None:
    uv = Path(sys.executable).parent / "uv"
    command = [str(uv) if uv.exists() else "uv", "pip", "compile", *COMMON, *arguments]
    subprocess.run(command, cwd=ROOT, input="\n".join(requirements), text=True, check=True)


def main() -> None:
    any_python = ["--python-version", "3.11", "--universal"]
    unused = (*ONLY_FOR_GPUS, *ONLY_FOR_DATA_SETS)
    left_out = [word for name in unused for word in ("--no-emit-package", name)]
    dev = ["pyproject.toml", "--extra", "dev", *any_python, *left_out]
    compile_lock([*dev, "-o", "requirements/dev.lock"], [])
    pyproject = (ROOT / "pyproject.toml").read_text()
    demo = ["-", *any_python, "-c", "requirements/dev.lock", "-o", "requirements/demo.lock"]
    compile_lock(demo, demo_requirements(pyproject))
    for image in FROM_DEBIAN:
        platform = ["--python-version", "3.13", "--python-platform", "x86_64-manylinux_2_28"]
        versions = ["-c", "requirements/dev.lock", "-o", f"requirements/{image}.lock"]
        compile_lock(["-", *platform, *versions], image_requirements(pyproject, image))


if __name__ == "__main__":
    main()
