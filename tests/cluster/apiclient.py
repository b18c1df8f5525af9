"""A few requests to the API server over HTTPS, without starting kubectl (half a second each).

Used while a cluster comes up; tests and people use kubectl or a real client.
"""

import base64
import http.client
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.cluster.errors import ClusterError, NoAnswerError

Json = dict[str, Any]
FIELD_MANAGER = "lockstep-cluster"
PATIENCE_S = 90.0
WATCH_S = 300


@dataclass(frozen=True, slots=True)
class ApiClient:
    host: str
    port: int
    context: ssl.SSLContext

    @classmethod
    def from_kubeconfig(cls, path: Path) -> "ApiClient":
        """Read a kubeconfig that `pki` wrote: one cluster, one user, all data inline."""
        config = json.loads(path.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        url = urlsplit(cluster["server"])
        authority = _decoded(cluster["certificate-authority-data"])
        context = ssl.create_default_context(cadata=authority.decode())
        with tempfile.NamedTemporaryFile() as file:  # ssl loads client certificates from files only
            file.write(_decoded(user["client-certificate-data"]))
            file.write(_decoded(user["client-key-data"]))
            file.flush()
            context.load_cert_chain(file.name)
        return cls(url.hostname or "", url.port or 443, context)

    def request(self, method: str, path: str, body: Json | None = None) -> Json:
        """Send one request.

        Raises:
            NoAnswerError: the server cannot be reached, or has no time: another try may succeed.
            ClusterError: it refuses.
        """
        headers = {"Content-Type": "application/apply-patch+yaml", "Accept": "application/json"}
        link = http.client.HTTPSConnection(self.host, self.port, context=self.context, timeout=10)
        try:
            link.request(method, path, json.dumps(body) if body else None, headers)
            answer = link.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerError(
                f"the API server at {self.host} does not answer: {error}"
            ) from error
        finally:
            link.close()
        if answer.status >= 400:
            busy = answer.status >= 500 or answer.status == HTTPStatus.TOO_MANY_REQUESTS
            kind = NoAnswerError if busy else ClusterError
            raise kind(f"{method} {path}: {answer.status} {text[:300]}")
        return _json_or_empty(text)

    def watch(self, path: str, version: str) -> Iterator[Json]:
        """Events since a list's resource version, until the server ends the watch."""
        link = http.client.HTTPSConnection(
            self.host, self.port, context=self.context, timeout=WATCH_S + PATIENCE_S
        )
        try:
            query = f"?watch=true&resourceVersion={version}&timeoutSeconds={WATCH_S}"
            link.request("GET", path + query, headers={"Accept": "application/json"})
            answer = link.getresponse()
            if answer.status >= 400:
                raise NoAnswerError(f"watching {path}: {answer.status}")
            for line in answer:
                yield dict(json.loads(line))
        except http.client.HTTPException as error:
            raise NoAnswerError(f"watching {path}: {error}") from error
        finally:
            link.close()

    def apply(self, path: str, manifest: Json) -> None:
        """Server-side apply of one object at its full path, again while no answer comes."""
        query = f"?fieldManager={FIELD_MANAGER}&force=true"

        def applied() -> bool:
            self.request("PATCH", path + query, manifest)
            return True

        wait_until(applied, f"applying {path}")

    def answers(self, path: str) -> bool:
        try:
            self.request("GET", path)
        except ClusterError:
            return False
        return True


def _decoded(text: str) -> bytes:
    return base64.b64decode(text)


def _json_or_empty(text: str) -> Json:
    return dict(json.loads(text)) if text.startswith("{") else {}


def wait_until(
    done: Callable[[], bool], what: str, *, timeout_s: float = PATIENCE_S, every_s: float = 0.1
) -> None:
    """Ask until it is done; a NoAnswerError counts as not yet, and is told at the end.

    Raises:
        ClusterError: it was not done in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if done():
                return
            said = ""
        except NoAnswerError as error:
            said = f": {error}"
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} did not happen within {timeout_s:g} s{said}")
        time.sleep(every_s)
