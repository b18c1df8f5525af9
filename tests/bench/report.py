"""Draws the pictures of docs/report.md from a job's files, as a cloud pod writes them.

    lockstep simulate docs/examples/frequency.yaml --set allocation.policy=equalize --rounds 21 \\
        --failures 0.04 --work-per-step 0.0012 --records build/frequency
    python -m tests.bench.report build/frequency docs/examples/frequency.yaml

Writes docs/pictures/report-*.png; the page itself is shot in a real Chromium.
"""

import argparse
import json
import tempfile
from pathlib import Path

import yaml

from lockstep_api.records import (
    CLIENTS_FILE,
    HISTORY_FILE,
    ClientsRecord,
    RoundRecord,
    RoundSummary,
)
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus, Phase
from lockstep_pictures import curves, devices, rounds
from lockstep_pictures.curves import Across
from lockstep_pictures.figures import JobParts, Record, figures_of
from lockstep_pictures.files import rendered, smaller
from lockstep_pictures.model import JobFigures
from lockstep_pictures.page import page
from lockstep_pictures.report import Made, report_of
from tests.support.chromium import chromium

OUT = Path(__file__).resolve().parents[2] / "docs" / "pictures"
_WIDE, _HEIGHT = 1280, 1240


def read(folder: Path, manifest: Path, *, policy: str) -> JobFigures:
    """The figures of a job whose files are in `folder`."""
    jobs = [
        one for one in yaml.safe_load_all(manifest.read_text()) if one["kind"] == "FederatedJob"
    ]
    spec = FederatedJobSpec.model_validate(jobs[0]["spec"])
    lines = (folder / HISTORY_FILE).read_text().splitlines()
    records: list[Record] = [_record(line) for line in lines]
    training = spec.training.model_copy(update={"rounds": len(records)})
    allocation = spec.allocation.model_copy(update={"policy": type(spec.allocation.policy)(policy)})
    parts = JobParts(
        name=jobs[0]["metadata"]["name"],
        spec=spec.model_copy(update={"training": training, "allocation": allocation}),
        status=FederatedJobStatus(phase=Phase.COMPLETED),
        clients=ClientsRecord.model_validate_json((folder / CLIENTS_FILE).read_text()),
    )
    return figures_of(parts, records)


def _record(line: str) -> Record:
    kind = RoundRecord if "clients" in json.loads(line) else RoundSummary
    return kind.model_validate_json(line)


def draw(job: JobFigures, out: Path) -> list[Path]:
    """All pictures, as files."""
    width = {"width": 640}
    client = devices.followed(job)[1]
    pictures = {
        "accuracy": curves.accuracy([job], Across.ENERGY, source="model").properties(**width),
        "gantt": rounds.gantt(job.rounds[-1]).properties(**width),
        "frequencies": devices.frequencies(job).properties(**width),
        "bandwidth": devices.bandwidth(job, client).properties(**width),
    }
    titles = {
        "accuracy": "Accuracy by modelled energy",
        "gantt": f"Round {job.rounds[-1].round}",
        "frequencies": "Frequency by device and round",
        "bandwidth": f"Bandwidth of {client}",
    }
    out.mkdir(parents=True, exist_ok=True)
    made = [out / f"report-{name}.png" for name in pictures]
    for path, (name, picture) in zip(made, pictures.items(), strict=True):
        path.write_bytes(rendered(picture, "png", title=titles[name], scale=1.25))
    return made


def shoot(job: JobFigures, out: Path) -> Path:
    """The page's first screen."""
    path = out / "report-page.png"
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "chromium") as browser:
        file = Path(folder) / "report.html"
        file.write_text(page(report_of(job, made=Made(when="for the docs"))), encoding="utf-8")
        browser.sized(_WIDE, _HEIGHT).open(file.as_uri())
        path.write_bytes(smaller(browser.seen()))
    return path


def main() -> None:
    """Draws them."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("folder", type=Path, help="with history.jsonl and clients.json")
    given.add_argument("manifest", type=Path)
    given.add_argument("--policy", default="equalize", help="allocation.policy that was played")
    given.add_argument("--out", type=Path, default=OUT)
    told = given.parse_args()
    job = read(told.folder, told.manifest, policy=told.policy)
    for path in (*draw(job, told.out), shoot(job, told.out)):
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
