"""What becomes of each command in the docs: run here, run against a cluster, or only looked at.

Called by tests/unit/test_docs_commands.py and tests/e2e/test_docs.py. Invariant: a command that no
rule knows fails the tests, and so does a rule that no command needs; a command that is not run has
a reason, and its program, target, options and extras exist all the same.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.docs.markdown import Block, blocks


class How(StrEnum):
    """What is done with a command."""

    HERE = "run in a folder of its own, without a cluster"
    CLUSTER = "run against a running job"
    LOOKED_AT = "not run: what it names exists"


@dataclass(frozen=True, slots=True)
class Rule:
    """Commands that are treated alike."""

    pattern: str
    """Of the whole command."""
    how: How
    note: str = ""
    """HERE: what is added, so that it takes seconds; LOOKED_AT: why it is not run."""


_MINUTES = "takes minutes and the whole machine; CI runs make test itself"
_SHORT = "--rounds 1 --work-per-step 0.001 --data own.npz"
RULES = (
    Rule(r"lockstep simulate \S+ --set strategy.mu=0.1", How.HERE),
    Rule(
        r"lockstep simulate job.yaml --data own.npz", How.HERE, "--rounds 1 --work-per-step 0.001"
    ),
    Rule(r"lockstep simulate .*", How.HERE, f"{_SHORT} --processes 1"),
    Rule(r"lockstep sweep .*", How.HERE, f"{_SHORT} --parallel 1 --seeds 0"),
    Rule(r"lockstep explain-cut .*", How.HERE, "--data own.npz"),
    Rule(r"lockstep (examples|validate)( .*)?", How.HERE),
    Rule(r"lockstep (suspend|resume|delete) .*", How.LOOKED_AT, "would change the job of others"),
    Rule(
        r"lockstep model .*",
        How.LOOKED_AT,
        "a job that runs has no model yet; its own test runs it",
    ),
    Rule(r"lockstep watch .*", How.LOOKED_AT, "goes on until it is ended; its own test runs it"),
    Rule(r"lockstep [a-z-]+( .*)?", How.CLUSTER),
    Rule(r"lockstep-allocator train .*", How.LOOKED_AT, "trains for 20 minutes"),
    Rule(
        r"lockstep-allocator evaluate .*",
        How.HERE,
        "--rounds 2 --devices 3 --seeds 0 --energy-weight 1",
    ),
    Rule(r"lockstep-allocator inspect .*", How.HERE),
    Rule(r"(\S*/)?pip install .*", How.LOOKED_AT, "make release installs the wheel and tries it"),
    Rule(
        r"python3 -m venv \S+", How.LOOKED_AT, "make release tries the wheel in a new environment"
    ),
    Rule(r"make (venv|lint|test|test-fast|images|demo)", How.LOOKED_AT, _MINUTES),
    Rule(r"make push REGISTRY=\S+", How.LOOKED_AT, "there is no registry to push to"),
    Rule(r"kubectl .*port-forward .*", How.LOOKED_AT, "goes on until it is ended"),
    Rule(r"grep .*", How.LOOKED_AT, "filters what the command before it prints"),
    Rule(r"helm install .*", How.CLUSTER),
    Rule(r"kubectl .*", How.CLUSTER),
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command in a block."""

    block: Block
    words: tuple[str, ...]

    @property
    def line(self) -> str:
        """Without the folder that a program is in."""
        return shlex.join((self.words[0].rpartition("/")[2], *self.words[1:]))


def commands() -> list[Command]:
    """All commands of all pages."""
    return [Command(block, words) for block in blocks() for words in commands_of(block)]


def commands_of(block: Block) -> Iterator[tuple[str, ...]]:
    """The commands of a block; of a console's block those after `$`."""
    if block.language == "sh":
        lines = block.text.replace("\\\n", " ").splitlines()
    elif block.language == "console":
        lines = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
    else:
        lines = []
    for line in lines:
        yield from simple(line)


def simple(line: str) -> Iterator[tuple[str, ...]]:
    """The simple commands of a line: without comments, between && and |."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("&|;"):
            yield tuple(words)
            words = []
        else:
            words.append(word)
    if words:
        yield tuple(words)


def rule_of(command: Command, rules: Sequence[Rule] = RULES) -> Rule | None:
    """The first rule that knows a command."""
    line = " ".join((command.words[0].rpartition("/")[2], *command.words[1:]))
    return next((rule for rule in rules if re.fullmatch(rule.pattern, line)), None)


def those(how: How) -> list[Command]:
    """The commands that are treated so, each once."""
    found = {one.line: one for one in commands() if (rule := rule_of(one)) and rule.how is how}
    return list(found.values())
