"""What other benches measure for the page, by title; each is also a command of its own."""

import multiprocessing
import os
from collections.abc import Callable, Mapping

from tests.bench import split_decisions as decisions
from tests.bench import split_steps as steps
from tests.bench import split_wire as wire


def _clusters() -> list[str]:
    return [
        "`python -m tests.bench.split_decisions`: mean divergence of clusters over that of random "
        f"ones, {decisions.SEEDS} seeds:",
        "",
        *decisions.cluster_rows(),
        "",
        "By noised labels, judged by the true ones:",
        "",
        *decisions.noise_rows(),
        "",
        *decisions.time_rows(),
    ]


def _matching() -> list[str]:
    return [
        f"The same command: {decisions.DRAWINGS} drawings of each scene; {decisions.SETTING}:",
        "",
        *decisions.matching_rows(),
    ]


def _steps() -> list[str]:
    return [f"`python -m tests.bench.split_steps`: {steps.SCENE}:", "", *steps.rows()]


def _wire() -> list[str]:
    multiprocessing.set_start_method("spawn", force=True)
    before = os.getloadavg()[0]
    rows = wire.markdown(wire.measure(list(wire.CASES)))
    return [
        "`python -m tests.bench.split_wire`: a step's activations to an edge, gradients back, "
        f"8 device processes, raw sockets and ours in turns; load of the machine {before:.1f}:",
        "",
        *rows,
    ]


SECTIONS: Mapping[str, Callable[[], list[str]]] = {
    "Clusters": _clusters,
    "Clusters and their edges": _matching,
    "A step with equal and with proportional batches": _steps,
    "The wire beside raw sockets": _wire,
}
