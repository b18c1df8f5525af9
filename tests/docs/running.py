"""Runs what the docs show and needs no cluster: commands of our programs, Python, manifests.

Called by tests/unit/test_docs_commands.py. Commands run in this process, in a folder that has the
files that they name; nothing is written outside of it.
"""

import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from typer.testing import CliRunner

from lockstep_admission.checking import checked
from lockstep_admission.errors import Refused
from lockstep_allocator.generate import write_traces
from lockstep_allocator.policy import SHIPPED
from tests.docs.cli import APPS
from tests.docs.commands import Command, rule_of
from tests.docs.markdown import ROOT, Block

EXAMPLES = ROOT / "docs" / "examples"
NAMES = "import torch\nfrom lockstep_workers.data import Dataset\n"
"""What every Python block takes as known."""
OF_OTHERS = frozenset({"values of Grafana's chart"})
"""Titles of YAML that other projects read: it is parsed, and no more."""
PREPARED = {
    "module.load_state_dict": (
        "from safetensors.torch import save_file\n"
        "from wine.model import build\n"
        "save_file(build(hidden=16).state_dict(), 'model.safetensors')\n"
    ),
    "numpy.savez": (
        "import numpy\ncontent = numpy.load('own.npz')\nx, y = content['x'], content['y']\n"
    ),
}
"""A call in a Python block → what its reader has done before."""


def prepared(folder: Path) -> Path:
    """A folder with all that commands in the docs name."""
    shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples")
    shutil.copyfile(EXAMPLES / "calibrated.yaml", folder / "job.yaml")
    wrong = (
        (EXAMPLES / "fashion-mnist.yaml")
        .read_text()
        .replace("name: fashion-mnist", "name: wrong", 1)
    )
    (folder / "wrong.yaml").write_text(re.sub("learningRate: .*", "learningRate: 0", wrong))
    shutil.copyfile(SHIPPED, folder / "policy.safetensors")
    random = np.random.default_rng(1)
    x = random.random((400, 1, 28, 28), dtype=np.float32)
    np.savez(folder / "own.npz", x=x, y=random.permutation(np.arange(400) % 10))
    write_traces(folder / "DIR", traces=4, seconds=120, seed=1)
    write_traces(folder / "traces", traces=1, seconds=120, seed=1)
    (folder / "charts").symlink_to(ROOT / "charts")
    return folder


def run(command: Command) -> tuple[int, str]:
    """Runs a command of one of our programs in the current folder: exit code, all that it says."""
    rule = rule_of(command)
    program, *words = (command.words[0].rpartition("/")[2], *command.words[1:])
    done = CliRunner().invoke(APPS[program], [*words, *shlex.split(rule.note if rule else "")])
    return done.exit_code, done.output


def run_python(blocks: Iterable[Block]) -> None:
    """Runs the Python of a page, from its first block to its last."""
    names: dict[str, Any] = {}
    exec(NAMES, names)
    for block in blocks:
        if block.language == "python":
            for call, before in PREPARED.items():
                if call in block.text:
                    exec(before, names)
            exec(compile(block.text, block.where, "exec"), names)


def refused(text: str, *, title: str) -> str:
    """Why a manifest, a part of one, or values of the chart are not accepted; empty: they are."""
    if title == "values.yaml":
        defaults = yaml.safe_load((ROOT / "charts" / "lockstep" / "values.yaml").read_text())
        return "; ".join(_unknown_values(yaml.safe_load(text), defaults, path=""))
    found = list(yaml.safe_load_all(text))
    return "" if title in OF_OTHERS else "; ".join(filter(None, map(_refused_object, found)))


def _refused_object(body: Any) -> str:
    """A whole object is taken as it is; a `spec:` is laid over that of an example."""
    if set(body) == {"spec"}:
        whole = yaml.safe_load((EXAMPLES / "fashion-mnist.yaml").read_text())
        whole["spec"] = _over(whole["spec"], body["spec"])
        body = whole
    if "kind" not in body:
        return "neither a manifest, nor a part that begins with spec:"
    if body["kind"] != "FederatedJob":
        return ""
    try:
        checked(body)
    except Refused as error:
        return str(error)
    return ""


def _over(spec: Any, part: Any) -> Any:
    """A spec with a part in place of its own; a job of a mode with edges gets one."""
    made = {**spec, **part}
    made["devices"] = [{**spec["devices"][0], **one} for one in made["devices"]]
    if made.get("mode", "federated") != "federated":
        made.setdefault("edges", [{"name": "edge"}])
    return made


def _unknown_values(values: Any, defaults: Any, *, path: str) -> Iterator[str]:
    """Values that the chart does not have."""
    if not isinstance(values, dict) or not isinstance(defaults, dict) or not defaults:
        return
    for name, value in values.items():
        if name not in defaults:
            yield f"the chart has no value {path}{name}"
        else:
            yield from _unknown_values(value, defaults[name], path=f"{path}{name}.")
