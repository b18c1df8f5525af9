"""What `make test` tells at its end."""

from tests.demo.steps import Took
from tests.run import ALONE, SIDE_BY_SIDE, Case, Result, read_cases, told

REPORT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite>
<testcase classname="tests.unit.test_a" name="test_good" time="1.5" />
<testcase classname="tests.unit.test_a" name="test_bad[x]" time="0.25"><failure>w</failure>
</testcase>
<testcase classname="tests.unit.test_a" name="test_broken" time="0"><error>why</error></testcase>
<testcase classname="tests.unit.test_a" name="test_out" time="0"><skipped>why</skipped></testcase>
</testsuite></testsuites>"""


def test_a_report_is_read() -> None:
    assert read_cases(REPORT) == (
        Case("tests/unit/test_a.py::test_good", 1.5, "passed"),
        Case("tests/unit/test_a.py::test_bad[x]", 0.25, "failed"),
        Case("tests/unit/test_a.py::test_broken", 0.0, "failed"),
        Case("tests/unit/test_a.py::test_out", 0.0, "skipped"),
    )


def test_the_slowest_of_all_parts_are_told_and_what_became_of_each() -> None:
    side = Result(SIDE_BY_SIDE, 1, 60.0, (*read_cases(REPORT),))
    alone = Result(ALONE, 0, 40.0, tuple(Case(f"t{i}", float(i), "passed") for i in range(20)))
    lines = told([side, alone], seconds=100.0, before=[Took("lint", 70.0)]).splitlines()
    assert lines[0] == "the 10 slowest tests:"
    assert [line.split()[-1] for line in lines[1:11]] == [f"t{i}" for i in range(19, 9, -1)]
    assert lines[11:] == [
        "     70 s  lint",
        "     60 s  side by side on the cluster: 1 passed, 2 failed, 1 skipped"
        " — pytest ended with 1",
        "     40 s  alone on the cluster: 20 passed",
        "    100 s  in all: 21 passed, 2 failed, 1 skipped",
    ]


def test_a_part_that_told_nothing_is_told() -> None:
    assert "pytest ended with 4" in told([Result(ALONE, 4, 1.0, ())], seconds=1.0)
