"""What a sweep runs: every combination of the given values, with every seed; `sweep` calls it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from lockstep_simulator.overrides import BadSetting, plain, split, steps

_MOST_RUNS = 10_000


@dataclass(frozen=True, slots=True)
class Case:
    """One run of a sweep."""

    values: tuple[tuple[str, str], ...]
    """Path and value of each setting that is varied, as they were written."""
    seed: int | None
    """Of the job; None: the manifest's."""

    def sets(self) -> list[str]:
        """What `--set` would say."""
        found = [f"{path}={value}" for path, value in self.values]
        return found if self.seed is None else [*found, f"training.seed={self.seed}"]

    def label(self) -> str:
        """The varied values, for people."""
        return ", ".join(f"{path}={plain(value)}" for path, value in self.values)


def cases(sets: Sequence[str], seeds: Sequence[int]) -> list[Case]:
    r"""All runs, in the order of the given values, seeds last.

    Args:
        sets: `path=one,two,…`; a comma within a value is `\,`.
        seeds: of the job; the manifest's own when there are none.

    Raises:
        BadSetting: it is no such text, or a path stands twice.
    """
    varied = [_varied(one) for one in sets]
    paths = [path for path, _ in varied]
    if repeated := {path for path in paths if paths.count(path) > 1}:
        raise BadSetting(f"--set {min(repeated)} stands twice: give all its values at once")
    if seeds and "training.seed" in paths:
        raise BadSetting("--set training.seed and --seeds say the same: use --seeds")
    combined = itertools.product(*(values for _, values in varied))
    of_seed: Sequence[int | None] = seeds or [None]
    made = [
        Case(tuple(zip(paths, values, strict=True)), seed)
        for values in combined
        for seed in of_seed
    ]
    if len(made) > _MOST_RUNS:
        raise BadSetting(f"these are {len(made)} runs, more than {_MOST_RUNS}: give fewer values")
    return made


def _varied(setting: str) -> tuple[str, list[str]]:
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise BadSetting(f"--set {setting!r}: write path=one,two, for example training.rounds=5,10")
    way = steps(path)
    named = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in way)
    values = split(text, ",")
    if len(set(values)) < len(values):
        raise BadSetting(f"--set {setting}: a value stands twice")
    return named.removeprefix("."), values


def read_seeds(text: str) -> list[int]:
    """`0,1,2` or `0-9` as numbers.

    Raises:
        BadSetting: it is none of these.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise BadSetting(f"--seeds {text}: write whole numbers, such as 0,1,2 or 0-9")
        found.extend(range(int(first), int(last if dash else first) + 1))
    if not found or len(set(found)) < len(found):
        raise BadSetting(f"--seeds {text}: give each seed once")
    return found
