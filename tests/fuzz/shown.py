"""What pods write for people, as fuzz targets: the CLI shows it, and nothing ends it."""

import unicodedata

from lockstep_api.text import printable
from lockstep_cli.log_lines import readable
from lockstep_cli.records import clients_of, rounds_of
from tests.fuzz.bodies import PLAN_REQUEST
from tests.fuzz.stages import Target


def log_line(data: bytes) -> str | None:
    """A line of a pod's log: made readable, or shown as it is."""
    text = data.decode(errors="replace")
    said = printable(readable(text))
    assert not any(unicodedata.category(one) in {"Cc", "Zl", "Zp"} for one in said)
    return "as it is" if said == printable(text) else None


def history(data: bytes) -> str | None:
    """The rounds, or the clients, in the files of a job: what is none is passed over."""
    found = [*rounds_of(data.splitlines()), *filter(None, [clients_of(data)])]
    return None if found else "nothing"


_LINE = b'{"event": "round closed", "timestamp": "2026-01-01T00:00:00Z", "level": "info", "n": 1}'
_CLIENTS = b'{"finishedRounds": 1, "clients": []}'
assert PLAN_REQUEST.report is not None
_RECORD = PLAN_REQUEST.report.to_json().encode()

TARGETS = {
    "log_line": Target(log_line, (_LINE,)),
    "history": Target(history, (_RECORD, _CLIENTS)),
}
