"""Writes every file that is made of this package: `python -m lockstep_monitoring [--check]`.

With `--check`, as lint calls it, nothing is written: files that differ fail, by name.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from lockstep_monitoring import metrics_page, rule_file, told_file
from lockstep_monitoring.dashboards import json_files

ROOT = Path(__file__).resolve().parents[2]


def generated() -> dict[str, str]:
    """Path in the checkout → what stands in the file."""
    pages = (metrics_page, rule_file, told_file)
    return {one.PATH: one.text() for one in pages} | json_files.files()


def outdated(files: Mapping[str, str], root: Path) -> list[str]:
    """Those that are not there or say something else."""
    return [
        path
        for path, text in files.items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]


def write(files: Mapping[str, str], root: Path) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> None:
    if arguments not in ([], ["--check"]):
        raise SystemExit("usage: python -m lockstep_monitoring [--check]")
    files = generated()
    old = outdated(files, ROOT)
    if arguments and old:
        raise SystemExit(f"{', '.join(old)}: not what the code says: run make monitoring")
    write({path: files[path] for path in old}, ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
