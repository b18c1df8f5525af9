"""Kernel settings that kubelets change for the whole machine: noted before, put back after.

The note is written once per cluster and outlives a crash; `teardown` restores from it. Clusters
that are up at the same time have the same note, and the last to go restores.
"""

import json
from pathlib import Path

from tests.cluster.layout import STATE_ROOT, Layout

_CHANGED_BY_KUBELET = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_PROC = Path("/proc/sys")


def _note(layout: Layout) -> Path:
    return layout.state / "settings.json"


def _others(layout: Layout) -> list[Path]:
    """The notes of other clusters on this machine."""
    return [path for path in STATE_ROOT.glob("*/settings.json") if path != _note(layout)]


def note_settings(layout: Layout) -> None:
    for note in _others(layout):
        _note(layout).write_text(note.read_text())
        return
    present = [name for name in _CHANGED_BY_KUBELET if (_PROC / name).exists()]
    values = {name: (_PROC / name).read_text().strip() for name in present}
    _note(layout).write_text(json.dumps(values))


def restore_settings(layout: Layout) -> None:
    try:
        values = json.loads(_note(layout).read_text())
    except (FileNotFoundError, ValueError):
        return  # nothing was started yet
    if _others(layout):
        return
    for name, value in values.items():
        if (_PROC / name).read_text().strip() != value:
            (_PROC / name).write_text(value)
