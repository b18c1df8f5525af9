"""The bench of split training: what is run next, what is kept, what the page admits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lockstep_workers.data import Dataset, Examples
from tests.bench.split import page, sections
from tests.bench.split.arms import (
    ARMS,
    CNN8,
    FEDAVG,
    IMAGES,
    KL,
    LABELS,
    MUTUAL,
    ROUND,
    Arm,
    Run,
)
from tests.bench.split.figures import Curve, accuracy, best, difference
from tests.bench.split.goals import FLOORS, Wanted, goals
from tests.bench.split.playing import play
from tests.bench.split.runs import Bench, Results, carry_out
from tests.bench.strategies.figures import Mean

IDS = {IMAGES: "some images"}
CNN8_ARMS = ARMS["cnn8"]


def curve(final: float, cloud: float | None = None) -> Curve:
    """One whose last rounds have this accuracy."""
    return Curve(
        rounds=tuple(range(1, 16)),
        edge=(0.1,) * 5 + (final,) * 10,
        cloud=() if cloud is None else (0.1,) * 5 + (cloud,) * 10,
        divergence=0.2,
        edge_taught=3,
        cloud_taught=4,
    )


def bench(tmp_path: Path) -> Bench:
    return Bench(Results(tmp_path / "results.jsonl"), IDS)


def known(
    at: Bench, arm: Arm, finals: dict[float, list[float]], *, base: float | None = None
) -> None:
    """Makes results of an arm known: by learning rate, those of seed 0, 1, …"""
    for rate, values in finals.items():
        for seed, final in enumerate(values):
            run = Run(arm, rate, None, seed) if base is None else Run(arm, base, rate, seed)
            cloud = final if arm.distil else None
            at.results.add(run.key(IDS[IMAGES]), curve(final, cloud), core_s=1.0)


def test_the_best_rate_of_the_first_seed_goes_on_to_the_others(tmp_path: Path) -> None:
    one, arm = bench(tmp_path), CNN8_ARMS[KL]
    first, second = arm.rates[:2]
    mine = [run for run in one.missing() if run.arm == arm]
    assert [(run.rate, run.seed) for run in mine] == [(rate, 0) for rate in arm.rates]
    known(one, arm, {rate: [0.5] for rate in arm.rates} | {second: [0.6]})
    mine = [run for run in one.missing() if run.arm == arm]
    assert [(run.rate, run.seed) for run in mine] == [(second, 1), (second, 2)]
    assert one.rate(arm) == second != first


def test_an_arm_that_distils_waits_for_the_rate_of_its_base(tmp_path: Path) -> None:
    one, arm = bench(tmp_path), CNN8_ARMS[MUTUAL]
    assert not [run for run in one.missing() if run.arm == arm]
    known(one, CNN8_ARMS[KL], {rate: [0.5] for rate in CNN8_ARMS[KL].rates})
    chosen = one.rate(CNN8_ARMS[KL])
    mine = [run for run in one.missing() if run.arm == arm]
    assert {(run.rate, run.distil_rate) for run in mine} == {(chosen, soft) for soft in arm.rates}


def test_results_are_found_again_and_a_line_cut_short_is_none(tmp_path: Path) -> None:
    one = bench(tmp_path)
    known(one, CNN8_ARMS[KL], {0.05: [0.5, 0.6]})
    one.results.add_section("A title", ["a line"])
    with one.results.file.open("a") as out:
        out.write('{"key": "cut sho')
    again = Results(one.results.file).read()
    assert again.curves == one.results.curves
    assert again.sections == {"A title": ["a line"]}
    assert again.core_s == 2.0


def test_a_bench_runs_what_is_missing_and_no_more(tmp_path: Path) -> None:
    one, done = replace(bench(tmp_path), seeds=(0,)), []

    def played(run: Run) -> Curve:
        done.append(run)
        return curve(0.5, 0.5 if run.arm.distil else None)

    carry_out(one, played, until=float("inf"))
    assert len(done) == len({run.key("") for run in done})
    assert not list(one.missing())
    carry_out(one, played, until=float("inf"))
    assert len(done) == len(one.results.curves)


def test_nothing_is_begun_after_the_budget(tmp_path: Path) -> None:
    carry_out(bench(tmp_path), lambda _: pytest.fail("begun"), until=float("-inf"))


def test_what_tells_runs_apart_is_in_their_keys() -> None:
    run = Run(CNN8_ARMS[KL], 0.05, None, 0)
    others = [
        replace(run, rate=0.1),
        replace(run, seed=1),
        replace(run, arm=CNN8_ARMS[ROUND]),
        replace(run, arm=CNN8_ARMS[LABELS], distil_rate=0.01),
        replace(run, arm=replace(run.arm, setting=replace(CNN8, rounds=3))),
    ]
    keys = [one.key("a") for one in (run, *others)] + [run.key("b")]
    assert len(set(keys)) == len(keys)
    renamed = replace(run, arm=replace(run.arm, name="other", rates=(1.0,)))
    assert renamed.key("a") == run.key("a")


def test_differences_are_between_runs_of_one_seed() -> None:
    first, second = {0: curve(0.5, 0.4), 1: curve(0.7, 0.4)}, {1: curve(0.6, 0.1), 2: curve(0.1)}
    found = difference(first, second)
    assert found is not None
    assert found.value == pytest.approx(10)
    in_cloud = difference({1: first[1]}, {1: second[1]}, cloud=True)
    assert in_cloud is not None
    assert in_cloud.value == pytest.approx(30)
    assert difference(first, {3: curve(0.1)}) is None
    assert accuracy(first).value == pytest.approx(60)


def test_a_rate_is_best_only_when_all_were_tried() -> None:
    assert best({0.1: curve(0.5)}, rates=(0.1, 0.2)) is None
    assert best({0.1: curve(0.5), 0.2: curve(0.4)}, rates=(0.1, 0.2)) == 0.1


@pytest.mark.parametrize(
    ("wanted", "value", "error", "reached"),
    [
        (Wanted("s", "a", "b", 2.0), 2.1, 5.0, True),
        (Wanted("s", "a", "b", 2.0), 1.9, 0.1, False),
        (Wanted("s", "a", "b", within_error=True), -0.4, 0.5, True),
        (Wanted("s", "a", "b", within_error=True), -0.6, 0.5, False),
        (Wanted("s", "a", "b", within=0.3), -0.4, 0.5, False),
        (Wanted("s", "a", "b", within=0.3), -0.2, 0.5, True),
    ],
)
def test_a_number_is_reached(wanted: Wanted, value: float, error: float, reached: bool) -> None:
    assert wanted.reached(Mean(value, error)) is reached


def test_a_number_of_one_seed_is_not_measured(tmp_path: Path) -> None:
    one = bench(tmp_path)
    for name in (KL, FEDAVG):
        known(one, CNN8_ARMS[name], {rate: [0.5] for rate in CNN8_ARMS[name].rates})
    rows = {what: verdict for what, _, _, verdict in goals(one, [CNN8])}
    assert rows["cnn8: kl against fedavg"] == "not measured"
    assert len(rows) == sum(floor.setting == "cnn8" for floor in FLOORS)


def test_the_page_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "cost_rows", lambda: iter(["a table of costs"]))
    monkeypatch.setattr(page, "SECTIONS", {"Beside": list})
    one = bench(tmp_path)
    one.results.add_section("Beside", ["measured elsewhere"])
    known(one, CNN8_ARMS[KL], {rate: [0.5, 0.6, 0.7] for rate in CNN8_ARMS[KL].rates})
    known(one, CNN8_ARMS[LABELS], {rate: [0.5] for rate in CNN8_ARMS[LABELS].rates}, base=0.02)
    text = page.write_page(one, tmp_path).read_text()
    cnn8 = text.split("## cnn8:")[1]
    missing = next(line for line in cnn8.splitlines() if "run yet: " in line)
    names = missing.split("run yet: ")[1].rstrip(".").split(", ")
    assert {FEDAVG, LABELS} <= set(names)
    assert KL not in names
    assert "| kl | 0.02† | 60.00 ± 5.77 |" in text
    assert "measured elsewhere" in text
    assert (tmp_path / "split-accuracy.png").exists()
    assert (tmp_path / "split-curves.png").exists()


def test_every_section_is_one_of_the_page() -> None:
    assert all(callable(measure) for measure in sections.SECTIONS.values())


def some_images(count: int, seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    inputs = (
        rng.standard_normal((count, 1, 28, 28)).astype(np.float32) + labels[:, None, None, None]
    )
    return Examples(inputs, labels)


@pytest.mark.parametrize("name", [FEDAVG, KL, ROUND, MUTUAL])
def test_an_arm_plays_and_repeats(name: str) -> None:
    arm = replace(CNN8_ARMS[name], setting=replace(CNN8, clients=4, rounds=2))
    run = Run(arm, 0.05, 0.01 if arm.distil else None, 0)
    data = Dataset(some_images(200, 0), some_images(40, 1), classes=10)
    first, second = play(run, data), play(run, data)
    assert first == second
    assert first.rounds == (1, 2)
    assert len(first.edge) == 2
    assert len(first.cloud) == (2 if arm.distil else 0)
    assert first.divergence > 0 or name == FEDAVG
