"""Figures of a job from what its cloud pod wrote down: whole, with gaps, played again."""

import pytest

from lockstep_pictures.figures import JobParts, figures_of, group_of
from tests.support.pictured import Job


def test_a_participant_has_what_was_asked_and_what_it_did() -> None:
    job = Job()
    found = job.figures().rounds[0].participants[0]
    assert found.client == "phone-0"
    assert found.group == "phone"
    assert found.asked_ghz == found.had_ghz
    assert found.asked_steps == found.steps == 10
    assert found.expected_mbps is not None
    assert found.mbps == pytest.approx(found.expected_mbps / 0.9)
    assert found.energy.keys() == {"model", "cpu"}


def test_who_gave_no_update_is_a_participant_without_figures() -> None:
    found = Job(lost_every=1).figures().rounds[0]
    assert found.missing > 0
    assert len(found.participants) == 6
    lost = [one for one in found.participants if not one.updated]
    assert len(lost) == found.missing
    assert all(one.had_ghz is None and one.asked_ghz is not None for one in lost)
    assert found.updates == len(found.finished())


def test_arrivals_are_in_order() -> None:
    arrived = [one.arrived_s for one in Job().figures().rounds[0].finished()]
    assert arrived == sorted(arrived, key=lambda one: one or 0.0)


def test_records_without_plans_have_no_figures_of_them() -> None:
    found = Job(plans=False).figures().rounds[0].participants[0]
    assert found.asked_ghz is None
    assert found.expected_mbps is None
    assert found.had_ghz is not None
    assert found.asked_steps == 10


def test_plans_may_be_given_beside_reports() -> None:
    job = Job(rounds=1)
    plan = job.records()[0].plan  # type: ignore[union-attr]
    assert plan is not None
    told = figures_of(job.parts(plans={1: plan}), Job(rounds=1, plans=False).records())
    assert told.rounds == job.figures().rounds


def test_summaries_have_sums_only() -> None:
    found = Job(rounds=4, summaries=3).figures()
    assert [one.detailed for one in found.rounds] == [False, False, False, True]
    assert found.rounds[0].updates == 6
    assert found.rounds[0].upload_bytes() is None
    assert found.rounds[3].upload_bytes() == found.rounds[3].updates * 400_000
    assert len(found.detailed()) == 1


def test_of_a_round_that_was_played_again_the_later_counts() -> None:
    records = Job(rounds=4).records()
    again = records[2].model_copy(update={"accuracy": 0.123})
    found = figures_of(Job().parts(), [*records[:3], again, *records[3:]])
    assert [one.round for one in found.rounds] == [1, 2, 3, 4]
    assert found.rounds[2].accuracy == 0.123


def test_clusters_have_the_edge_that_ran_them() -> None:
    job = Job(clusters=2, rounds=1)
    record = job.records()[0]
    moved = record.clusters[0].model_copy(update={"edge": "edge-1", "tries": 2})  # type: ignore[union-attr]
    told = record.model_copy(update={"clusters": [moved]})
    found = figures_of(job.parts(), [told]).rounds[0]
    assert [(one.edge, one.tries, one.seconds) for one in found.clusters] == [
        ("edge-1", 2, 1.9),
        ("edge-1", 1, None),
    ]
    assert {one.edge for one in found.participants} == {"edge-1"}


def test_a_job_without_rounds_has_its_manifest() -> None:
    found = figures_of(JobParts(name="new", spec=Job().spec()), [])
    assert (found.devices, found.rounds, found.last, found.sources()) == (6, (), None, [])
    assert found.source() is None
    assert (found.strategy, found.policy, found.model) == ("fedavg", "equalize", "mlp")


@pytest.mark.parametrize(
    ("client", "group"), [("phone-0", "phone"), ("a-b-12", "a-b"), ("odd", "odd")]
)
def test_a_client_is_named_for_its_group(client: str, group: str) -> None:
    assert group_of(client) == group
