"""`lockstep list`."""

import json
import sys

import pytest
import yaml
from rich.console import Console

from lockstep_cli import shown
from tests.support.cli import Lockstep, job, running_status
from tests.support.manifests import nested


def test_a_job_is_one_line(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job(status=running_status()))
    head, line = lockstep("list").lines
    assert head.split() == [
        "NAME",
        "PHASE",
        "ROUND",
        "CLIENTS",
        "ACCURACY",
        "ENERGY",
        "LEFT",
        "AGE",
    ]
    assert line.split()[:-1] == [
        "digits",
        "Running",
        "3/20",
        "2/2",
        "81.25%",
        "1.23",
        "kJ",
        "2m50s",
    ]


def test_a_job_that_no_operator_saw_is_pending(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job())
    assert lockstep("list").lines[1].split()[:7] == ["digits", "Pending", *"–––––"]


def test_wide_says_what_is_wrong(lockstep: Lockstep) -> None:
    refused = {
        "type": "Accepted",
        "status": "False",
        "reason": "NoPlace",
        "message": "needs 4.0 cores on tier device, 2.6 free",
    }
    lockstep.api.put("federatedjobs", job(status={"phase": "Refused", "conditions": [refused]}))
    head, line = lockstep("list", "-o", "wide").lines
    assert head.split()[-6:] == ["MODE", "STRATEGY", "POLICY", "LOSS", "ELAPSED", "TROUBLE"]
    assert line.endswith("NoPlace: needs 4.0 cores on tier device, 2.6 free")


def test_what_is_piped_is_never_cut(lockstep: Lockstep) -> None:
    name = "x" * 240
    lockstep.api.put("federatedjobs", job(name))
    assert name in lockstep("list").out


def test_all_namespaces_are_named(lockstep: Lockstep) -> None:
    for namespace in ("b", "a"):
        lockstep.api.put("federatedjobs", job("digits", namespace))
    lines = lockstep("list", "-A").lines
    assert [line.split()[:2] for line in lines] == [
        ["NAMESPACE", "NAME"],
        ["a", "digits"],
        ["b", "digits"],
    ]


def test_no_jobs_is_said_beside_the_results(lockstep: Lockstep) -> None:
    done = lockstep("list")
    assert (done.code, done.out, done.err) == (0, "", "no jobs in namespace lab\n")


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_objects_are_those_of_the_cluster(lockstep: Lockstep, *, form: str, read: object) -> None:
    stored = lockstep.api.put("federatedjobs", job(status=running_status()))
    assert callable(read)
    assert read(lockstep("list", "-o", form).out) == {
        "apiVersion": "v1",
        "kind": "List",
        "items": [stored],
    }


def test_a_list_is_read_in_pages(lockstep: Lockstep) -> None:
    lockstep.api.page = 2
    for number in range(5):
        lockstep.api.put("federatedjobs", job(f"job-{number}"))
    assert len(lockstep("list", "-o", "name").lines) == 5
    asked = [query.get("continue") for _, _, query in lockstep.api.requests]
    assert asked == [None, "2", "4"]


@pytest.mark.parametrize(("width", "last"), [(60, "words words words words"), (30, "words")])
def test_a_narrow_terminal_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, width: int, last: str
) -> None:
    """The last column is folded where there is room for it, else lines go on as they do."""
    narrow = Console(width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(shown, "console", lambda: narrow)
    words = " ".join(["words"] * 20)
    shown.show_table(("name", "message"), [["a-long-name", words]], fold=True)
    printed = capsys.readouterr().out
    assert printed.count("words") == 20
    assert "…" not in printed
    assert "a-long-name" in printed
    assert (len(printed.splitlines()) > 2) == (width == 60)
    assert last in printed


def test_one_job_that_is_nested_deeper_than_python_reads_hides_no_others(
    lockstep: Lockstep,
) -> None:
    limit = sys.getrecursionlimit()
    lockstep.api.put("federatedjobs", job("deep", model={"name": "mlp", "args": nested(2000, {})}))
    lockstep.api.put("federatedjobs", job(status=running_status()))
    try:
        listed = [line.split()[0] for line in lockstep("list").lines[1:]]
    finally:
        lockstep.api.objects.clear()
        sys.setrecursionlimit(limit)
    assert listed == ["deep", "digits"]
