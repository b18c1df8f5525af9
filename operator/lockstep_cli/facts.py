"""What people are told of a job, from the object as the cluster has it; pure.

Commands that show jobs read them here. Invariant: a status of an older or newer Lockstep is shown
as far as it can be read; nothing is made up: what is not known is a dash.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lockstep_api.status import FINISHED, ConditionType, Phase
from lockstep_cli.shown import NOTHING, Json

BAD = {
    ConditionType.ACCEPTED: "False",
    ConditionType.READY: "False",
    ConditionType.FAILED: "True",
    ConditionType.DEGRADED: "True",
    ConditionType.TELEMETRY_DEGRADED: "True",
}
"""Conditions that say that something is wrong, worst first."""
_NO_TROUBLE = frozenset(("Finished", "Suspended"))
"""Why a job is not ready that is not to be."""
STYLES: dict[str, str] = {
    Phase.RUNNING: "green",
    Phase.COMPLETED: "blue",
    Phase.FAILED: "red",
    Phase.REFUSED: "red",
    Phase.SUSPENDED: "yellow",
    Phase.PENDING: "yellow",
    Phase.STARTING: "cyan",
}
ENDED = frozenset({*FINISHED, Phase.REFUSED})
"""Phases after which nothing happens unless somebody changes the job."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as one line tells it."""

    body: Json

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.body["metadata"].get("namespace", ""))

    @property
    def spec(self) -> Json:
        """What is wanted."""
        return self.body.get("spec") or {}

    @property
    def status(self) -> Json:
        """What was seen; empty before an operator saw it."""
        return self.body.get("status") or {}

    @property
    def phase(self) -> str:
        """One word; `Pending` before an operator saw it."""
        return str(self.status.get("phase") or Phase.PENDING)

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.phase in ENDED

    @property
    def finished(self) -> bool:
        """Whether it never changes again."""
        return self.phase in FINISHED

    @property
    def round(self) -> int:
        """Finished rounds."""
        return int(self.status.get("round") or 0)

    @property
    def rounds(self) -> int:
        """Rounds in all."""
        wanted = (self.spec.get("training") or {}).get("rounds")
        return int(self.status.get("rounds") or wanted or 0)

    @property
    def age(self) -> str | None:
        """When it was made (RFC 3339)."""
        found: str | None = self.body["metadata"].get("creationTimestamp")
        return found

    def left_s(self) -> float | None:
        """Seconds that the rest of its rounds take, if they take what those so far took."""
        elapsed = self.status.get("elapsedSeconds")
        if not elapsed or not self.round or self.phase != Phase.RUNNING:
            return None
        return float(elapsed) / self.round * max(self.rounds - self.round, 0)

    def conditions(self) -> list[Json]:
        """All that was said about it."""
        return list(self.status.get("conditions") or ())

    def trouble(self) -> str:
        """The worst that is wrong with it, in the operator's words; empty: nothing."""
        said = {one["type"]: one for one in self.conditions()}
        wrong = (
            said[kind]
            for kind, bad in BAD.items()
            if _is(said.get(kind), bad) and said[kind].get("reason") not in _NO_TROUBLE
        )
        return next((f"{one['reason']}: {one['message']}" for one in wrong), "")


def _is(condition: Json | None, status: str) -> bool:
    return condition is not None and condition.get("status") == status


def accuracy(value: Any) -> str:
    """A share of 1, as a percentage."""
    return NOTHING if value is None else f"{float(value):.2%}"


def joules(status: Json) -> str:
    """The modelled energy, else what there is, with its source."""
    energy = status.get("energyJoules") or {}
    for source in ("model", "measured", "cpu"):
        if (found := energy.get(source)) is not None:
            return amount(found, "J") + ("" if source == "model" else f" ({source})")
    return NOTHING


def amount(value: float | None, unit: str) -> str:
    """A number with three digits that matter, and its unit."""
    if value is None:
        return NOTHING
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def duration(seconds: float | None) -> str:
    """As kubectl has it: the two largest units."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    whole = max(round(seconds), 0)
    if whole < 120:
        return f"{whole}s"
    if whole < 3 * 3600:
        return f"{whole // 60}m" + (f"{whole % 60}s" if whole % 60 and whole < 600 else "")
    if whole < 2 * 86_400:
        return f"{whole // 3600}h" + (f"{whole % 3600 // 60}m" if whole % 3600 // 60 else "")
    return f"{whole // 86_400}d"


def since(moment: str | None, now: datetime) -> str:
    """How long ago a time in the cluster's form was."""
    if not moment:
        return NOTHING
    return duration((now - datetime.fromisoformat(moment)).total_seconds())
