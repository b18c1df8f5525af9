"""The numbers to reach, each with what was measured and whether that is enough. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.split.arms import ARMS, FEDAVG, FLOAT32, KL, LABELS, MUTUAL, RANDOM, Setting
from tests.bench.split.figures import difference
from tests.bench.split.runs import Bench
from tests.bench.strategies.figures import Mean


@dataclass(frozen=True, slots=True)
class Wanted:
    """A floor for an arm against another one of its setting, in points."""

    setting: str
    arm: str
    against: str
    least: float = 0.0
    cloud: bool = False
    """Of the cloud's model; else of the edges'."""
    within_error: bool = False
    """A standard error is allowed for."""
    within: float | None = None
    """It may differ by so much, either way."""

    def wanted(self) -> str:
        """In words."""
        if self.within is not None:
            return f"within {self.within:g} points"
        if self.within_error:
            return "no more than one standard error below"
        return f"+{self.least:g} points"

    def reached(self, found: Mean) -> bool:
        """Whether that is enough."""
        if self.within is not None:
            return abs(found.value) <= self.within
        return found.value >= (-found.error if self.within_error else self.least)


FLOORS = (
    Wanted("cnn20", KL, FEDAVG, 2.0),
    Wanted("cnn20", MUTUAL, KL, 2.0),
    Wanted("cnn20", MUTUAL, LABELS, within_error=True),
    Wanted("cnn20", MUTUAL, LABELS, 1.0, cloud=True),
    Wanted("cnn20", KL, FLOAT32, within=0.3),
    Wanted("cnn20", KL, RANDOM),
    Wanted("cnn8", KL, FEDAVG, 2.0),
    Wanted("cnn8", MUTUAL, LABELS, within_error=True),
    Wanted("res20", KL, FEDAVG, 2.0),
    Wanted("res20", MUTUAL, KL, 2.0),
    Wanted("res20", MUTUAL, LABELS, within_error=True),
    Wanted("res20", MUTUAL, LABELS, 1.0, cloud=True),
)


def goals(bench: Bench, settings: list[Setting]) -> Iterator[tuple[str, str, str, str]]:
    """(what, wanted, measured, verdict) of each."""
    titles = {setting.name: setting.title for setting in settings}
    for one in FLOORS:
        if one.setting not in titles:
            continue
        arms, whose = ARMS[one.setting], "cloud model, " if one.cloud else ""
        what = f"{one.setting}: {whose}{one.arm} against {one.against}"
        runs = [bench.tuned(arms[name]) for name in (one.arm, one.against)]
        found = difference(runs[0], runs[1], cloud=one.cloud)
        seeds = len(runs[0].keys() & runs[1].keys())
        if found is None or seeds < 2:
            yield what, one.wanted(), "" if found is None else f"{found} (1 seed)", "not measured"
        else:
            verdict = "reached" if one.reached(found) else "**missed**"
            yield (
                what,
                one.wanted(),
                f"{found.value:+.2f} ± {found.error:.2f} ({seeds} seeds)",
                verdict,
            )
