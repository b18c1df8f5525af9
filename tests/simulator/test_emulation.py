"""A virtual device's CPU: what a quota makes of a thread's work."""

import pytest

from lockstep_simulator.emulation import quota_s


@pytest.mark.parametrize(
    ("cpu_s", "cores", "before_s", "seconds"),
    [
        (0.010, 0.1, 0.0, 0.010),  # the part of one period
        (0.011, 0.1, 0.0, 0.101),  # and a millisecond of the next
        (0.010, 0.1, 0.005, 0.100),  # half of the first was used: 5 ms, then 5 ms in the second
        (0.010, 0.1, 9.0, 0.100),  # more than all of it cannot have been
        (0.400, 0.4, 0.0, 0.940),  # the tenth part is done before its period is over
        (0.5, 1.0, 0.0, 0.5),  # a thread has no more than a core
        (0.5, 4.0, 0.3, 0.5),
    ],
)
def test_a_quota_gives_cpu_out_by_periods(
    cpu_s: float, cores: float, before_s: float, seconds: float
) -> None:
    assert quota_s(cpu_s, cores, before_s=before_s) == pytest.approx(seconds)


def test_it_takes_what_the_quota_says_but_for_a_period_at_each_end() -> None:
    for number in range(1, 200):
        cpu_s = number * 0.00731
        taken = quota_s(cpu_s, 0.23, before_s=0.004)
        assert cpu_s / 0.23 - 0.1 <= taken <= cpu_s / 0.23 + 0.1
