"""What an edge sends up of a cluster's part of a round of split training. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lockstep_api.orders import ClusterOrder, ClusterResult
from lockstep_api.sessions import Refusal
from lockstep_api.tiers import ClusterReport
from lockstep_api.wire import ClientReport, told_loss
from lockstep_workers.edge.running import ClusterOutcome
from lockstep_workers.edge.seats import Seat
from lockstep_workers.edge.split_work import SplitWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A cluster's part of a round, at its end."""

    order: ClusterOrder
    edge: str
    seats: Sequence[Seat]
    work: SplitWork
    steps: int
    seconds: float
    refused: Mapping[Refusal, int]


def outcome(done: Done) -> ClusterOutcome:
    """Its result; without a client that was there at the end no tensors."""
    loss = told_loss(done.work.training.result().loss)
    clients = [told for seat in done.seats if (told := _client(seat, loss)) is not None]
    result = ClusterResult(
        report=_report(done),
        round=done.order.round,
        turn=done.order.turn,
        clients=clients,
        lost={seat.client: seat.lost for seat in done.seats if seat.report is None},
        rejected=sorted(seat.client for seat in done.seats if seat.is_rejected),
        refused=dict(done.refused),
    )
    return ClusterOutcome(result, done.work.tensors() if clients else {})


def _client(seat: Seat, loss: float | None) -> ClientReport | None:
    """What its report comes to; the loss is the cluster's, which the device does not know."""
    if seat.report is None:
        return None
    update, moved = seat.report.model_copy(update={"train_loss": loss}), seat.report.moved
    return ClientReport(
        update=update,
        arrived_seconds=seat.arrived_s,
        upload_seconds=0.0 if moved is None else moved.up_seconds,
        bytes=seat.bytes()[0],
    )


def _report(done: Done) -> ClusterReport:
    here = [seat for seat in done.seats if seat.report is not None]
    up, down = zip(*(seat.bytes() for seat in done.seats), strict=True)
    return ClusterReport(
        cluster=done.order.cluster,
        edge=done.edge,
        tries=done.order.tries,
        clients=len(here),
        examples=sum(seat.member.examples for seat in here),
        seconds=done.seconds,
        samples=done.work.training.result().samples,
        steps=done.steps,
        back_cpu_seconds=done.work.back_cpu_s,
        missed=sum(seat.missed for seat in done.seats),
        up_bytes=sum(up),
        down_bytes=sum(down),
    )
