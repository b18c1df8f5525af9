"""Commands, manifests, queries and names in the docs: what can be run is run, the rest exists."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import commands, naming, running
from tests.docs.commands import RULES, How, rule_of, simple, those
from tests.docs.markdown import blocks, inline_code, pages

HERE = those(How.HERE)
FOREIGN_OPTIONS = {"--help", "--history", "--no-isolation"}
"""Options of kubectl, helm and the tools of tests that pages name alone."""


def test_every_command_has_a_rule_and_every_rule_a_command() -> None:
    every = commands.commands()
    assert [f"{one.block.where}: {one.line}" for one in every if rule_of(one) is None] == []
    used = {rule_of(one) for one in every}
    assert [rule.pattern for rule in RULES if rule not in used] == []
    assert [rule.pattern for rule in RULES if rule.how is How.LOOKED_AT and not rule.note] == []


def test_what_a_command_names_exists() -> None:
    found = {
        f"{one.block.where}: {one.line}": naming.wrong_with(one.words)
        for one in commands.commands()
    }
    assert {command: wrong for command, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("make dema", "there is no make dema"),
        ("make push REGISTER=x", "the Makefile uses no REGISTER"),
        ("pip install '.[simulation]'", "there is no extra simulation"),
        ("lockstep simulat job.yaml", "lockstep has no command simulat"),
        ("lockstep simulate job.yaml --round 3", "No such option: --round"),
        ("lockstep-operator --kube-config x", "No such option: --kube-config"),
    ],
)
def test_names_that_are_none_are_found(line: str, wrong: str) -> None:
    assert wrong in str(naming.wrong_with(shlex.split(line)))


def test_a_line_is_taken_apart() -> None:
    line = "make images && make push REGISTRY=a.b/c   # twice"
    assert list(simple(line)) == [("make", "images"), ("make", "push", "REGISTRY=a.b/c")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's docs, and the files that commands in them name."""
    return running.prepared(tmp_path_factory.mktemp("commands"))


@pytest.mark.parametrize("command", HERE, ids=[one.line for one in HERE])
def test_a_command_that_needs_no_cluster_runs(
    command: commands.Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    code, said = running.run(command)
    shown = [line for line in command.block.text.splitlines()[1:] if line.strip()]
    if command.block.language == "console":
        assert said.splitlines() == shown
    else:
        assert code == 0, said


def test_python_in_the_docs_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder / "docs" / "examples" / "own-model"))
    for page in pages():
        running.run_python([block for block in blocks() if block.page == page])


def manifests() -> Iterator[tuple[str, str, str]]:
    for block in blocks():
        if block.language == "yaml":
            yield block.where, block.title, block.text


def test_manifests_in_the_docs_are_accepted() -> None:
    found = {where: running.refused(text, title=title) for where, title, text in manifests()}
    assert len(found) > 2
    assert {where: wrong for where, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("text", "title", "wrong"),
    [
        ("spec:\n  training: {round: 3}\n", "", "unknown field"),
        ("spec:\n  mode: ring\n", "", "mode"),
        ("operator:\n  replica: 3\n", "values.yaml", "replica"),
        ("devices: []\n", "", "begins with spec:"),
    ],
)
def test_manifests_that_are_none_are_found(text: str, title: str, wrong: str) -> None:
    assert wrong in running.refused(text, title=title)


def test_series_in_the_docs_are_exported() -> None:
    texts = [(block.where, block.text) for block in blocks() if block.language == "promql"]
    texts += [(page, code) for page in pages() for code in inline_code(page)]
    found = {(where, name) for where, text in texts for name in naming.unknown_series(text)}
    assert found == set()


def test_fields_in_the_docs_are_those_of_a_job() -> None:
    odd = {
        (page, code) for page in pages() for code in inline_code(page) if naming.unknown_field(code)
    }
    assert odd == set()
    assert naming.unknown_field("spec.training.learningrate")
    assert not naming.unknown_field("status.lastPlan.clients[].applied")


def test_commands_and_options_in_the_text_exist() -> None:
    odd = set()
    for page in pages():
        for code in inline_code(page):
            if re.fullmatch(r"--[a-z][a-z-]+", code) and code not in FOREIGN_OPTIONS:
                odd.add((page, naming.wrong_option(code)))
            elif found := re.match(r"make ([a-z][a-z-]+)", code):
                odd.add((page, naming.wrong_make([found[1]])))
            elif found := re.fullmatch(r"(lockstep(?:-[a-z]+)?) ([a-z][a-z-]+)(?: .*)?", code):
                odd.add((page, naming.wrong_command(found[1], found[2])))
    assert {(page, wrong) for page, wrong in odd if wrong} == set()
