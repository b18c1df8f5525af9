"""What proportional batches save of a step, as the benchmark page tells it."""

import numpy as np

from tests.bench.split_steps import ratios, rows


def test_a_step_with_proportional_batches_takes_at_most_0_65_of_one_with_equal_ones() -> None:
    step, energy = np.array([*ratios("float32")]).T
    assert step.mean() <= 0.65
    assert step.max() < 1.0
    assert energy.max() <= 1.0


def test_the_table_has_a_row_for_each_way_of_the_wire() -> None:
    assert [row.split("|")[1].strip() for row in rows()[2:]] == ["float32", "bfloat16"]
