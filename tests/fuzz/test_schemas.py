"""Every HTTP API answers whatever is sent, fitting or not, as its description says: no 5xx but the
one that asks to come again, no hang, known statuses and content types."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from lockstep_api import names
from tests.fuzz.openapi import APIS, BYTES, Operation, document
from tests.fuzz.served import JSON, Served, all_apis

EXAMPLES = int(os.environ.get("LOCKSTEP_SCHEMA_EXAMPLES", "3"))
"""For each operation, of those that fit and of those that do not."""
TYPES = {JSON, "application/jsonl", names.TENSORS, BYTES, "text/plain", ""}
Ask = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Asks an API in the loop that all of them live in."""
    with asyncio.Runner() as runner:
        apis = all_apis(tmp_path_factory.mktemp("apis"))
        served: Served = runner.run(apis.__aenter__())
        yield lambda *case, **more: runner.run(served.ask(*case, **more))
        runner.run(apis.__aexit__(None, None, None))


def cases() -> Iterator[Any]:
    """Each operation, of what fits and of what does not."""
    for api, operations in APIS.items():
        for one in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                title = f"{api} {one.method} {one.path} {mode.value}"
                yield pytest.param(api, one, mode, id=title)


@pytest.mark.parametrize(("api", "operation", "mode"), list(cases()))
def test_an_api_answers_as_it_is_described(
    ask: Ask, api: str, operation: Operation, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document(api, (operation,)))
    strategy = schema[operation.path][operation.method].as_strategy(generation_mode=mode)
    seen: Counter[int] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=strategy)
    def play(case: Any) -> None:
        status, content_type = ask(api, case, content=operation.content or JSON)
        seen[status] += 1
        assert status in operation.answers, (status, case)
        assert content_type.partition(";")[0] in TYPES

    play()
    print(f"answers: {dict(seen)}")
