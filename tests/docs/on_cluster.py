"""Commands of the docs as they are run against a cluster: on a job that is there, changing nothing.

Called by tests/e2e/test_docs.py. Pure. Invariant: what would change the cluster is asked of the
apiserver as a dry run, what would go on for ever ends, and all else is run as it stands.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.docs.markdown import ROOT

_WRITES = {"annotate", "apply", "create", "delete", "label", "patch"}
_FOR_EVER = {"--watch", "-w", "--follow", "-f", "--previous"}


@dataclass(frozen=True, slots=True)
class Scene:
    """What stands in place of the names that docs use."""

    namespace: str
    system: str
    """The namespace of the chart."""
    job: str
    pod: str
    node: str


def example_names() -> frozenset[str]:
    """Names of the jobs in docs/examples."""
    files = (ROOT / "docs" / "examples").rglob("*.yaml")
    found = (one for file in files for one in yaml.safe_load_all(file.read_text()))
    return frozenset(one["metadata"]["name"] for one in found if one["kind"] == "FederatedJob")


def adapted(words: Sequence[str], scene: Scene) -> list[str]:
    """A command's words as they are run."""
    program, *rest = [_named(word, scene) for word in words]
    if program == "kubectl":
        return [program, *_kubectl(rest, scene)]
    if program == "helm" and rest[0] == "install":
        return [program, "template", *(word for word in rest[1:] if word != "--create-namespace")]
    return [program, *rest]


def _named(word: str, scene: Scene) -> str:
    """A word with the scene's names in it."""
    for name, instead in (
        ("NAMESPACE", scene.namespace),
        ("SYSTEM", scene.system),
        ("lockstep-system", scene.system),
        ("JOB", scene.job),
        ("POD", scene.pod),
        ("NODE", scene.node),
    ):
        word = re.sub(rf"\b{name}\b", instead, word)
    if Path(word).suffix in (".yaml", ".csv") or "charts/" in word:
        return word
    examples = "|".join(map(re.escape, sorted(example_names(), key=len, reverse=True)))
    return re.sub(rf"(?<![\w-])({examples})(?![\w-])", scene.job, word)


def _kubectl(words: list[str], scene: Scene) -> list[str]:
    verb = next(word for word in words if not word.startswith("-") and word != scene.namespace)
    if verb in _WRITES:
        there = ["--overwrite"] if verb == "label" else []
        if "configmap" in words[:-1] and verb == "label":  # one that every namespace has
            words[words.index("configmap") + 1] = "kube-root-ca.crt"
        words = [*words, *there, "--dry-run=server"]
    else:
        words = [word for word in words if word not in _FOR_EVER]
    if not {"-n", "-A", "--namespace"} & set(words):
        words = ["-n", scene.namespace, *words]
    return words
