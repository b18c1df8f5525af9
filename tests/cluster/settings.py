"""Kernel settings that kubelets change for the whole machine: noted before, put back after.

The note is written once per cluster and outlives a crash; `teardown` restores from it.
"""

import json
from pathlib import Path

from tests.cluster.layout import Layout

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


def note_settings(layout: Layout) -> None:
    present = [name for name in _CHANGED_BY_KUBELET if (_PROC / name).exists()]
    values = {name: (_PROC / name).read_text().strip() for name in present}
    _note(layout).write_text(json.dumps(values))


def restore_settings(layout: Layout) -> None:
    try:
        values = json.loads(_note(layout).read_text())
    except (FileNotFoundError, ValueError):
        return  # nothing was started yet
    for name, value in values.items():
        if (_PROC / name).read_text().strip() != value:
            (_PROC / name).write_text(value)
