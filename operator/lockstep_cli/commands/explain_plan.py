"""`lockstep explain-plan`: why a round was planned as it was, and what else would have cost."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from lockstep_api.base import ApiModel
from lockstep_api.records import RoundRecord
from lockstep_cli.cluster import Cluster
from lockstep_cli.errors import CliError, NotFound
from lockstep_cli.jobs import find_job
from lockstep_cli.options import Job, on_cluster
from lockstep_cli.plan_shown import show_device, show_round
from lockstep_cli.records import Records
from lockstep_cli.runs import records_of, with_records
from lockstep_cli.shown import write_json
from lockstep_operator.core.explain import PlanExplanation, explained, explained_now
from lockstep_operator.errors import UnfitRequest


class Form(StrEnum):
    """What `-o` takes."""

    WIDE = "wide"
    JSON = "json"


@on_cluster
def explain_plan(
    cluster: Cluster,
    job: Job,
    *,
    number: Annotated[
        int | None, typer.Option("--round", help="The round; the newest when empty.", min=1)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="All about one device, such as fast-0.")
    ] = None,
    output: Annotated[
        Form | None, typer.Option("--output", "-o", help="More columns, or all as JSON.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="What reads the volume of a job without pods.")
    ] = None,
) -> None:
    """Why these frequencies, steps and edges: what binds each device, what else would have cost."""
    found = _explanation(cluster, job, number=number, image=image)
    if device is not None and device not in {one.client for one in found.clients}:
        there = ", ".join(one.client for one in found.clients[:10])
        raise NotFound(f"{device} is not in round {found.round}: there are {there}")
    if output is Form.JSON:
        write_json(_plain(found, device=device))
    elif device is not None:
        show_device(found, device)
    else:
        show_round(found, wide=output is Form.WIDE)


def _explanation(
    cluster: Cluster, job: str, *, number: int | None, image: str | None
) -> PlanExplanation:
    """Of the round that runs by the status, of others by the history.

    Raises:
        CliError: its plan is not known.
    """
    body = find_job(cluster, job).body
    now = with_records(body, Records())
    assert now.status is not None
    plan = now.status.last_plan
    is_open = plan is not None and plan.round > (now.status.round or 0)
    try:
        if plan is not None and is_open and number in (None, plan.round):
            found = explained_now(now.spec, now.status)
            assert found is not None
            return found
        records = records_of(cluster, body, image=image)
        record = _record(job, records, number=number)
        assert record.plan is not None
        return explained(now.spec, record.plan, report=record)
    except UnfitRequest as error:
        raise CliError(f"job {job}: {error}: its spec was changed meanwhile") from error


def _record(job: str, records: Records, *, number: int | None) -> RoundRecord:
    """The round with its plan.

    Raises:
        NotFound: there is none, or its plan was not kept.
    """
    found = records.newest if number is None else records.round(number)
    if found is None:
        said = f"no round {number}" if number else "no round yet"
        last = f": its newest is {records.newest.round}" if records.newest else ""
        raise NotFound(f"job {job} has {said}{last}")
    if not isinstance(found, RoundRecord) or found.plan is None:
        kept = [one.round for one in records.rounds if isinstance(one, RoundRecord) and one.plan]
        told = f": kept are rounds {kept[0]} to {kept[-1]}" if kept else ""
        raise NotFound(f"the plan of round {found.round} of job {job} is not kept any more{told}")
    return found


def _plain(found: PlanExplanation, *, device: str | None) -> Any:
    """As JSON has it."""
    content = asdict(found)
    if device is not None:
        content["clients"] = [one for one in content["clients"] if one["client"] == device]
    return _jsonable(content)


def _jsonable(value: Any) -> Any:
    if isinstance(value, ApiModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(value, dict):
        return {key: _jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(one) for one in value]
    return value
