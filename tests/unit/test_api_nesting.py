"""Jobs nested as deep as an apiserver keeps them are read, whichever Python reads them; a spec of
which Python makes many times its bytes is none."""

import json
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from lockstep_api.nesting import MOST_CHARACTERS, MOST_VALUES, read_whatever_is_kept
from lockstep_operator.observe import job_view
from tests.support.kube import job_body


class Bounded(json.JSONDecoder):
    """Gives up where C's stack is bounded, whatever limit is set (Python 3.12 and later)."""

    def __init__(self) -> None:
        super().__init__()
        quick = self.scan_once  # type: ignore[has-type]

        def scan_once(text: str, at: int) -> Any:
            if text.count("[") + text.count("{") > 9_990:
                raise RecursionError
            return quick(text, at)

        self.scan_once = scan_once


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    limit, usual = sys.getrecursionlimit(), json._default_decoder  # type: ignore[attr-defined]
    monkeypatch.setattr(json, "JSONDecoder", Bounded)
    monkeypatch.setattr(usual, "scan_once", usual.scan_once)
    read_whatever_is_kept()
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a": ', "}")])
@pytest.mark.parametrize("depth", [10, 9_990, 10_002])
def test_it_is_read(bounded: None, opens: str, closes: str, depth: int) -> None:
    read, levels = json.loads(opens * depth + "null" + closes * depth), 0
    while read is not None:
        (read,) = read.values() if isinstance(read, dict) else read
        levels += 1
    assert levels == depth


def test_what_is_no_json_is_refused_as_ever(bounded: None) -> None:
    for broken in ("[" * 10_002, "[1, " + "[" * 10_000 + "]" * 10_000, "{"):
        with pytest.raises(json.JSONDecodeError):
            json.loads(broken)


@pytest.mark.parametrize(
    "args",
    [
        {"a": [{}] * MOST_VALUES},
        {f"a{number}": 0 for number in range(MOST_VALUES)},
        {"a": [[0] * 200] * 200},
        {"a": "x" * MOST_CHARACTERS},
        {"x" * MOST_CHARACTERS: 0},
    ],
)
def test_a_spec_with_too_many_values_or_characters_is_none(args: dict[str, Any]) -> None:
    body = job_body()
    body["metadata"] |= {"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    body["spec"]["model"]["args"] = args
    problem = job_view(body).spec_error or ""
    assert problem.endswith(
        "a spec may have 24000 values with 262144 characters together, and this one has more: "
        "put large data into the image"
    )


def test_of_a_job_of_a_megabyte_of_small_values_hardly_anything_is_held() -> None:
    """Python makes thirty of them, and a user may make many such jobs."""
    body = job_body()
    body["metadata"] |= {"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    body["spec"]["model"]["args"] = {"a": 0}
    text = json.dumps(body).replace('"a": 0', f'"a": [{", ".join(["{}"] * 300_000)}]')
    tracemalloc.start()
    try:
        held = [job_view(json.loads(text)) for _ in range(3)]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(view.spec is None for view in held)
    assert kept < 1 << 20
