"""A real Prometheus on loopback, with the configuration that a test gives it."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.support.promtool import program

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A Prometheus that runs."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that an instant query finds."""
        found = self._get(f"/api/v1/query?{urlencode({'query': promql})}")["data"]["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def names(self, label: str) -> set[str]:
        """The values of a label that are known."""
        return set(self._get(f"/api/v1/label/{label}/values")["data"])

    def labels(self) -> set[str]:
        """The names of all labels that are known."""
        return set(self._get("/api/v1/labels")["data"])

    def until(self, promql: str, *, series: int = 1) -> list[tuple[dict[str, str], float]]:
        """What a query finds, once it finds so many.

        Raises:
            TimeoutError: it never did.
        """
        deadline = time.monotonic() + PATIENCE_S
        while len(found := self.query(promql)) < series:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError(f"{promql}: {found}\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)
        return found

    def _get(self, path: str) -> Json:
        with urlopen(self.url + path, timeout=PATIENCE_S) as answer:
            found: Json = json.load(answer)
        return found


@contextmanager
def prometheus(config: Mapping[str, Any], folder: Path) -> Iterator[Asked]:
    """Prometheus with this configuration, ready, until the end; its files are in the folder."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(dict(config)))
    address = f"127.0.0.1:{free_port()}"
    words = [
        str(program("prometheus")), f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}",
    ]  # fmt: skip
    log = folder / "prometheus.log"
    with log.open("wb") as out, subprocess.Popen(words, stdout=out, stderr=out) as process:
        try:
            asked = Asked(f"http://{address}", process, log)
            _wait_until_ready(asked)
            yield asked
        finally:
            process.terminate()


def _wait_until_ready(asked: Asked) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urlopen(f"{asked.url}/-/ready", timeout=PATIENCE_S):
                return
        except OSError as error:
            if time.monotonic() > deadline or asked.process.poll() is not None:
                raise TimeoutError(f"{error}\n{asked.log.read_text()[-2000:]}") from error
            time.sleep(0.1)
