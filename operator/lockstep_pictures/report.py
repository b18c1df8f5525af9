"""A job's report: which facts, pictures and tables a page has of one job, or of several.

Called by the CLI and the simulator, who hand the result to `page`. Invariant: a section appears
only with something to show; what it shows of a large job is said in its captions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lockstep_pictures import comparing, curves, sections, tables, written
from lockstep_pictures.model import JobFigures
from lockstep_pictures.page import Fact, Figure, PageContent, Section, Tone

FINISHED = ("Completed", "Failed")
_GOOD = {"Accepted", "Ready", "Progressing", "Complete"}
"""Conditions that are well when they hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """When and with what a page was made."""

    when: str
    """A date and time."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Program → its version."""

    def told(self) -> str:
        """In a sentence."""
        programs = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"Made {self.when}{f' with {programs}' if programs else ''}."


def report_of(job: JobFigures, *, made: Made) -> PageContent:
    """The report of one job."""
    return PageContent(
        title=f"{job.namespace}/{job.name}",
        state=job.phase or "",
        tone=_tone(job.phase),
        lead=_lead(job),
        problems=_problems(job),
        facts=_facts(job),
        sections=[one for of in sections.ALL if (one := of(job))],
        listings={"Manifest": job.manifest} if job.manifest else {},
        foot=made.told(),
        ended=job.phase in FINISHED,
    )


def comparison_of(jobs: Sequence[JobFigures], *, made: Made) -> PageContent:
    """Several jobs beside each other: their curves overlaid, one table."""
    sources = sorted({source for job in jobs for source in job.sources()})
    figures = [
        *sections.learning_curves(jobs, sources, what="accuracy"),
        *sections.learning_curves(jobs, sources, what="loss"),
    ]
    common = comparing.common_accuracy(jobs)
    text = f"All of them reached an accuracy of {written.share(common)}. " if common else ""
    return PageContent(
        title=f"{written.count(len(jobs), 'job')} compared",
        lead=", ".join(f"{job.namespace}/{job.name}" for job in jobs),
        sections=[
            Section(
                name="figures",
                title="Final figures",
                text=f"{text}Sources of energy are never added up.",
                tables=[tables.finals(jobs)],
            ),
            Section(name="learning", title="Learning", text=sections.HOW, figures=figures),
            *_compared_rounds(jobs),
        ],
        listings={f"Manifest of {job.name}": job.manifest for job in jobs if job.manifest},
        foot=made.told(),
        ended=all(job.phase in FINISHED for job in jobs),
    )


def _tone(phase: str | None) -> Tone:
    tones: dict[str, Tone] = {"Completed": "good", "Failed": "bad", "Refused": "bad"}
    return tones.get(phase or "", "plain")


def _lead(job: JobFigures) -> str:
    groups = ", ".join(
        f"{group.devices} × {group.name} ({group.min_ghz:g}–{group.max_ghz:g} GHz)"
        for group in job.groups
    )
    edges = sum(count for _, count in job.edges)
    return (
        f"{job.model} on {job.dataset}, mode {job.mode}, strategy {job.strategy}; "
        f"{written.count(job.devices, 'device')}: {groups}"
        f"{'; ' + written.count(edges, 'edge') if edges else ''}."
    )


def _problems(job: JobFigures) -> list[str]:
    """What conditions say is wrong, in their words."""
    return [
        f"{one.type}: {one.message or one.reason}"
        for one in job.conditions
        if (one.status == "True" and one.type not in _GOOD)
        or (one.status == "False" and one.type == "Accepted")
    ]


