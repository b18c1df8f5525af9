"""How jobs came out, side by side: final figures, and what each needed for what all reached.

Called by `report` for comparisons and by whoever prints them as a table. Pure. Invariant: what each
job needed counts up to the first round that reached the accuracy which all of them reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lockstep_pictures.model import Energy, JobFigures, RoundFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """How a job came out."""

    job: JobFigures
    accuracy: float | None
    best: RoundFigures | None
    """The round with the highest accuracy."""
    rounds: int
    seconds: float | None
    energy: Energy
    bytes: int | None
    """Of all updates; None: of older rounds it is not kept."""
    common: RoundFigures | None
    """The first round that reached what all jobs reached."""


def final(job: JobFigures, *, common: float | None = None) -> Final:
    """How one came out; `common` is an accuracy to look for."""
    last, sizes = job.last, [one.upload_bytes() for one in job.rounds]
    told = [one for one in sizes if one is not None]
    return Final(
        job=job,
        accuracy=last.accuracy if last else None,
        best=best(job),
        rounds=last.round if last else 0,
        seconds=last.elapsed_s if last else None,
        energy=last.energy if last else {},
        bytes=sum(told) if sizes and len(told) == len(sizes) else None,
        common=None if common is None else first_at(job, common),
    )


def finals(jobs: Sequence[JobFigures]) -> list[Final]:
    """How all came out."""
    common = common_accuracy(jobs)
    return [final(job, common=common) for job in jobs]


def best(job: JobFigures) -> RoundFigures | None:
    """The round with the highest accuracy, the first of equal ones."""
    told = [(one.accuracy, -one.round, one) for one in job.rounds if one.accuracy is not None]
    return max(told, key=lambda each: each[:2])[2] if told else None


def common_accuracy(jobs: Sequence[JobFigures]) -> float | None:
    """The highest accuracy that each of them reached; None: one was never evaluated."""
    reached = [one.accuracy if (one := best(job)) else None for job in jobs]
    told = [one for one in reached if one is not None]
    return min(told) if told and len(told) == len(reached) else None


def first_at(job: JobFigures, accuracy: float) -> RoundFigures | None:
    """The first round with at least this accuracy."""
    return next((one for one in job.rounds if (one.accuracy or 0.0) >= accuracy), None)
