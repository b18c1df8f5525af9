"""The bench of the strategies: what is run next, what the figures say, what the page admits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.bench.strategies.cells import (
    CALIBRATED,
    CELLS,
    DAMPED,
    DOUBLED,
    FEDAVG,
    METHODS,
    SCAFFOLD,
    Cell,
    Run,
)
from tests.bench.strategies.examples import Source, find, load
from tests.bench.strategies.figures import (
    Curve,
    best_rate,
    cost_to,
    differences,
    mean,
    promising,
    rounds_ratio,
)
from tests.bench.strategies.goals import FLOORS, Goal, goals
from tests.bench.strategies.page import page
from tests.bench.strategies.runs import SAME_RATE, Bench, Results, play

IMAGES = Source(None, "images", (1, 28, 28), 10)
USERS = Source(None, "users", (42,), 6, users=24)
SOURCES = {"images": IMAGES, "users": USERS}
CELL = {cell.name: cell for cell in CELLS}


def curve(final: float, *, reached_in: int = 5, rounds: int = 20) -> Curve:
    """A run that stays at its final accuracy from some round on."""
    accuracy = tuple(final if n >= reached_in else 0.1 for n in range(1, rounds + 1))
    so_far = tuple(float(n) for n in range(1, rounds + 1))
    return Curve(accuracy, so_far, tuple(2 * n for n in so_far), tuple(1e6 * n for n in so_far))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """The whole bench, with nothing known."""
    return Bench(CELLS, SOURCES, Results(tmp_path / "results.jsonl"))


def know(bench: Bench, run: Run, result: Curve) -> None:
    bench.results.add(run.key(bench.sources[run.cell.data]), result, 1.0)


def know_all(bench: Bench, name: str, accuracy: dict[str, float], *, reached_in: int = 5) -> None:
    """The methods at the first learning rate of their grids."""
    cell = CELL[name]
    for method, final in accuracy.items():
        rate = cell.rates(METHODS[method])[0]
        for seed in bench.seeds:
            run = Run(cell, METHODS[method], rate, seed)
            know(bench, run, curve(final, reached_in=reached_in))


def test_the_final_accuracy_is_the_mean_of_the_last_ten_rounds() -> None:
    falling = replace(curve(0.8), accuracy=tuple(np.linspace(0.9, 0.71, 20)))
    assert falling.final == pytest.approx(np.linspace(0.9, 0.71, 20)[10:].mean())


def test_rounds_to_a_target_are_to_the_first_that_has_it() -> None:
    assert curve(0.8, reached_in=7).rounds_to(0.8) == 7
    assert curve(0.8).rounds_to(0.81) is None


def test_a_learning_rate_is_the_best_only_with_all_seeds() -> None:
    by_rate = {0.1: {0: curve(0.7), 1: curve(0.8)}, 0.2: {0: curve(0.9)}}
    assert best_rate(by_rate, (0, 1)) == 0.1
    assert best_rate({0.2: {0: curve(0.9)}}, (0, 1)) is None


def test_differences_are_paired_by_seed() -> None:
    fedavg = {0: curve(0.5), 1: curve(0.7)}
    found = differences({0: curve(0.52), 1: curve(0.72)}, fedavg)
    assert found == pytest.approx({0: 2.0, 1: 2.0})
    assert mean(found.values()).error == pytest.approx(0.0, abs=1e-9)


def test_rates_far_behind_with_the_first_seed_are_not_run_with_the_others() -> None:
    assert promising({0.1: curve(0.70), 0.2: curve(0.735), 0.3: curve(0.60)}) == [0.1, 0.2]


def test_a_run_that_never_reached_the_target_counts_with_all_its_rounds() -> None:
    mine, other = {0: curve(0.8, reached_in=5)}, {0: curve(0.7, rounds=20)}
    ratio = rounds_ratio(mine, other, target=0.75)
    assert ratio is not None
    assert (ratio.value, ratio.censored, str(ratio)) == (0.25, True, "≤ 0.25")
    assert rounds_ratio(other, mine, target=0.75) is None


def test_a_cost_is_that_of_the_round_in_which_the_target_was_reached() -> None:
    cost = cost_to(0.75, {0: curve(0.8, reached_in=4), 1: curve(0.7)})
    assert cost is not None
    assert (cost.reached, cost.rounds, cost.seconds, cost.joules) == (1, 4, 4, 8)
    assert cost.megabytes == 4


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_cell_is_a_job_that_the_models_accept(cell: Cell) -> None:
    source = SOURCES[cell.data]
    for name in cell.methods:
        for rate in cell.rates(METHODS[name]):
            spec = Run(cell, METHODS[name], rate, 0).spec(source)
            assert spec.training.learning_rate == rate
            assert spec.strategy.name == name.split()[0]
    assert FEDAVG in cell.methods
    assert CALIBRATED in cell.methods


def test_no_two_runs_have_one_key() -> None:
    keys = [
        Run(cell, METHODS[name], rate, seed).key(SOURCES[cell.data])
        for cell in CELLS
        for name in cell.methods
        for rate in cell.rates(METHODS[name])
        for seed in (0, 1)
    ]
    assert len(keys) == len(set(keys))


def test_the_first_seed_goes_first_through_all_rates(bench: Bench) -> None:
    first = next(bench.missing())
    assert (first.cell.name, first.method.name, first.seed) == ("p-ext", FEDAVG, 0)
    rates = CELL["p-ext"].rates(METHODS[FEDAVG])
    for rate in rates:
        know(bench, Run(first.cell, first.method, rate, 0), curve(0.7 if rate < 0.1 else 0.5))
    mine = [run for run in bench.missing() if (run.cell, run.method) == (first.cell, first.method)]
    assert {(run.rate, run.seed) for run in mine} == {
        (rate, seed) for rate in rates if rate < 0.1 for seed in (1, 2)
    }


def test_what_numbers_to_reach_are_about_is_run_before_all_else(bench: Bench) -> None:
    needed = {(cell.name, name) for cell in CELLS for name in cell.first}
    order = [(run.cell.name, run.method.name) for run in bench.missing()]
    first = list(dict.fromkeys(order))[: len(needed)]
    assert set(first) == needed
    assert {
        (floor.cell, name) for floor in FLOORS for name in (floor.method, floor.against)
    } <= needed


def test_calibrated_is_also_run_at_a_third_of_the_best_rate_of_fedavg(bench: Bench) -> None:
    cell = CELL["p-ext"]
    for rate in cell.rates(METHODS[FEDAVG]):
        for seed in bench.seeds:
            know(bench, Run(cell, METHODS[FEDAVG], rate, seed), curve(rate))
    third = bench.third(cell)
    assert third == pytest.approx(0.2 / 3, rel=0.05)
    wanted = {run.rate for run in bench.missing() if run.cell is cell}
    assert third in wanted


def test_a_bench_goes_on_from_its_file(bench: Bench) -> None:
    run = next(bench.missing())
    know(bench, run, curve(0.7))
    with bench.results.file.open("a") as file:
        file.write('{"key": "cut sho')
    again = replace(bench, results=Results(bench.results.file).read())
    assert again.results.curves == bench.results.curves
    assert run not in list(again.missing())


def named(bench: Bench, words: str) -> Goal:
    """The one goal that speaks of something."""
    (found,) = [goal for goal in goals(bench) if words in f"{goal.setting} {goal.wanted}"]
    return found


def test_what_has_not_been_run_is_not_measured(bench: Bench) -> None:
    assert {goal.reached for goal in goals(bench)} == {None}
    assert "not measured" in page(bench, "a command")


def test_a_goal_is_reached_or_missed_by_the_paired_difference(bench: Bench) -> None:
    know_all(bench, "p-ext", {FEDAVG: 0.70, DAMPED: 0.75})
    know_all(bench, "p-ext", {CALIBRATED: 0.77}, reached_in=2)
    assert named(bench, "+6 points").reached
    assert named(bench, "+6 points").measured == "+7.00 ± 0.00"
    assert not named(bench, "calibrated against fedavg m.9 s.1 +3 points").reached
    assert named(bench, "≤ 0.5 × the rounds").reached
    know_all(bench, "ext", {FEDAVG: 0.80, CALIBRATED: 0.79, DOUBLED: 0.82})
    assert not named(bench, "+0.5 points").reached
    assert named(bench, "+1.5 points").reached
    assert "**missed**" in page(bench, "a command")


def test_rounds_are_compared_where_each_is_fastest_and_where_it_is_most_accurate(
    bench: Bench,
) -> None:
    cell, small, large = CELL["ext"], 0.03, 0.1
    know_all(bench, "ext", {FEDAVG: 0.80}, reached_in=10)
    for rate, final, reached_in in ((small, 0.82, 9), (large, 0.81, 6)):
        for seed in bench.seeds:
            run = Run(cell, METHODS[CALIBRATED], rate, seed)
            know(bench, run, curve(final, reached_in=reached_in))
    found = named(bench, ": calibrated against fedavg ≤ 0.75")
    assert found.measured.startswith("0.60 (lr 0.1 and 0.05)")
    assert found.measured.endswith("lr 0.03 and 0.05: 0.90")
    assert found.reached


def test_a_seed_far_behind_is_named(bench: Bench) -> None:
    cell = CELL["ext"]
    know_all(bench, "ext", {FEDAVG: 0.8})
    third = bench.third(cell)
    assert third is not None
    for seed in bench.seeds:
        run = Run(cell, METHODS[CALIBRATED], third, seed)
        know(bench, run, curve(0.8 if seed else 0.76))
    found = named(bench, "no seed more than 3 points")
    assert not found.reached
    assert found.measured.startswith("-4.00 (ext seed 0)")


def test_the_same_rate_is_compared_in_every_cell_that_got_there(bench: Bench) -> None:
    cell = CELL["ext"]
    for name, rounds in ((FEDAVG, 12), (CALIBRATED, 6)):
        for seed in bench.seeds:
            know(bench, Run(cell, METHODS[name], SAME_RATE, seed), curve(0.8, reached_in=rounds))
    found = named(bench, "both at lr")
    assert (found.measured, found.reached) == ("ext 0.50", True)


def test_a_target_that_tells_nothing_of_the_data_gives_way_to_fedavg(bench: Bench) -> None:
    assert bench.target(CELL["ext"]) == CELL["ext"].target
    know_all(bench, "ext", {FEDAVG: 0.9512})
    assert bench.target(CELL["ext"]) == 0.95
    know_all(bench, "p-ext", {FEDAVG: 0.71})
    assert bench.target(CELL["p-ext"]) == CELL["p-ext"].target


def test_the_page_says_what_is_missing_in_a_cell(bench: Bench) -> None:
    know_all(bench, "p-extR", {FEDAVG: 0.7, SCAFFOLD: 0.72})
    told = page(bench, "a command").partition("## p-extR")[2].partition("## p-equal")[0]
    assert "not run yet: calibrated" in told
    assert "| scaffold |" in told
    assert "+2.00 ± 0.00" in told


def some_images(file: Path) -> Path:
    random = np.random.default_rng(0)
    labels = np.arange(200, dtype=np.uint8) % 4
    images = random.integers(0, 60, (200, 6, 6), np.uint8) + 40 * labels[:, None, None]
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return file


def test_a_run_is_a_simulated_job_round_by_round(tmp_path: Path) -> None:
    file = some_images(tmp_path / "images.npz")
    cell = replace(CELL["p-equal"], rounds=4, fraction=1.0, alpha=1000.0, steps={"fixed": 20})
    found = play(Run(cell, METHODS[FEDAVG], 0.1, 0), find(file), load(file))
    assert found.accuracy[-1] > 0.9
    for so_far in (found.seconds, found.joules, found.bytes):
        assert len(so_far) == 4
        assert list(so_far) == sorted(set(so_far))
        assert so_far[0] > 0


def test_a_run_that_diverged_is_at_chance_from_there_on(tmp_path: Path) -> None:
    file = some_images(tmp_path / "images.npz")
    cell = replace(CELL["p-equal"], rounds=4, steps={"fixed": 3})
    found = play(Run(cell, METHODS[FEDAVG], 1e12, 0), find(file), load(file))
    assert found.accuracy == (0.25,) * 4


def test_images_and_windows_of_users_are_read_as_they_are_found(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (40, 8, 8), np.uint8)
    labels = np.arange(40, dtype=np.uint8) % 4
    np.savez(tmp_path / "images.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    found, data = find(tmp_path / "images.npz"), load(tmp_path / "images.npz")
    assert (found.shape, found.classes, found.users) == ((1, 8, 8), 4, 0)
    assert data.train.inputs.mean() == pytest.approx(0.0, abs=1e-5)
    assert data.test.inputs.std() == pytest.approx(1.0, abs=1e-5)
    windows = random.normal(3, 2, (50, 6)).astype(np.float32)
    users = np.repeat(np.arange(5, dtype=np.uint8), 10)
    np.savez(tmp_path / "windows.npz", x=windows, y=labels[:1].repeat(50), user=users)
    found, data = find(tmp_path / "windows.npz"), load(tmp_path / "windows.npz")
    assert (found.shape, found.users, len(data.train), len(data.test)) == ((6,), 5, 40, 10)
    assert data.train.inputs.mean(axis=0) == pytest.approx(np.zeros(6), abs=1e-5)
