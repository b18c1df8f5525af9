"""What this version can do of what the CRD can say, where both planes have to know it.

The operator refuses a job that asks for more (`core/support`); a worker has one of each entry.
"""

from collections.abc import Sequence

from lockstep_api.spec import StrategyName

STRATEGIES = (
    StrategyName.FEDAVG,
    StrategyName.FEDPROX,
    StrategyName.FEDNOVA,
    StrategyName.SCAFFOLD,
    StrategyName.FEDAGRAC,
    StrategyName.FEDADAM,
    StrategyName.FEDYOGI,
)


def choice(names: Sequence[str]) -> str:
    """The names as a sentence lists them: "a", "a or b", "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
