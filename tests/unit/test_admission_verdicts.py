"""What is said of each object of a stream, and who would say it."""

import pytest
import yaml

from lockstep_admission.verdicts import Finding, Verdict, verdicts
from lockstep_api import names
from tests.support.manifests import MINIMAL, REFUSED_BY_THE_OPERATOR, Json, changed, job_manifest

NATURAL = changed(MINIMAL, {"data.partition": {"scheme": "natural"}})
WRONG = changed(MINIMAL, {"training.rounds": 0})


def said(*objects: Json) -> list[Verdict]:
    return list(verdicts(yaml.safe_dump_all(objects)))


def test_each_object_of_a_stream_has_its_verdict() -> None:
    elsewhere = job_manifest(NATURAL, name="b")
    elsewhere["metadata"]["namespace"] = "ml"
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    found = said(job_manifest(MINIMAL, name="a"), service, elsewhere, job_manifest(WRONG, name="c"))
    assert [(one.kind, one.namespace, one.name, one.finding) for one in found] == [
        ("FederatedJob", "", "a", Finding.TAKEN),
        ("Service", "", "s", Finding.PASSED_OVER),
        ("FederatedJob", "ml", "b", Finding.NOT_ACCEPTED),
        ("FederatedJob", "", "c", Finding.REFUSED),
    ]
    assert [len(one.sentences) for one in found] == [0, 0, 1, 1]


@pytest.mark.parametrize("changes", REFUSED_BY_THE_OPERATOR)
def test_what_only_the_operator_refuses_is_told_as_his(changes: Json) -> None:
    (found,) = said(job_manifest(changed(MINIMAL, changes)))
    assert found.finding is Finding.NOT_ACCEPTED
    assert found.sentences


def test_groups_whose_objects_would_have_one_name_are_not_accepted() -> None:
    job, long = "a-job-with-a-long-name", "edges-with-a-name-that-is-much-too-long"
    spelt = names.edge_group_name(job, long).removeprefix(f"{job}-edge-")
    edges = [{"name": long}, {"name": spelt}]
    spec = changed(MINIMAL, {"mode": "hierarchical", "edges": edges})
    (found,) = said(job_manifest(spec, name=job))
    assert found.finding is Finding.NOT_ACCEPTED
    assert found.sentences[0].startswith("two groups of the job would both be StatefulSet")
    (other,) = said(job_manifest(spec, name="j"))
    assert other.finding is Finding.TAKEN


def test_what_is_taken_but_learns_badly_is_told() -> None:
    (found,) = said(job_manifest(changed(MINIMAL, {"training.learningRate": 5.0})))
    assert found.finding is Finding.TAKEN
    assert any("learningRate" in one for one in found.advice), found


@pytest.mark.parametrize("text", ["a: [1", "- 1\n", "kind: A\nkind: B\n"])
def test_a_text_that_is_no_stream_has_one_verdict(text: str) -> None:
    (found,) = verdicts(text)
    assert found.finding is Finding.UNREADABLE
    assert len(found.sentences) == 1


def test_empty_documents_are_nothing() -> None:
    assert list(verdicts("---\n---\n# a comment\n")) == []
