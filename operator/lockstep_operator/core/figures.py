"""Which figures of a device are believed, as they steer the plan of all the others; pure.

`planning` asks. A device says how much CPU it used, at which frequency, and what its link carries.
What the cloud pod saw itself bounds that: when an update had arrived, how large it was and how long
it took; and how many steps it was asked for, which without a budget it did. So what a device says
moves the plan of others no further than one that really computed one and a half times as long
as there was time for. Invariant: what is believed is finite, of the job's own devices, and no
further from what was seen than a device can be that really is so slow; the rest is left out, and
said.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from lockstep_allocator.bandwidth import MOST_MBPS
from lockstep_api import series
from lockstep_api.mistrust import Mistrusted
from lockstep_api.quantity import parse_quantity
from lockstep_api.series import Series
from lockstep_api.settings import edge_names
from lockstep_api.spec import DeviceGroup, FederatedJobSpec, Mode
from lockstep_api.tiers import ClusterReport
from lockstep_api.wire import ClientReport, Moved, RoundReport, UpdateReport
from lockstep_operator.core.allocate import groups_by_client
from lockstep_operator.core.insight import ClientInsight, Samples, Way

_MBIT = 1e6
_UNLIMITED_CORES = 4.0
"""What a pod may have had whose limit is not in force."""
_TOLERANCE = 1.5
_PERIODS_S = 0.2
"""A quota is one of periods: a few of them more or less."""
_MEAN_TOLERANCE = 4.0
"""Telemetry has the mean of some rounds, of which the first is dearer than the one last seen."""
_SLOWER = 20.0
"""A link is planned as so many times slower than the upload that was seen last, at the most."""
_NEVER_SO_SLOW = 100.0
"""In the minute in which that upload was seen the link cannot have been slower than this."""
_LEAST_WORK, _MOST_WORK = 1e-9, 1e6
"""Core-seconds of a step."""
_MOST_MBIT = 1e12
_UNEVEN = 8.0
"""Times as many bytes up as down, at most."""
_MOST_EDGE_CORES = 512


@dataclass(frozen=True, slots=True)
class Believed:
    """What is known of devices, and what they said besides."""

    clients: Mapping[str, ClientInsight]
    doubts: tuple[str, ...]
    energy_doubts: tuple[str, ...] = ()
    """Of energy, which steers no plan: the cloud pod has left it out of what the job used."""


# -- reports ---------------------------------------------------------------------------------


def known_clients(report: RoundReport, spec: FederatedJobSpec) -> RoundReport:
    """The report with what it says of the job's own clients, of each once."""
    known = groups_by_client(spec)
    clients = {one.update.client: one for one in report.clients if one.update.client in known}
    lost = dict.fromkeys(client for client in report.lost if client in known)
    mistrusted = _known_of(report.mistrusted, known)
    kept = len(clients) == len(report.clients) and len(lost) == len(report.lost)
    if kept and mistrusted == report.mistrusted:
        return report
    update = {"clients": [*clients.values()], "lost": [*lost], "mistrusted": mistrusted}
    return report.model_copy(update=update)


def _known_of(mistrusted: Mistrusted | None, known: Container[str]) -> Mistrusted | None:
    if mistrusted is None:
        return None
    sat_out = {one.client: one for one in mistrusted.sat_out if one.client in known}
    return mistrusted.model_copy(update={"sat_out": [*sat_out.values()]})


def from_report(
    report: RoundReport,
    spec: FederatedJobSpec,
    *,
    unlimited: Container[str] = (),
    edges: Mapping[str, str] | None = None,
) -> Believed:
    """What a round says of its clients, who are the job's.

    The CPU limits of `unlimited` were not in force; `edges` has the edge that a client worked with.
    """
    groups, clients, doubts = groups_by_client(spec), dict[str, ClientInsight](), list[str]()
    for done in report.clients:
        client = done.update.client
        cores = parse_quantity(groups[client].cpu_at_max)
        if client in unlimited:
            cores = max(cores, _UNLIMITED_CORES)
        counted = _with_steps(done, spec)
        found = _from_update(counted, groups[client], cores=cores, doubts=doubts)
        clients[client] = _with_edge(found, (edges or {}).get(client))
    energy = [text for one in report.clients for text in _left_out(one)]
    return Believed(clients, tuple(doubts), tuple(energy))


