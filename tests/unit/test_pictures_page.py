"""Report pages: what they say, that no text becomes markup, how large they get."""

import html
import json
import re
from typing import Any

import pytest

from lockstep_api.mistrust import Mistrusted, SatOut
from lockstep_api.privacy import PrivacyReport
from lockstep_api.records import RoundRecord
from lockstep_api.status import Condition, FederatedJobStatus, Phase
from lockstep_pictures import comparing, embedding, written
from lockstep_pictures.figures import figures_of
from lockstep_pictures.page import page
from lockstep_pictures.report import Made, comparison_of, report_of
from tests.support.pictured import Job

MADE = Made(when="2026-01-02 03:04 UTC", versions={"lockstep": "1.2.3"})
EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)>&<!--'
MOST_BYTES = 3 << 20


def condition(type: str, status: str, **more: Any) -> Condition:
    said = {"reason": "Because", "message": "A sentence.", "observed_generation": 1}
    since = "2026-01-02T03:04:05Z"
    return Condition(
        **{"type": type, "status": status, "last_transition_time": since, **said, **more}
    )


def markup(text: str) -> str:
    """A page without its scripts."""
    return re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL)


def words(text: str) -> str:
    """What a page says."""
    return html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", markup(text), flags=re.DOTALL))


def test_a_report_says_how_the_job_stands() -> None:
    status = FederatedJobStatus(
        phase=Phase.COMPLETED,
        conditions=[
            condition("Complete", "True", reason="TargetReached"),
            condition("Degraded", "True", message="tablet-0 has no room"),
            condition("TelemetryDegraded", "False", message="all is told"),
        ],
        start_time="2026-01-02T03:04:05Z",
    )
    figures = Job(clusters=2).figures(status=status, manifest="kind: FederatedJob")
    content = report_of(figures, made=MADE)
    assert content.ended
    assert content.problems == ["Degraded: tablet-0 has no room"]
    facts = {fact.name: (fact.value, fact.note) for fact in content.facts}
    assert facts["Result"] == ("TargetReached", "")
    assert facts["Accuracy"] == ("0.6818", "best 0.6818 in round 8")
    assert facts["Rounds"] == ("8 of 8", "")
    assert facts["Energy, modelled"] == ("72 J", "9 J a round")
    assert facts["Energy, CPU seconds"] == ("288 J", "36 J a round")
    assert facts["Started"] == ("2026-01-02 03:04:05 UTC", "")
    said = words(page(content))
    for text in ("kind: FederatedJob", "lockstep 1.2.3", "TargetReached", "c1", "phone-1"):
        assert text in said


def test_a_page_has_its_pictures_and_says_what_they_show() -> None:
    content = report_of(Job(clusters=2).figures(), made=MADE)
    text = page(content)
    names = [figure.name for section in content.sections for figure in section.figures]
    assert len(names) == len(set(names)) > 15
    plots = re.findall(r'data-picture="([^"]+)" role="img" aria-label="([^"]+)"', text)
    assert [name for name, _ in plots] == names
    assert all(len(label) > 10 for _, label in plots)
    found = re.search(r'id="pictures">(.*?)</script>', text, flags=re.DOTALL)
    assert found
    assert set(json.loads(found[1])) == set(names)
    assert text.count(embedding.libraries()) == 1


def test_no_text_of_others_becomes_markup() -> None:
    status = FederatedJobStatus(conditions=[condition("Degraded", "True", message=EVIL)])
    figures = Job(name=EVIL).figures(status=status, manifest=EVIL)
    text = page(report_of(figures, made=Made(when=EVIL, versions={EVIL: EVIL})))
    assert "<img" not in markup(text)
    assert text.count("<script") == text.count("</script") == 3
    assert "alert(1)" in words(text)


@pytest.mark.parametrize(
    "job",
    [
        Job(rounds=0),
        Job(rounds=1, summaries=1),
        Job(devices=1, rounds=1, lost_every=1),
        Job(evaluated=False, plans=False),
    ],
    ids=["no round", "sums only", "nobody", "not evaluated"],
)
def test_a_job_with_little_to_tell_has_a_page(job: Job) -> None:
    text = page(report_of(job.figures(), made=MADE))
    assert f"{job.rounds} of {max(1, job.rounds)}" in words(text)


def test_a_page_of_a_large_job_stays_small() -> None:
    job = Job(devices=1000, rounds=500, summaries=480, clusters=8).figures()
    text = page(report_of(job, made=MADE))
    assert len(text) < MOST_BYTES
    assert "Devices are known of the last 20 rounds" in words(text)
    assert "120 of 1,000, evenly chosen" in words(text)


def test_only_a_live_page_may_ask_and_only_whoever_served_it() -> None:
    going = report_of(Job().figures(status=FederatedJobStatus(phase=Phase.RUNNING)), made=MADE)
    over = report_of(Job().figures(status=FederatedJobStatus(phase=Phase.FAILED)), made=MADE)
    still, live, ended = page(going), page(going, live=True), page(over, live=True)
    assert ["fetch(location.href" in one for one in (still, live, ended)] == [False, True, False]
    policy = r"connect-src ([^;]+);"
    found = [re.findall(policy, html.unescape(one))[0] for one in (still, live)]
    assert found == ["'none'", "'self'"]


