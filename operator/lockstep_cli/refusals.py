"""What an apiserver's refusal means for people: which right is missing, what is to be installed.

`cluster` raises it; pure. Invariant: the apiserver's own words stay in it.
"""

import json
from dataclasses import dataclass
from typing import Any

from lockstep_api import names
from lockstep_cli.errors import CliError, Denied, Gone, NotFound, Unreachable

INSTALL = (
    "Lockstep is not installed in this cluster:"
    " helm install lockstep charts/lockstep --namespace lockstep-system --create-namespace"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for."""

    verb: str
    plural: str = ""
    group: str = ""
    namespace: str | None = None


def error_of(status: int, body: bytes, *, asked: Asked) -> CliError:
    """The error for an HTTP status."""
    answer = _answer(body)
    words = str(answer.get("message") or body.decode(errors="replace").strip()[:300])
    words = words or f"HTTP {status}"
    if status == 401:
        return Denied("the cluster does not know you (401): log in anew, or take another --context")
    if status == 403:
        return Denied(f"you are not allowed to: {words}{_right(asked)}")
    if status == 404:
        return NotFound(_missing(answer, words, asked=asked))
    if status == 410:
        return Gone(words)
    if status == 429 or status >= 500:
        return Unreachable(f"{asked.verb}: {words} (HTTP {status}): try again")
    return CliError(f"the cluster refused it: {words}")


def _right(asked: Asked) -> str:
    if asked.group == names.GROUP:
        where = f" -n {asked.namespace}" if asked.namespace else ""
        return (
            f": ask for role edit, or view, in the namespace (kubectl create rolebinding{where} …"
            " --clusterrole=edit --user=…), which the chart extends to FederatedJobs"
        )
    return ": ask whoever runs the cluster for this right"


def _missing(answer: dict[str, Any], words: str, *, asked: Asked) -> str:
    """No object, or no such kind."""
    details = answer.get("details")
    if asked.group == names.GROUP and not (isinstance(details, dict) and details.get("name")):
        return INSTALL
    return words


def _answer(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
