"""What a device tells of its labels, and the file in which it keeps that.

Used by `device.parts`. In modes with edges the counts have noise (`learning.histograms`), which is
drawn once in a pod's life: the file lies where a container that starts again finds it. Devices of a
private job tell none at all, unless clusters are made of them. Invariant: counts without noise are
in no file.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import structlog

from lockstep_api.settings import JobSettings
from lockstep_api.wire_types import MOST_LABELS
from lockstep_workers.data import label_histogram
from lockstep_workers.files import write_whole
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.histograms import drawn_by_chance, drawn_by_seed, noised

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ToldLabels:
    """The label histogram of one client of one job, as others are told it."""

    job: JobSettings
    client: Client
    folder: Path

    def histogram(self, classes: int) -> list[int]:
        """Examples per label; empty where there are too many labels, or they are not to be told."""
        if not self.job.tells_labels():
            return []
        counts = label_histogram(self.client.examples, classes)
        if len(counts) > MOST_LABELS:
            return []
        if self.job.clustering is None:
            return counts
        epsilon, training = self.job.clustering.epsilon, self.job.training
        if training.deterministic:
            draw = drawn_by_seed(training.seed, self.client.name)
            return noised(counts, epsilon=epsilon, draw=draw)
        kept = self._kept(len(counts))
        if kept is None:
            kept = noised(counts, epsilon=epsilon, draw=drawn_by_chance())
            self._keep(kept)
        return kept

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.job.uid}.{self.client.name}.labels.json"

    def _kept(self, labels: int) -> list[int] | None:
        try:
            told = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("told labels cannot be read", file=str(self._path), why=str(error))
            return None
        whole = isinstance(told, list) and all(type(n) is int and n >= 0 for n in told)
        return told if whole and len(told) == labels else None

    def _keep(self, counts: list[int]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(counts).encode())
        except OSError as error:
            _log.warning("told labels not written", file=str(self._path), why=str(error))