def test_compared_jobs_have_one_table_and_what_all_reached() -> None:
    slow, fast = Job(name="slow", rounds=8).figures(), Job(name="fast", rounds=20).figures()
    assert comparing.common_accuracy([slow, fast]) == slow.rounds[-1].accuracy
    content = comparison_of([slow, fast], made=MADE)
    (table,) = content.sections[0].tables
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    assert [row["job"] for row in rows] == ["default/slow", "default/fast"]
    assert [row["rounds"] for row in rows] == ["8 of 8", "20 of 20"]
    assert [row["time to 0.6818"] for row in rows] == ["24 s", "24 s"]
    assert "energy (modelled) to 0.6818" in table.head
    assert page(content)


def test_jobs_that_were_never_evaluated_have_no_common_accuracy() -> None:
    jobs = [Job().figures(), Job(evaluated=False).figures()]
    assert comparing.common_accuracy(jobs) is None
    assert [one.common for one in comparing.finals(jobs)] == [None, None]
    assert page(comparison_of(jobs, made=MADE))


def test_bytes_are_told_only_where_all_rounds_tell_them() -> None:
    whole, older = comparing.final(Job().figures()), comparing.final(Job(summaries=1).figures())
    assert whole.bytes
    assert older.bytes is None


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (written.number(12345.678), "12,346"),
        (written.number(0.000123456), "0.0001235"),
        (written.number(None), "–"),
        (written.number(float("nan")), "–"),
        (written.seconds(0.4321), "0.432 s"),
        (written.seconds(119), "119 s"),
        (written.seconds(125), "2 min 5 s"),
        (written.seconds(12000), "3 h 20 min"),
        (written.joules(8.378), "8.378 J"),
        (written.joules(123456), "123.5 kJ"),
        (written.size(512), "512 B"),
        (written.size(1536), "1.5 KiB"),
        (written.size(None), "–"),
        (written.share(0.97), "0.9700"),
        (written.count(1, "device"), "1 device"),
        (written.count(2000, "device"), "2,000 devices"),
        (written.moment("2026-01-02T03:04:05Z"), "2026-01-02 03:04:05 UTC"),
    ],
)
def test_figures_are_written_for_people(told: str, text: str) -> None:
    assert told == text


@pytest.mark.parametrize("summaries", [0, 8])
def test_a_report_of_a_private_job_has_its_newest_epsilon(summaries: int) -> None:
    job = Job(summaries=summaries)
    unknown = {"privacy": PrivacyReport(rounds=8)}  # the planner was away
    known = {"privacy": PrivacyReport(rounds=7, epsilon=4.3771, delta=0.001)}
    records = [one.model_copy(update=known) for one in job.records()]
    records[-1] = records[-1].model_copy(update=unknown)
    content = report_of(figures_of(job.parts(), records), made=MADE)
    facts = {fact.name: (fact.value, fact.note) for fact in content.facts}
    assert facts["Privacy"] == ("ε 4.38", "of a client, δ 0.001")
    plain = report_of(job.figures(), made=MADE)
    assert "Privacy" not in {fact.name for fact in plain.facts}


def test_a_report_names_who_stood_out_and_who_was_clipped() -> None:
    job = Job(summaries=1)
    records = job.records()
    records[0] = records[0].model_copy(update={"taken_back": 2})
    far = SatOut(client="phone-1", returns=9, why="went 7 times as far as the median")
    doubted = Mistrusted(
        taken_back=["the loss is 99"], sat_out=[far, SatOut(client="tablet-1", returns=5)]
    )
    fourth = records[3]
    assert isinstance(fourth, RoundRecord)
    first, *others = fourth.clients
    clipped = first.model_copy(update={"kept": [0.25]})
    records[3] = fourth.model_copy(update={"mistrusted": doubted, "clients": [clipped, *others]})
    content = report_of(figures_of(job.parts(), records), made=MADE)
    facts = {fact.name: (fact.value, fact.note) for fact in content.facts}
    assert facts["Rounds taken back"] == ("2", "1 device stood out")
    (rounds,) = [one for one in content.sections if one.name == "rounds"]
    notes, doubts = rounds.tables
    assert [row[-1] for row in notes.rows if "taken back" in row[-1]] == [
        "taken back 2 ×", "taken back 1 ×",
    ]  # fmt: skip
    assert doubts.rows == [
        ["4", "phone-1", "went 7 times as far as the median",
         "the round was taken back (the loss is 99); may return in round 9"],
        ["4", first.update.client, "went too far", "clipped to 25 %"],
    ]  # fmt: skip
    plain = report_of(job.figures(), made=MADE)
    assert "Rounds taken back" not in {fact.name for fact in plain.facts}
    assert [len(one.tables) for one in plain.sections if one.name == "rounds"] == [1]
