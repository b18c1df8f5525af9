"""Makes the figures that pictures are drawn of: from records of rounds, clients, spec and status.

Called by whoever has read them: the CLI from a job's volume, the simulator from what it played.
Invariant: nothing is invented: records without plans (older releases), rounds without devices
(older rounds), and jobs without status all make figures with gaps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lockstep_api.mistrust import Mistrusted
from lockstep_api.names import group_of_client
from lockstep_api.records import ClientsRecord, RoundSummary
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import ConditionType, EnergyJoules, FederatedJobStatus
from lockstep_api.wire import ClientPlan, ClientReport, RoundPlan, RoundReport
from lockstep_pictures.model import (
    Absent,
    ClientFigures,
    ClusterFigures,
    ConditionFigures,
    Energy,
    GroupFigures,
    JobFigures,
    Participant,
    RoundFigures,
)
from lockstep_pictures.rows import finite

Record = RoundReport | RoundSummary
"""A line of a history: RoundRecord (a report with its plan), a bare report, or a summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParts:
    """What is known of a job beside its rounds."""

    name: str
    spec: FederatedJobSpec
    namespace: str = "default"
    status: FederatedJobStatus | None = None
    clients: ClientsRecord | None = None
    plans: Mapping[int, RoundPlan] | None = None
    """Plans of rounds whose records have none (of a simulation)."""
    manifest: str = ""
    """As text, where it is to be shown."""


def figures_of(job: JobParts, records: Iterable[Record]) -> JobFigures:
    """A job's figures.

    Args:
        job: all but its rounds.
        records: in the order of the history; of a round that stands there twice the later counts.
    """
    spec, status = job.spec, job.status or FederatedJobStatus()
    newest = {record.round: record for record in records}
    plans = job.plans or {}
    return JobFigures(
        name=job.name,
        namespace=job.namespace,
        mode=spec.mode.value,
        strategy=spec.strategy.name.value,
        policy=spec.allocation.policy.value,
        energy_weight=spec.allocation.energy_weight,
        model=_named(spec.model.name, spec.model.entrypoint or spec.model.front),
        dataset=_named(spec.data.name, spec.data.entrypoint),
        rounds_wanted=spec.training.rounds,
        target=_target(spec),
        groups=_groups(spec),
        edges=tuple((edge.name, edge.replicas) for edge in spec.edge_groups()),
        phase=status.phase.value if status.phase else None,
        conditions=_conditions(status),
        started=status.start_time,
        ended=status.completion_time,
        rounds=tuple(_round(newest[key], plans.get(key)) for key in sorted(newest)),
        clients=_clients(job.clients),
        manifest=job.manifest,
    )


def group_of(client: str) -> str:
    """The group of a client, which its name begins with."""
    return group_of_client(client) or client


def _named(built_in: str | None, own: str | None) -> str:
    return built_in or own or "own"


def _target(spec: FederatedJobSpec) -> tuple[str, float] | None:
    target = spec.training.target
    return None if target is None else (target.metric, target.value)


def _groups(spec: FederatedJobSpec) -> tuple[GroupFigures, ...]:
    return tuple(
        GroupFigures(
            name=group.name,
            devices=group.replicas,
            min_ghz=group.frequency.min_ghz,
            max_ghz=group.frequency.max_ghz,
            cpu_at_max=str(group.cpu_at_max),
        )
        for group in spec.devices
    )


def _conditions(status: FederatedJobStatus) -> tuple[ConditionFigures, ...]:
    order = list(ConditionType)
    return tuple(
        ConditionFigures(
            type=one.type.value,
            status=one.status,
            reason=one.reason,
            message=one.message,
            since=one.last_transition_time,
        )
        for one in sorted(status.conditions, key=lambda one: order.index(one.type))
    )


def _clients(record: ClientsRecord | None) -> tuple[ClientFigures, ...]:
    return tuple(
        ClientFigures(
            client=one.client,
            group=group_of(one.client),
            examples=one.examples,
            labels=tuple(one.labels),
        )
        for one in (record.clients if record else ())
    )


def _energy(joules: EnergyJoules) -> Energy:
    told = {"model": joules.model, "cpu": joules.cpu, "measured": joules.measured}
    return {source: value for source, value in told.items() if value is not None}


def _privacy(record: Record) -> tuple[float, float] | None:
    told = record.privacy
    if told is None or told.epsilon is None or told.delta is None:
        return None
    return told.epsilon, told.delta


