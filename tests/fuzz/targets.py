"""All fuzz targets, by name. `test_targets` calls them with Hypothesis's inputs, `__main__` with
those of Atheris.

A target's module is imported when it is asked for, so that none waits for what others need.
"""

import importlib
from pathlib import Path

from tests.fuzz.stages import Target

MODULES = {
    "strangers": ("pod_token", "certificate_request", "published_keys", "probe_head"),
    "bodies": ("messages", "job_settings", "update_body", "parcel", "frames"),
    "files": ("checkpoint", "trace", "trace_file", "policy", "experience", "idx_file"),
    "planning": ("manifest", "quantity", "plans"),
    "requests": ("requests",),
    "shown": ("log_line", "history"),
}
NAMES = tuple(name for names in MODULES.values() for name in names)
ALL = "everything"
_CORPUS = Path(__file__).with_name("corpus")


def target_of(name: str) -> Target:
    """A target."""
    if name == ALL:
        return _everything()
    (module,) = (module for module, names in MODULES.items() if name in names)
    found: Target = importlib.import_module(f"tests.fuzz.{module}").TARGETS[name]
    return found


def found_before(name: str) -> list[bytes]:
    """Inputs that once broke a target, or showed what its own did not."""
    return [path.read_bytes() for path in sorted((_CORPUS / name).glob("*"))]


def _everything() -> Target:
    """Any of them, as the first byte says: so one process tries all."""
    each = [target_of(name) for name in NAMES]

    def read(data: bytes) -> str:
        number = (data[0] if data else 0) % len(each)
        return f"{NAMES[number]}: {each[number].stage_of(data[1:])}"

    seeds = (bytes((i,)) + seed for i, target in enumerate(each) for seed in target.seeds)
    return Target(read, tuple(seeds))