def _facts(job: JobFigures) -> list[Fact]:
    end = comparing.final(job)
    best = end.best
    detail = f"best {written.share(best.accuracy)} in round {best.round}" if best else ""
    result = next((one for one in job.conditions if _is_result(one.type, one.status)), None)
    policy = f"λ = {job.energy_weight:g} s/J" if job.policy != "max" else ""
    missing, refused = _incomplete(job)
    return [
        *([Fact(name="Result", value=result.reason)] if result else []),
        Fact(name="Accuracy", value=written.share(end.accuracy), note=detail),
        Fact(name="Loss, nats", value=written.number(job.last.loss if job.last else None)),
        *_privacy(job),
        Fact(name="Rounds", value=f"{end.rounds} of {job.rounds_wanted}", note=_goal(job)),
        Fact(name="Time", value=written.seconds(end.seconds), note=_mean_round(job)),
        *(
            Fact(
                name=f"Energy, {curves.source_title(source)}",
                value=written.joules(joules),
                note=_per_round(joules, job),
            )
            for source, joules in end.energy.items()
        ),
        Fact(name="Allocation", value=job.policy, note=policy),
        Fact(name="Uploaded", value=written.size(_uploaded(job)), note=_of_detailed(job)),
        Fact(name="Updates missing", value=f"{missing:,}", note=f"{refused:,} refused"),
        *_taken_back(job),
        *([Fact(name="Started", value=written.moment(job.started))] if job.started else []),
        *([Fact(name="Ended", value=written.moment(job.ended))] if job.ended else []),
    ]


def _taken_back(job: JobFigures) -> list[Fact]:
    """Rounds that were, and how many devices that was put down to."""
    back = [one for one in job.rounds if one.times_taken_back]
    if not back:
        return []
    named = {each.client for one in back for each in one.sat_out if each.why is not None}
    note = f"{written.count(len(named), 'device')} stood out" if named else ""
    return [Fact(name="Rounds taken back", value=f"{len(back):,}", note=note)]


def _privacy(job: JobFigures) -> list[Fact]:
    """Of a job that hides its clients, as the newest round says that knows it."""
    told = [one.privacy for one in job.rounds if one.privacy is not None]
    if not told:
        return []
    epsilon, delta = told[-1]
    return [Fact(name="Privacy", value=f"ε {epsilon:.3g}", note=f"of a client, δ {delta:.2g}")]


def _is_result(type: str, status: str) -> bool:
    return status == "True" and type in {"Complete", "Failed"}


def _goal(job: JobFigures) -> str:
    return f"until {job.target[0]} {job.target[1]:g}" if job.target else ""


def _mean_round(job: JobFigures) -> str:
    if not job.rounds:
        return ""
    mean = sum(one.seconds for one in job.rounds) / len(job.rounds)
    return f"{written.seconds(mean)} a round"


def _per_round(joules: float, job: JobFigures) -> str:
    return f"{written.joules(joules / job.rounds[-1].round)} a round" if job.rounds else ""


def _uploaded(job: JobFigures) -> int | None:
    sizes = [one.upload_bytes() for one in job.detailed()]
    return sum(size or 0 for size in sizes) if sizes else None


def _of_detailed(job: JobFigures) -> str:
    known = len(job.detailed())
    return "" if known == len(job.rounds) else f"in the last {written.count(known, 'round')}"


def _incomplete(job: JobFigures) -> tuple[int, int]:
    missing = sum(one.missing for one in job.rounds)
    return missing, sum(count for one in job.rounds for count in one.refused.values())


def _compared_rounds(jobs: Sequence[JobFigures]) -> list[Section]:
    if not any(job.rounds for job in jobs):
        return []
    return [
        Section(
            name="rounds",
            title="Rounds and energy",
            figures=[
                Figure(
                    name="durations",
                    title="How long rounds took",
                    caption="From handing out the model to its update.",
                    picture=curves.compared(jobs, what="seconds"),
                ),
                *(
                    Figure(
                        name=f"energy-{source}",
                        title=f"Energy, {curves.source_title(source)}",
                        caption="Of all devices since round 1.",
                        picture=curves.compared(jobs, what=source),
                    )
                    for source in sorted({each for job in jobs for each in job.sources()})
                ),
            ],
        )
    ]
