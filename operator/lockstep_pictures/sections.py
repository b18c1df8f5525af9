"""The sections of a job's report: which pictures and tables, and how to read each.

Called by `report`. Invariant: a section is None where there is nothing to show.
"""

from collections.abc import Sequence

from lockstep_pictures import curves, devices, labels, rounds, tables, tiers
from lockstep_pictures.curves import Across
from lockstep_pictures.model import JobFigures, RoundFigures
from lockstep_pictures.page import Figure, Section

HOW = "Drag to move, Alt and wheel to enlarge, double-click to go back; hover for figures."
"""On the pictures that can be moved."""
_LOSS = "Where loss rises while accuracy stays, the model grows too sure of itself."


def learning_curves(
    jobs: Sequence[JobFigures], sources: Sequence[str], *, what: str
) -> list[Figure]:
    """Accuracy or loss over rounds, time and each source of energy."""
    draw = curves.accuracy if what == "accuracy" else curves.loss
    shown = any(getattr(one, what) is not None for job in jobs for one in job.rounds)
    ways = [(Across.ROUND, ""), (Across.TIME, ""), *((Across.ENERGY, one) for one in sources)]
    captions = {
        Across.ROUND: "What each round brought; a steeper curve needs fewer rounds.",
        Across.TIME: "The same by time: long rounds push a curve to the right.",
        Across.ENERGY: "The same by energy: waiting at high frequency pushes a curve to the right.",
    }
    return [
        Figure(
            name=f"{what}-{across.value}{f'-{source}' if source else ''}",
            title=f"{what.capitalize()} by {_axis(across, source)}",
            caption=_LOSS if (what, across) == ("loss", Across.ROUND) else captions[across],
            picture=draw(jobs, across, source=source),
        )
        for across, source in (ways if shown else ())
    ]


def _axis(across: Across, source: str) -> str:
    if across is Across.ENERGY:
        return f"energy ({curves.source_title(source)})"
    return across.value


def of_learning(job: JobFigures) -> Section | None:
    sources = [source] if (source := job.source()) else []
    figures = [
        *learning_curves([job], sources, what="accuracy"),
        *learning_curves([job], sources, what="loss"),
    ]
    if not figures:
        return None
    return Section(name="learning", title="Learning", text=HOW, figures=figures)


def of_rounds(job: JobFigures) -> Section | None:
    if not job.rounds:
        return None
    return Section(
        name="rounds",
        title="Rounds",
        text="A synchronous round lasts as long as its slowest device.",
        figures=[
            Figure(
                name="durations",
                title="How long rounds took",
                caption="The gap between the lower curves and the round is what waiting for the "
                "slowest devices cost.",
                picture=rounds.durations(job),
            ),
            *_stragglers(job),
            *(_gantt(one, title) for one, title in _closely(job)),
        ],
        tables=[tables.rounds(job), *([doubted] if (doubted := tables.mistrusted(job)) else [])],
    )


def _stragglers(job: JobFigures) -> list[Figure]:
    if not any(len(one.finished()) > 1 for one in job.detailed()):
        return []
    return [
        Figure(
            name="stragglers",
            title="Who came last",
            caption="The words say how much later than the median it then was, on average.",
            picture=rounds.stragglers(job),
        )
    ]


def _closely(job: JobFigures) -> list[tuple[RoundFigures, str]]:
    """Rounds that are shown device by device: the newest, and the longest if it is another."""
    known = job.detailed()
    if not known:
        return []
    longest = max(known, key=lambda one: (one.seconds, one.round))
    return [
        (known[-1], f"Round {known[-1].round}, the newest"),
        *([(longest, f"Round {longest.round}, the longest")] if longest is not known[-1] else []),
    ]


def _gantt(one: RoundFigures, title: str) -> Figure:
    shown, there = len(rounds.chosen(one)), len(one.participants)
    some = f" {shown} of {there:,} devices: the first, the last and evenly others."
    return Figure(
        name=f"gantt-{one.round}",
        title=title,
        caption="Where bars end together, nobody waited. A tick is when the plan expected a device."
        f"{some if shown < there else ''}",
        picture=rounds.gantt(one),
        wide=shown > 12,
    )


