"""`lockstep validate`: what a cluster would say of manifests, without one."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lockstep_admission.verdicts import REFUSALS, Finding, Verdict, verdicts
from lockstep_cli.errors import CliError, Exit, NotFound
from lockstep_cli.shown import out, say, write_json

STDIN = "-"
_SUFFIXES = {".yaml", ".yml", ".json"}
_SAID = {
    Finding.TAKEN: "taken",
    Finding.REFUSED: "refused by the apiserver",
    Finding.NOT_ACCEPTED: "not accepted by the operator",
    Finding.PASSED_OVER: "not looked at: only FederatedJobs are",
    Finding.UNREADABLE: "unreadable",
}


class Form(StrEnum):
    """What `-o` takes."""

    JSON = "json"


@dataclass(frozen=True, slots=True)
class Found:
    """An object of a file, and what is said of it."""

    file: str
    verdict: Verdict


def validate(
    files: Annotated[
        list[str],
        typer.Argument(help="Manifests, folders with -R, or - for stdin.", metavar="FILE"),
    ],
    *,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-R", help="All manifests below a folder.")
    ] = False,
    output: Annotated[
        Form | None, typer.Option("--output", "-o", help="Another form of what is printed.")
    ] = None,
) -> None:
    """Say what a cluster would refuse of manifests: schema and rules in the apiserver's words.

    What the operator refuses of a spec is told, too. Room on nodes is a matter of a cluster.
    """
    found = [one for name in files for one in _of(name, recursive=recursive)]
    if output is Form.JSON:
        write_json([_json(one) for one in found])
    else:
        for one in found:
            _show(one)
        _sum_up(found)
    if any(one.verdict.finding in REFUSALS for one in found):
        raise typer.Exit(Exit.FAILED)


def _of(name: str, *, recursive: bool) -> Iterator[Found]:
    """What is said of the objects of a file, or of all files of a folder."""
    for path in _manifests(name, recursive=recursive):
        yield from (Found(path, one) for one in verdicts(_text(path)))


def _manifests(name: str, *, recursive: bool) -> list[str]:
    if name == STDIN or not Path(name).is_dir():
        return [name]
    places = Path(name).rglob("*") if recursive else Path(name).iterdir()
    found = sorted(str(one) for one in places if one.suffix in _SUFFIXES and one.is_file())
    if not found:
        below = "" if recursive else " itself: -R looks below it, too"
        raise NotFound(f"there is no .yaml, .yml or .json file in {name}{below}")
    return found


def _text(name: str) -> str:
    if name == STDIN:
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {name}") from error
    except UnicodeDecodeError as error:
        raise CliError(f"{name} is no text: a manifest is YAML or JSON in UTF-8") from error


def _show(found: Found) -> None:
    """One line, and one for each reason; what is passed over is no result."""
    verdict = found.verdict
    line = " ".join(
        part for part in (f"{found.file}:", _object(verdict), _SAID[verdict.finding]) if part
    )
    if verdict.finding is Finding.PASSED_OVER:
        say(line, style="dim")
        return
    out(line)
    for sentence in verdict.sentences:
        out(f"  * {sentence}")
    for sentence in verdict.advice:
        out(f"  advice: {sentence}")


def _object(verdict: Verdict) -> str:
    name = "/".join(part for part in (verdict.namespace, verdict.name) if part)
    return " ".join(part for part in (verdict.kind, name) if part)


def _sum_up(found: Sequence[Found]) -> None:
    """What the exit code says, for people; silence of many files is no answer."""
    looked = [one for one in found if one.verdict.finding is not Finding.PASSED_OVER]
    if not looked:
        say("there is no FederatedJob in it")
    elif len(looked) > 1:
        refused = sum(one.verdict.finding in REFUSALS for one in looked)
        say(f"{len(looked)} looked at, {refused} refused")


def _json(found: Found) -> dict[str, Any]:
    verdict = found.verdict
    return {
        "file": found.file,
        "kind": verdict.kind,
        "namespace": verdict.namespace,
        "name": verdict.name,
        "finding": verdict.finding,
        "messages": list(verdict.sentences),
        "advice": list(verdict.advice),
    }