def _left_out(done: ClientReport) -> Iterator[str]:
    if done.left_out is None:
        return
    most = done.left_out.most.model_dump()
    for source, joules in done.left_out.said.model_dump(exclude_none=True).items():
        can = most[source] or 0.0
        client = done.update.client
        yield f"{client} reports energyJoules.{source} {joules:g}, but can have used {can:.3g}"


def _with_steps(done: ClientReport, spec: FederatedJobSpec) -> ClientReport:
    """The report with the steps that were asked for, where nothing may have ended them early."""
    early = spec.training.local_steps.budget_seconds is not None or spec.mode is Mode.SPLIT
    if early or done.asked_steps is None:
        return done
    update = done.update.model_copy(update={"steps": done.asked_steps})
    return done.model_copy(update={"update": update})


def _from_update(
    done: ClientReport, group: DeviceGroup, *, cores: float, doubts: list[str]
) -> ClientInsight:
    update, mbit = done.update, done.bytes * 8 / _MBIT
    work = _work(done, cores, doubts=doubts)
    up_mbps, down_mbps = _bandwidth(done.bytes, done.upload_seconds), None
    if update.moved is not None:
        up_mbps, down_mbps = _moved(done, update.moved, doubts=doubts)
    return ClientInsight(
        last_mbps=up_mbps,
        down_mbps=down_mbps,
        work_per_example=_of_example(update, work),
        work_per_step=work,
        step_s=min(update.compute_seconds, done.arrived_seconds) / update.steps,
        upload_mbit=mbit,
        has_ghz=_frequency(update.client, update.frequency_ghz, group=group, doubts=doubts),
        most_work=_most_work(done, cores) / update.steps,
    )


def _with_edge(found: ClientInsight, edge: str | None) -> ClientInsight:
    if edge is None or found.last_mbps is None:
        return found
    return replace(found, by_edge={edge: Way(found.last_mbps, found.down_mbps)})


def _of_example(update: UpdateReport, work_per_step: float | None) -> float | None:
    if work_per_step is None or not update.samples:
        return None
    return work_per_step * update.steps / update.samples


def _bandwidth(n_bytes: int, seconds: float, *, least_mbps: float = 0.0) -> float | None:
    if seconds <= 0:
        return None
    return min(max(n_bytes * 8 / _MBIT / seconds, least_mbps), MOST_MBPS)


def _moved(
    done: ClientReport, moved: Moved, *, doubts: list[str]
) -> tuple[float | None, float | None]:
    """Bandwidth up and down in split training, as the device says, which may be of a part of the
    round: no slower than what its edge received of it in the whole round, and than an eighth down.
    """
    most_s = _TOLERANCE * done.arrived_seconds
    if max(moved.up_seconds, moved.down_seconds) > most_s:
        told = f"{moved.up_seconds:g} and {moved.down_seconds:g} s"
        doubts.append(
            f"{done.update.client} reports transfers of {told}, but was done in "
            f"{done.arrived_seconds:.3g} s"
        )
        return None, None
    least = _bandwidth(done.bytes, most_s) or 0.0
    up_mbps = _bandwidth(moved.up_bytes, moved.up_seconds, least_mbps=least)
    return up_mbps, _bandwidth(moved.down_bytes, moved.down_seconds, least_mbps=least / _UNEVEN)


def back_work(report: RoundReport, spec: FederatedJobSpec) -> dict[str, float]:
    """Edge → core-seconds of the back half of an example, where a round's clusters say it."""
    spent: dict[str, float] = dict.fromkeys(edge_names(spec), 0.0)
    samples = Counter[str]()
    for one in report.clusters:
        if one.edge in spent and one.samples and one.back_cpu_seconds <= _most_back(one):
            spent[one.edge] += one.back_cpu_seconds
            samples[one.edge] += one.samples
    return {edge: work for edge in samples if (work := spent[edge] / samples[edge]) >= _LEAST_WORK}


def _most_back(one: ClusterReport) -> float:
    return _MOST_EDGE_CORES * one.seconds


def _training_s(done: ClientReport) -> float:
    """Seconds in which a device can have trained: it uploads afterwards, in split training
    meanwhile."""
    uploading_s = done.upload_seconds if done.update.moved is None else 0.0
    return max(0.0, done.arrived_seconds - uploading_s)


