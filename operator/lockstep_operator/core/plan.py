"""The plan of a round and how it turned out; the planner calls it for every request.

Entries start as not applied: whoever sets the CPU limits says so with `with_applied`.
"""

from collections.abc import Mapping, Sequence

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import ClientPlan, PlanRequest, RoundPlan, RoundReport
from lockstep_operator.core.allocate import allocate, cpu_milli, groups_by_client
from lockstep_operator.core.sampling import sample


def plan_round(spec: FederatedJobSpec, request: PlanRequest) -> RoundPlan:
    """Participants, frequencies and steps of the requested round.

    Raises:
        ValueError: the request names clients that are not of this job.
    """
    connected = _connected(spec, request)
    chosen = sample(
        connected,
        fraction=spec.participation.fraction,
        seed=spec.training.seed,
        round=request.round,
    )
    return RoundPlan(
        round=request.round,
        rounds=spec.training.rounds,
        target=spec.training.target,
        participants=_participants(spec, chosen),
        quorum=spec.participation.quorum,
        deadline_seconds=spec.participation.round_deadline_seconds,
    )


def _connected(spec: FederatedJobSpec, request: PlanRequest) -> list[str]:
    """The connected clients in the order of the partition, however they were listed."""
    known = groups_by_client(spec)
    asked = {registration.client for registration in request.clients}
    if unknown := sorted(asked - known.keys()):
        raise ValueError(f"no such clients in this job: {', '.join(unknown)}")
    return [client for client in known if client in asked]


def _participants(spec: FederatedJobSpec, clients: Sequence[str]) -> list[ClientPlan]:
    steps = spec.training.local_steps.fixed
    if steps is None:
        raise ValueError("training.localSteps needs fixed: nothing else is supported yet")
    groups = groups_by_client(spec)
    return [
        ClientPlan(
            client=client,
            frequency_ghz=ghz,
            cpu_milli=cpu_milli(groups[client], ghz),
            steps=steps,
            applied=False,
        )
        for client, ghz in allocate(spec, clients).items()
    ]


def with_applied(plan: RoundPlan, failures: Mapping[str, str]) -> RoundPlan:
    """The plan with every limit in force but those of `failures` (client → reason)."""
    participants = [
        entry.model_copy(
            update={
                "applied": entry.client not in failures,
                "reason": failures.get(entry.client),
            }
        )
        for entry in plan.participants
    ]
    return plan.model_copy(update={"participants": participants})


def mismatches(plan: RoundPlan, report: RoundReport, tolerance: float = 0.05) -> dict[str, str]:
    """Client → what it had instead of its plan, where the limit counts as applied.

    Nothing can be said about a report of another round: it gives no mismatches.
    """
    if plan.round != report.round:
        return {}
    asked = {entry.client: entry.frequency_ghz for entry in plan.participants if entry.applied}
    had = {done.update.client: done.update.frequency_ghz for done in report.clients}
    return {
        client: f"{had[client]:.2f} GHz instead of {ghz:.2f} GHz"
        for client, ghz in asked.items()
        if client in had and abs(had[client] - ghz) > tolerance * ghz
    }
