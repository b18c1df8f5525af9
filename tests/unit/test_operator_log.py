"""What others say, in a log, a condition or an event: one line of characters for people."""

import json
import logging
import sys

import pytest

from lockstep_api.status import ConditionType
from lockstep_api.text import printable
from lockstep_operator.core.conditions import Finding, set_condition
from lockstep_operator.core.model import EventNote
from lockstep_operator.log import set_up_logging
from lockstep_operator.observe import job_view
from lockstep_operator.reconcile import event_body
from tests.support.kube import NOW, job_body

FORGED = "no\n2026-11-28 00:00:00 ERROR   lockstep_operator: all is lost\x1b[31m\x9b31m\u202e\r"
UNFIT = ("\n", "\r", "\x1b", "\x9b", "\u202e", "\u2028")


@pytest.fixture(autouse=True)
def root_logger() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("log_format", ["plain", "json"])
def test_no_message_looks_like_two(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(log_format, "INFO")
    logging.getLogger("lockstep_operator").warning("refused: %s", FORGED)
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert not any(one in written.rstrip("\n") for one in UNFIT)
    assert "all is lost" in written


@pytest.mark.parametrize("log_format", ["plain", "json"])
def test_no_line_of_a_traceback_looks_like_a_message(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging(log_format, "INFO")
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("lockstep_operator").error("failed", exc_info=sys.exc_info())
    first, *rest = capsys.readouterr().err.splitlines()
    if log_format == "json":
        assert "all is lost" in json.loads(first)["error"]
        assert rest == []
    else:
        assert "failed" in first
        assert rest
        assert all(line.startswith("  ") for line in rest)
        assert not any(one in "".join(rest) for one in UNFIT)


def test_conditions_and_events_hold_printable_lines() -> None:
    found = Finding("True", "Failed", FORGED)
    (condition,) = set_condition([], ConditionType.FAILED, found=found, generation=1, now=NOW)
    body = job_body()
    body["metadata"]["uid"] = "u"
    note = EventNote("Warning", "Failed", FORGED)
    event = event_body(job_view(body), note, now=NOW)
    for text in (condition.message, event["message"]):
        assert not any(one in text for one in UNFIT)
        assert "all is lost" in text


def test_what_people_write_stays() -> None:
    text = "größer als 10 µs: “Ω” — 日本語 🙂"
    assert printable(text) == text
    assert printable("a\tb\x00") == "a\\tb\\x00"
