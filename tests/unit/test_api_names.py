"""Names of children: within the limits of Kubernetes, stable, different for different jobs."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_api import names

JOB = st.from_regex(r"[a-z]([-a-z0-9]{0,251}[a-z0-9])?", fullmatch=True)
GROUP = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def every_name(job: str, group: str) -> list[str]:
    """All names made for a job, and the pod of its 10,000th device."""
    return [
        names.label_value(job),
        names.cloud_name(job),
        names.devices_name(job),
        names.group_name(job, group),
        names.settings_name(job),
        names.service_account_name(job, names.Role.DEVICE),
        names.cloud_pod(job),
        names.client_pod(job, names.client_name(group, 9_999)),
    ]


@given(JOB, GROUP)
def test_names_are_dns_labels(job: str, group: str) -> None:
    for name in every_name(job, group):
        assert len(name) <= 63
        assert LABEL.fullmatch(name), name


@given(JOB, GROUP)
def test_names_are_the_same_every_time(job: str, group: str) -> None:
    assert every_name(job, group) == every_name(job, group)


@given(JOB, GROUP)
def test_a_statefulset_leaves_room_for_its_revision(job: str, group: str) -> None:
    """Its pods' label controller-revision-hash is its name and 11 characters, at most 63."""
    for name in (names.cloud_name(job), names.group_name(job, group)):
        assert len(name) + 11 <= 63


@given(st.text(min_size=1, max_size=300), st.integers(min_value=10, max_value=63))
def test_shortening_keeps_the_limit_and_short_names(name: str, limit: int) -> None:
    short = names.shorten(name, limit)
    assert len(short) <= limit
    assert (short == name) == (len(name) <= limit)


@given(st.lists(JOB, min_size=2, max_size=20, unique=True))
def test_different_jobs_have_different_names(jobs: list[str]) -> None:
    assert len({names.cloud_name(job) for job in jobs}) == len(jobs)


def test_long_names_that_begin_alike_differ() -> None:
    assert names.cloud_name("a" * 200) != names.cloud_name("a" * 201)


@pytest.mark.parametrize("group", ["fast", "fast-2", "0"])
def test_a_clients_pod_is_the_statefulsets(group: str) -> None:
    client = names.client_name(group, 12)
    assert names.client_pod("job", client) == f"{names.group_name('job', group)}-12"