def _round(record: Record, plan: RoundPlan | None) -> RoundFigures:
    if isinstance(record, RoundSummary):
        return RoundFigures(
            round=record.round,
            seconds=record.seconds,
            elapsed_s=record.elapsed_seconds,
            planned=record.planned,
            updates=record.updates,
            missing=record.missing,
            refused={reason.value: count for reason, count in record.refused.items()},
            accuracy=finite(record.accuracy),
            loss=finite(record.loss),
            energy=_energy(record.energy_joules),
            privacy=_privacy(record),
            times_taken_back=record.taken_back,
        )
    plan = getattr(record, "plan", None) or plan
    distilled, doubted = record.distillation, record.mistrusted or Mistrusted()
    return RoundFigures(
        round=record.round,
        seconds=record.seconds,
        elapsed_s=record.elapsed_seconds,
        planned=record.planned,
        updates=len(record.clients),
        missing=len(record.lost),
        refused={reason.value: count for reason, count in record.refused.items()},
        accuracy=finite(record.accuracy),
        loss=finite(record.loss),
        cloud_accuracy=None if distilled is None else finite(distilled.cloud_accuracy),
        energy=_energy(record.energy_joules),
        privacy=_privacy(record),
        times_taken_back=len(doubted.taken_back),
        taken_back=tuple(doubted.taken_back),
        sat_out=tuple(
            Absent(client=one.client, returns=one.returns, why=one.why) for one in doubted.sat_out
        ),
        participants=_participants(record, plan),
        clusters=_clusters(record, plan),
        cut=None if plan is None else plan.cut,
    )


def _participants(record: RoundReport, plan: RoundPlan | None) -> tuple[Participant, ...]:
    asked = {one.client: one for one in plan.participants} if plan else {}
    done = {one.update.client: one for one in record.clients}
    edges = _where(record, plan)
    return tuple(
        _participant(client, asked.get(client), done=done.get(client), where=edges.get(client))
        for client in dict.fromkeys((*asked, *done, *record.lost))
    )


def _where(record: RoundReport, plan: RoundPlan | None) -> dict[str, tuple[str, str]]:
    """Client → its cluster, and the edge that ran it in the end."""
    ran = {one.cluster: one.edge for one in record.clusters}
    return {
        client: (one.cluster, ran.get(one.cluster, one.edge))
        for one in (plan.clusters if plan else ())
        for client in one.clients
    }


def _participant(
    client: str,
    asked: ClientPlan | None,
    *,
    done: ClientReport | None,
    where: tuple[str, str] | None,
) -> Participant:
    cluster, edge = where or (None, None)
    basis = asked.basis if asked else None
    update, moved = (done.update, done.update.moved) if done else (None, None)
    return Participant(
        client=client,
        group=group_of(client),
        cluster=cluster,
        edge=edge,
        asked_ghz=asked.frequency_ghz if asked else None,
        cpu_milli=asked.cpu_milli if asked else None,
        asked_steps=asked.asked_steps() if asked else (done.asked_steps if done else None),
        applied=asked.applied if asked else True,
        reason=asked.reason if asked else None,
        expected_mbps=basis.mbps if basis else None,
        expected_finish_s=basis.finish_seconds if basis else None,
        had_ghz=update.frequency_ghz if update else None,
        steps=update.steps if update else None,
        download_s=update.download_seconds + (moved.down_seconds if moved else 0.0)
        if update
        else None,
        compute_s=update.compute_seconds if update else None,
        throttled_s=update.throttled_seconds if update else None,
        upload_s=done.upload_seconds if done else None,
        waited_s=moved.wait_seconds if moved else None,
        arrived_s=done.arrived_seconds if done else None,
        bytes=done.bytes if done else None,
        train_loss=finite(update.train_loss) if update else None,
        kept=min(done.kept) if done and done.kept else None,
        energy=_energy(update.energy_joules) if update else {},
    )


def _clusters(record: RoundReport, plan: RoundPlan | None) -> tuple[ClusterFigures, ...]:
    done = {one.cluster: one for one in record.clusters}
    return tuple(
        ClusterFigures(
            cluster=one.cluster,
            edge=done[one.cluster].edge if one.cluster in done else one.edge,
            clients=tuple(one.clients),
            divergence=one.divergence,
            expected_s=one.cost_seconds,
            seconds=done[one.cluster].seconds if one.cluster in done else None,
            tries=done[one.cluster].tries if one.cluster in done else 1,
            why=one.why,
        )
        for one in (plan.clusters if plan else ())
    )
