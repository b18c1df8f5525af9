"""What a device tells of its labels: with noise where clusters are made of them, drawn once."""

from pathlib import Path

import numpy as np
import pytest

from lockstep_api.settings import JobSettings
from lockstep_api.spec import Clustering, Privacy
from lockstep_api.wire_types import MOST_INT
from lockstep_workers.data import Examples
from lockstep_workers.device.labels import ToldLabels
from lockstep_workers.learning.client import Client, build_client
from lockstep_workers.learning.histograms import drawn_by_seed, noised
from tests.wire.jobs import settings

COUNTS = [5, 0, 9, 1, 0, 0, 0, 0, 7, 8]


def client_of(job: JobSettings) -> Client:
    """A client with these labels."""
    labels = np.repeat(np.arange(10), COUNTS)
    examples = Examples(np.zeros((len(labels), 1, 28, 28), np.uint8), labels)
    return build_client(job, "d-0", examples=examples)


def job(epsilon: float | None = 1.0, **training: object) -> JobSettings:
    """A job of one device, with clusters unless epsilon is None."""
    made = settings(cloud_port=1, planner_port=1, replicas=1, **training)
    clustering = None if epsilon is None else Clustering(epsilon=epsilon)
    return made.model_copy(update={"clustering": clustering})


def told(made: JobSettings, folder: Path) -> list[int]:
    """The histogram that it tells."""
    return ToldLabels(made, client_of(made), folder).histogram(10)


def test_noise_has_the_scale_that_is_asked_for_and_no_count_is_negative() -> None:
    draw = drawn_by_seed(0, "d-0")
    noise = np.array([noised([10_000], epsilon=0.1, draw=draw)[0] for _ in range(20_000)]) - 10_000
    assert abs(noise.mean()) < 0.5
    assert abs(np.abs(noise).mean() - 10) < 0.5, "the mean absolute value of Laplace is its scale"
    assert abs(noise.std() - 10 * 2**0.5) < 0.5
    assert abs(np.quantile(noise, 0.75) - 10 * np.log(2)) < 1
    low = [noised([0], epsilon=0.1, draw=draw)[0] for _ in range(1000)]
    assert min(low) == 0
    assert max(low) > 10


@pytest.mark.parametrize("epsilon", [1e-9, 1e-308])
def test_whatever_the_noise_a_registration_takes_the_counts(epsilon: float) -> None:
    found = noised([5] * 40, epsilon=epsilon, draw=drawn_by_seed(0, "d-0"))
    assert {type(one) for one in found} == {int}
    assert (min(found), max(found)) == (0, MOST_INT)


def test_without_clusters_counts_are_told_as_they_are(tmp_path: Path) -> None:
    assert told(job(None), tmp_path) == COUNTS
    assert list(tmp_path.iterdir()) == []


def test_noise_is_drawn_once_in_a_pod_s_life(tmp_path: Path) -> None:
    """Else whoever hears a device start again and again could average it out."""
    first = told(job(0.05), tmp_path / "pod")
    assert first != COUNTS
    assert [told(job(0.05), tmp_path / "pod") for _ in range(3)] == [first] * 3
    others = {tuple(told(job(0.05), tmp_path / f"pod-{i}")) for i in range(5)}
    assert len(others) == 5, "and nobody knows it beforehand"
    (file,) = (tmp_path / "pod").iterdir()
    assert file.read_text() == str(first), "counts without noise are not written down"


@pytest.mark.parametrize("damaged", ["", "[1, 2]", "[1, 2, 3, 4, 5, 6, 7, 8, 9, -1]", "{}"])
def test_a_file_that_is_damaged_is_written_anew(tmp_path: Path, damaged: str) -> None:
    first = told(job(0.05), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(damaged)
    again = told(job(0.05), tmp_path)
    assert again != first
    assert file.read_text() == str(again)


def test_deterministic_jobs_tell_the_same_in_every_life(tmp_path: Path) -> None:
    first = told(job(0.05, deterministic=True), tmp_path / "a")
    assert told(job(0.05, deterministic=True), tmp_path / "b") == first != COUNTS
    assert told(job(0.05, deterministic=True, seed=1), tmp_path / "b") != first
    assert not (tmp_path / "a").exists()


def test_too_many_labels_are_not_told(tmp_path: Path) -> None:
    made = job(1.0)
    assert ToldLabels(made, client_of(made), tmp_path).histogram(2000) == []


@pytest.mark.parametrize("method", [None, "random", "none"])
def test_a_private_job_tells_no_labels_that_no_cluster_is_made_of(
    method: str | None, tmp_path: Path
) -> None:
    clustering = None if method is None else Clustering.model_validate({"method": method})
    private = {"clustering": clustering, "privacy": Privacy(clip_norm=1, noise_multiplier=1)}
    assert told(job(None).model_copy(update=private), tmp_path) == []
    assert told(job(None).model_copy(update=private | {"privacy": None}), tmp_path) != []


def test_a_private_job_tells_labels_with_noise_where_clusters_are_made_of_them(
    tmp_path: Path,
) -> None:
    privacy = Privacy(clip_norm=1, noise_multiplier=1)
    made = told(job(0.1).model_copy(update={"privacy": privacy}), tmp_path)
    assert len(made) == 10
    assert made != COUNTS
