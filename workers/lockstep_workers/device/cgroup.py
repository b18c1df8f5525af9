"""What the kernel says of this container's CPU: quota, time held back (cgroup v1, v2).

Invariant: reads only; a file that is not there gives None (no quota, no figure), not an error.
"""

from dataclasses import dataclass
from pathlib import Path

_NANO, _MICRO = 1e-9, 1e-6


@dataclass(frozen=True, slots=True)
class CpuReading:
    """A reading of the container's CPU."""

    quota_cores: float | None
    """CPU quota in cores; None: no quota is set."""
    throttled_s: float | None
    """Seconds that the quota held it back since it started."""


class CpuCgroup:
    """This process's CPU cgroup."""

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        """Finds the cgroup's folders in `proc`/cgroup and `proc`/mountinfo."""
        mounts = (proc / "mountinfo").read_text()
        groups = (proc / "cgroup").read_text()
        self._v2 = _folder(mounts, groups, controller="")
        self._cpu = _folder(mounts, groups, controller="cpu")

    def read(self) -> CpuReading:
        """What the kernel says now."""
        return self._read_v1(self._cpu) if self._cpu is not None else self._read_v2()

    def _read_v1(self, folder: Path) -> CpuReading:
        quota = _number(folder / "cpu.cfs_quota_us")
        period = _number(folder / "cpu.cfs_period_us")
        limited = quota is not None and period is not None and quota > 0
        throttled = _field(folder / "cpu.stat", "throttled_time")
        return CpuReading(
            quota / period if limited and quota and period else None,
            None if throttled is None else throttled * _NANO,
        )

    def _read_v2(self) -> CpuReading:
        if self._v2 is None:
            return CpuReading(None, None)
        quota, _, period = (_text(self._v2 / "cpu.max") or "max 100000").partition(" ")
        throttled = _field(self._v2 / "cpu.stat", "throttled_usec")
        return CpuReading(
            None if quota == "max" else float(quota) / float(period),
            None if throttled is None else throttled * _MICRO,
        )


def _folder(mounts: str, groups: str, *, controller: str) -> Path | None:
    """The folder of this process's cgroup in a controller's hierarchy ("" = v2)."""
    path = next((p for c, p in _memberships(groups) if controller in c), None)
    mount = _mount(mounts, controller)
    if path is None or mount is None:
        return None
    root, point = mount
    inside = path.removeprefix(root) if root != "/" else path
    folder = Path(point) / inside.strip("/")
    return folder if folder.is_dir() else Path(point)  # a container sees its own as the top


def _memberships(groups: str) -> list[tuple[list[str], str]]:
    """(controllers, path) of each line of /proc/self/cgroup."""
    lines = [line.split(":", 2) for line in groups.splitlines()]
    return [(controllers.split(","), path) for _, controllers, path in lines]


def _mount(mounts: str, controller: str) -> tuple[str, str] | None:
    """(root, mount point) of a controller's hierarchy in /proc/self/mountinfo."""
    for line in mounts.splitlines():
        fields, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        root, point = fields.split(" ")[3:5]
        wanted = kind == "cgroup2" if not controller else kind == "cgroup"
        if wanted and (not controller or controller in options.split(",")):
            return root, point
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    return None if text is None else float(text)


def _field(path: Path, name: str) -> float | None:
    """A named number of a file of `name value` lines."""
    for line in (_text(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return float(value)
    return None