def _most_work(done: ClientReport, cores: float) -> float:
    return cores * (_TOLERANCE * _training_s(done) + _PERIODS_S)


def _work(done: ClientReport, cores: float, *, doubts: list[str]) -> float | None:
    update = done.update
    if update.cpu_seconds > _most_work(done, cores):
        doubts.append(
            f"{update.client} reports cpuSeconds {update.cpu_seconds:g}, but {cores:g} cores had "
            f"{_training_s(done):.3g} s"
        )
        return None
    work = update.cpu_seconds / update.steps
    return work if work >= _LEAST_WORK else None


def _frequency(client: str, ghz: float, *, group: DeviceGroup, doubts: list[str]) -> float | None:
    low, high = group.frequency.min_ghz, group.frequency.max_ghz
    if ghz == 0:
        return None
    if not 0.8 * low <= ghz <= 1.2 * high:
        doubts.append(f"{client} reports frequencyGHz {ghz:g}, but has {low:g} to {high:g} GHz")
        return None
    return ghz


# -- telemetry -------------------------------------------------------------------------------


def unfit_sample(samples: Samples) -> float | None:
    """A number that no link can have; None: all can be."""
    return next((v for v in samples.values if not 0 <= v <= _MOST_MBIT), None)


def unfit_slot(slots_mbps: Iterable[float]) -> float | None:
    """A bandwidth that no link can have; None: all can be."""
    return next((v for v in slots_mbps if not 0 <= v <= MOST_MBPS), None)


def from_telemetry(
    found: Mapping[str, ClientInsight],
    measured: Mapping[str, ClientInsight],
    *,
    spec: FederatedJobSpec,
) -> Believed:
    """What telemetry says of the job's clients, held against what their reports said."""
    groups, doubts = groups_by_client(spec), list[str]()
    clients = {
        client: _held_against(
            client, one, seen=measured.get(client, ClientInsight()), doubts=doubts
        )
        for client, one in found.items()
        if client in groups
    }  # fmt: skip
    return Believed(clients, tuple(doubts))


def _held_against(
    client: str, one: ClientInsight, *, seen: ClientInsight, doubts: list[str]
) -> ClientInsight:
    doubts.extend(f"{text} of {client}" for text in one.doubted or ())
    last = seen.last_mbps or 0.0
    return replace(
        one,
        doubted=None,
        work_per_step=_mean_work(client, one.work_per_step, seen=seen, doubts=doubts),
        slots_mbps=_slots(client, one.slots_mbps, last_mbps=last, doubts=doubts),
        mean_mbps=_mean(client, one.mean_mbps, last_mbps=last, doubts=doubts),
    )


def _mean_work(
    client: str, work: float | None, *, seen: ClientInsight, doubts: list[str]
) -> float | None:
    most = _MOST_WORK if seen.most_work is None else _MEAN_TOLERANCE * seen.most_work
    if work is None or _LEAST_WORK <= work <= most:
        return work
    name = series.CPU_SECONDS.queried
    doubts.append(f"{name} of {client} says {work:g} core-seconds a step, {most:.3g} at most")
    return None


def _slots(
    client: str, slots: tuple[float, ...] | None, *, last_mbps: float, doubts: list[str]
) -> tuple[float, ...] | None:
    if slots is None:
        return None
    if max(slots) < last_mbps / _NEVER_SO_SLOW:
        doubts.append(_unlike(client, max(slots), of=series.LINK_MBITS, last_mbps=last_mbps))
        return None
    return tuple(max(mbps, last_mbps / _SLOWER) for mbps in slots)


def _mean(client: str, mbps: float | None, *, last_mbps: float, doubts: list[str]) -> float | None:
    if mbps is None or last_mbps / _NEVER_SO_SLOW <= mbps <= MOST_MBPS:
        return mbps
    doubts.append(_unlike(client, mbps, of=series.UPLOAD_BYTES, last_mbps=last_mbps))
    return None


def _unlike(client: str, mbps: float, *, of: Series, last_mbps: float) -> str:
    said = f"{of.queried} of {client} says {mbps:.3g} Mbit/s"
    return f"{said}, its last update came with {last_mbps:.3g}"
