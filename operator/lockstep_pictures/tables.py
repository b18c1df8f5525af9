"""Tables of a report: rounds, devices, clusters, conditions, and final figures of several jobs.

Called by `report`. Invariant: a table has at most `MOST_ROWS` rows, evenly chosen of more, and says
so in its caption.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean

from lockstep_pictures import comparing, curves, written
from lockstep_pictures.devices import by_name
from lockstep_pictures.labels import clusters_of
from lockstep_pictures.model import JobFigures, Participant, RoundFigures
from lockstep_pictures.page import Table
from lockstep_pictures.rows import few

MOST_ROWS = 120


def kept(job: JobFigures) -> str:
    """Of how many rounds devices are known, where it is not all."""
    known = len(job.detailed())
    if known == len(job.rounds):
        return ""
    return (
        f"Devices are known of the last {written.count(known, 'round')}; of older ones only sums "
        "are kept."
    )


def rounds(job: JobFigures) -> Table:
    """A row a round."""
    shown, sources = few(job.rounds, MOST_ROWS), job.sources()
    head = ["round", "took", "since round 1", "updates", "missing", "accuracy", "loss, nats"]
    head += [f"energy ({curves.source_title(source)})" for source in sources]
    rows = [
        [
            str(one.round),
            written.seconds(one.seconds),
            written.seconds(one.elapsed_s),
            f"{one.updates:,}",
            f"{one.missing:,}",
            written.share(one.accuracy),
            written.number(one.loss),
            *(written.joules(one.energy.get(source)) for source in sources),
            _note(one),
        ]
        for one in shown
    ]
    return Table(
        caption=_caption("Rounds", shown, of=job.rounds),
        head=[*head, "note"],
        rows=rows,
        words=frozenset(),
        texts=frozenset({len(head)}),
    )


def devices(job: JobFigures) -> Table:
    """A row a device: means over the rounds of which devices are known."""
    told: dict[str, list[Participant]] = {}
    for each in job.detailed():
        for one in each.participants:
            told.setdefault(one.client, []).append(one)
    names, clusters = by_name(list(told)), clusters_of(job)
    examples = {one.client: one.examples for one in job.clients}
    shown, source = few(names, MOST_ROWS), job.source()
    head = ["device", "cluster", "examples", "updates", "asked, GHz", "had, GHz", "steps"]
    head += ["compute", "upload", "Mbit/s", "energy"]
    rows = [
        [
            name,
            clusters.get(name, written.UNKNOWN),
            f"{examples[name]:,}" if name in examples else written.UNKNOWN,
            f"{sum(one.updated for one in told[name])} of {len(told[name])}",
            _mean(one.asked_ghz for one in told[name]),
            _mean(one.had_ghz for one in told[name]),
            _mean(one.steps for one in told[name]),
            _mean((one.compute_s for one in told[name]), unit=" s"),
            _mean((one.upload_s for one in told[name]), unit=" s"),
            _mean(one.mbps for one in told[name]),
            written.joules(sum(one.energy.get(source or "", 0.0) for one in told[name])),
        ]
        for name in shown
    ]
    caption = _caption(
        "Devices: means of their updates, and the sum of their energy", shown, of=names
    )
    return Table(caption=caption, head=head, rows=rows, words=frozenset({0, 1}))


def mistrusted(job: JobFigures) -> Table | None:
    """A row for each device that was left out of a round that was taken back, and for each that
    was clipped; None: there is none."""
    rows = [row for one in job.detailed() for row in (*_stood_out(one), *_clipped(one))]
    if not rows:
        return None
    shown = few(rows, MOST_ROWS)
    return Table(
        caption=_caption("Updates that were left out, or clipped", shown, of=rows),
        head=["round", "device", "its update", "what became of it"],
        rows=shown,
        words=frozenset({1}),
        texts=frozenset({2, 3}),
    )


def _stood_out(one: RoundFigures) -> list[list[str]]:
    back = f"the round was taken back ({'; '.join(one.taken_back)})"
    return [
        [str(one.round), each.client, each.why, f"{back}; may return in round {each.returns}"]
        for each in one.sat_out
        if each.why is not None
    ]


def _clipped(one: RoundFigures) -> list[list[str]]:
    return [
        [str(one.round), each.client, "went too far", f"clipped to {100 * each.kept:.3g} %"]
        for each in one.participants
        if each.kept is not None
    ]


def clusters(one: RoundFigures) -> Table:
    """A row a cluster of a round."""
    shown = few(one.clusters, MOST_ROWS)
    return Table(
        caption=_caption(f"Clusters of round {one.round}", shown, of=one.clusters),
        head=["cluster", "edge", "devices", "KL, nats", "expected", "took", "edges tried", "why"],
        rows=[
            [
                each.cluster,
                each.edge,
                f"{len(each.clients):,}",
                written.number(each.divergence, digits=3),
                written.seconds(each.expected_s),
                written.seconds(each.seconds),
                str(each.tries),
                each.why,
            ]
            for each in shown
        ],
        words=frozenset({0, 1}),
        texts=frozenset({7}),
    )


def conditions(job: JobFigures) -> Table:
    """A row a condition."""
    return Table(
        caption="What the operator says of the job",
        head=["condition", "status", "reason", "message", "since"],
        rows=[
            [one.type, one.status, one.reason, one.message, written.moment(one.since)]
            for one in job.conditions
        ],
        words=frozenset({0, 1, 2, 4}),
        texts=frozenset({3}),
    )


def finals(jobs: Sequence[JobFigures]) -> Table:
    """A row a job: how it came out, and what it needed for what all reached."""
    found = comparing.finals(jobs)
    common = comparing.common_accuracy(jobs)
    sources = sorted({source for one in found for source in one.energy})
    energy = [f"energy ({curves.source_title(source)})" for source in sources]
    level = [] if common is None else [f"{what} to {common:.4f}" for what in ("time", *energy)]
    head = ["job", "strategy", "allocation", "phase", "accuracy", "best", "rounds", "time"]
    return Table(
        caption="How the jobs came out",
        head=[*head, *energy, "uploaded", *level],
        rows=[_final(one, sources, level=bool(level)) for one in found],
        words=frozenset({0, 1, 2, 3}),
    )


def _final(one: comparing.Final, sources: Sequence[str], *, level: bool) -> list[str]:
    job, best = one.job, one.best
    needed = one.common
    return [
        f"{job.namespace}/{job.name}",
        job.strategy,
        job.policy,
        job.phase or written.UNKNOWN,
        written.share(one.accuracy),
        f"{written.share(best.accuracy)} (round {best.round})" if best else written.UNKNOWN,
        f"{one.rounds} of {job.rounds_wanted}",
        written.seconds(one.seconds),
        *(written.joules(one.energy.get(source)) for source in sources),
        written.size(one.bytes),
        *([written.seconds(needed.elapsed_s if needed else None)] if level else []),
        *(
            written.joules(needed.energy.get(source) if needed else None)
            for source in (sources if level else ())
        ),
    ]


def _note(one: RoundFigures) -> str:
    refused = [f"{count} refused: {reason}" for reason, count in one.refused.items()]
    back = [f"taken back {one.times_taken_back} ×"] if one.times_taken_back else []
    return ", ".join([*([] if one.planned else ["without the planner"]), *back, *refused])


def _mean(values: Iterable[float | None], *, unit: str = "") -> str:
    told = [one for one in values if one is not None]
    return f"{written.number(fmean(told), digits=3)}{unit}" if told else written.UNKNOWN


def _caption(what: str, shown: Sequence[object], *, of: Sequence[object]) -> str:
    some = f" ({len(shown):,} of {len(of):,}, evenly chosen)"
    return what + (some if len(shown) < len(of) else "")
