"""Owns which engine builds: the one asked for, else the first that proves that it can.

Called by `cli`. An engine proves itself on a small image that asks all that ours ask: its base
comes, a step runs, what it saves can be read. Invariant: one line says which was taken and why not
an earlier one; when none is, the error says of each what it lacks.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from images import layout
from images.command import ImageError
from images.engines import Engine, open_buildah, open_docker, open_podman
from images.recipe import PREFIX, Recipe

VARIABLE = "LOCKSTEP_IMAGE_ENGINE"
NAMES = ("docker", "podman", "buildah")
PROBE = Recipe("probe", ())
_PROBE_REFERENCE = f"{PREFIX}/probe:1"

Open = Callable[[], Engine]


def openers(cache: Path) -> dict[str, Open]:
    """How each engine is opened, the first choice first."""
    return {"docker": open_docker, "podman": open_podman, "buildah": lambda: open_buildah(cache)}


def choose(
    wanted: str | None, cache: Path, *, log: Path, refresh: bool, among: Mapping[str, Open]
) -> Engine:
    """The engine asked for, else the first that proves itself."""
    lacks: dict[str, str] = {}
    for name in [wanted] if wanted else list(among):
        try:
            engine = among[name]()
            engine.prepare(log, refresh=refresh)
            prove(engine, cache, log=log)
        except ImageError as error:
            lacks[name] = _one_line(error)
        else:
            print(taken(name, wanted, lacks), flush=True)
            return engine
    raise ImageError(none_left(wanted, lacks, log=log))


def prove(engine: Engine, cache: Path, *, log: Path) -> None:
    """Build the probe and read what the engine saves of it."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        folder = Path(scratch) / "layout"
        folder.mkdir()
        engine.build(PROBE, _PROBE_REFERENCE, log=log, refresh=False)
        saved = engine.export(_PROBE_REFERENCE, folder, log=log)
        layout.publish(folder, saved, reference=_PROBE_REFERENCE, inputs="probe")
        if layout.built_from(folder) != "probe":
            raise ImageError("what it saves is incomplete")


def taken(name: str, wanted: str | None, lacks: Mapping[str, str]) -> str:
    """The line that says which engine was taken, why not an earlier one, how to choose."""
    if wanted:
        return f"engine: {name}, as asked for"
    because = "".join(f"; {other}: {reason}" for other, reason in lacks.items())
    return f"engine: {name}{because} ({VARIABLE}={'|'.join(NAMES)} chooses)"


def none_left(wanted: str | None, lacks: Mapping[str, str], *, log: Path) -> str:
    if wanted:
        return f"{wanted}, which was asked for, cannot build: {lacks[wanted]} (more is in {log})"
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in lacks.items())
    return f"no engine can build the images; mend one of these (more is in {log}):{reasons}"


def _one_line(error: ImageError) -> str:
    """The last line: where a program's output was kept, it says what went wrong."""
    return str(error).strip().splitlines()[-1].strip()[:200]