def of_frequencies(job: JobFigures) -> Section | None:
    if not job.detailed():
        return None
    followed = devices.followed(job)
    return Section(
        name="frequencies",
        title="Frequencies and bandwidths",
        text="What was decided for the devices, and on what."
        + (f" {tables.kept(job)}" if tables.kept(job) else ""),
        figures=[
            Figure(
                name="frequencies",
                title="Frequency by device and round",
                caption="A row that stays dark runs slowly without being waited for; neighbours "
                "share a row, and rounds a column, where there are many.",
                picture=devices.frequencies(job),
                wide=True,
            ),
            Figure(
                name="decisions",
                title="Frequency asked for, by bandwidth",
                caption="Who uploads faster can compute more slowly and still be in at the same "
                "time: marks fall to the right, unless a bound or the policy keeps them.",
                picture=devices.decisions(job),
            ),
            *(
                Figure(
                    name=f"bandwidth-{place}",
                    title=f"Bandwidth of {client}",
                    caption="The line is the bandwidth that uploads met, the dashed one what the "
                    "plan counted on; a mark's colour is the frequency chosen.",
                    picture=devices.bandwidth(job, client),
                )
                for place, client in enumerate(followed)
            ),
        ],
        tables=[tables.devices(job)],
    )


def of_energy(job: JobFigures) -> Section | None:
    if not job.sources():
        return None
    text = (
        "Sources are never added up: modelled is what the emulated device would use, CPU seconds "
        "what a busy core of the machine would."
    )
    by_device = [
        Figure(
            name=f"energy-{source}",
            title=f"Energy by device, {curves.source_title(source)}",
            caption="The mean of a row's devices; a line goes from the least of them to the most."
            f" {tables.kept(job)}",
            picture=devices.energy_by_device(job, source),
        )
        for source in (job.sources() if job.detailed() else ())
    ]
    over = Figure(
        name="energy",
        title="Energy by round",
        caption="Of all devices since round 1.",
        picture=curves.energy(job),
    )
    return Section(name="energy", title="Energy", text=text, figures=[over, *by_device])


def of_tiers(job: JobFigures) -> Section | None:
    known = job.detailed()
    if not known:
        return None
    return Section(
        name="tiers",
        title="Tiers",
        text="Who worked with whom.",
        figures=[
            Figure(
                name="tiers",
                title=f"Tiers of round {known[-1].round}",
                caption="Thicker lines and larger marks stand for more devices.",
                picture=tiers.graph(job, known[-1]),
                wide=True,
            )
        ],
        tables=[tables.clusters(known[-1])] if known[-1].clusters else [],
    )


def of_data(job: JobFigures) -> Section | None:
    if not any(any(one.labels) for one in job.clients):
        return None
    clusters = bool(labels.clusters_of(job))
    return Section(
        name="data",
        title="Data",
        text="Which labels devices hold, as they told it (with noise, in jobs that cluster).",
        figures=[
            Figure(
                name="labels",
                title="Labels by device",
                caption="Even rows hold the same mixture; bright cells stand for devices that know"
                " few labels, whose updates pull the model apart.",
                picture=labels.of_devices(job),
                wide=True,
            ),
            *_cluster_labels(job, clusters=clusters),
        ],
    )


def _cluster_labels(job: JobFigures, *, clusters: bool) -> list[Figure]:
    if not clusters:
        return []
    caption = "Clusters are made so that each holds about the mixture of all."
    picture = labels.of_clusters(job)
    return [
        Figure(
            name="labels-clusters",
            title="Labels by cluster",
            caption=caption,
            picture=picture,
            wide=True,
        )
    ]


def of_state(job: JobFigures) -> Section | None:
    if not job.conditions:
        return None
    return Section(name="conditions", title="Conditions", tables=[tables.conditions(job)])


ALL = (of_learning, of_rounds, of_frequencies, of_energy, of_tiers, of_data, of_state)
"""In the order of a page."""
