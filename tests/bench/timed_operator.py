"""The operator's command, with a record of what it did: `scale` runs it as a process.

At its end it writes the seconds of each pass, and its requests by verb and kind, to the file that
SCALE_RECORD names. Requests are counted where they leave the Kubernetes client, so that a bench of
another version counts in the same way.
"""

import json
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kubernetes.aio.client.api_client import ApiClient

from lockstep_operator import app

_PATH = re.compile(
    r"/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/[^/]+)?/([a-z]+)(/[^/?]+)?(?:/([a-z]+))?"
)


def kind_of(method: str, url: str) -> tuple[str, str]:
    """Verb and plural of a request."""
    found = _PATH.search(url)
    plural, name, part = found.groups() if found else ("other", None, None)
    verb = method.lower()
    if verb == "get" and not name:
        verb = "watch" if "watch=true" in url else "list"
    return verb, f"{plural}/{part}" if part else plural


def main() -> None:
    passes: list[float] = []
    requests: Counter[tuple[str, str]] = Counter()
    reconcile, call_api = vars(app)["reconcile"], ApiClient.call_api

    async def timed(*args: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return await reconcile(*args, **named)
        finally:
            passes.append(time.perf_counter() - began)

    async def counted(self: ApiClient, method: str, url: str, *args: Any, **named: Any) -> Any:
        requests[kind_of(method, url)] += 1
        return await call_api(self, method, url, *args, **named)

    vars(app)["reconcile"] = timed
    ApiClient.call_api = counted  # type: ignore[method-assign]
    try:
        app.main()
    finally:
        calls = [[*key, count] for key, count in sorted(requests.items())]
        record = Path(os.environ["SCALE_RECORD"])
        record.write_text(json.dumps({"passes": passes, "requests": calls}))


if __name__ == "__main__":
    main()
