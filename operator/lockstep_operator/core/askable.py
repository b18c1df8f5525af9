"""What a job may ask its planner for, by its status; pure.

`routes` asks before it reads a body: how much a job may say depends on how many clients it has, and
a job that has no place has as many as its author likes.
"""

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FINISHED, Phase
from lockstep_operator.core.model import JobView
from lockstep_operator.core.status import placed_cloud, read_placement
from lockstep_operator.errors import InvalidSpec, JobEnded, NotPlaced

_NOT_PLANNED = FINISHED | {Phase.REFUSED, Phase.SUSPENDED}


def plannable(job: JobView) -> FederatedJobSpec:
    """The spec of a job that takes rounds.

    Raises:
        JobEnded, NotPlaced, InvalidSpec: it takes none.
    """
    if job.status.phase in _NOT_PLANNED:
        raise JobEnded(f"job {job.key.namespace}/{job.key.name} is {job.status.phase}")
    if job.spec is None:
        raise InvalidSpec(job.spec_error or "the spec cannot be read")
    if job.spec.suspend:
        raise JobEnded(f"job {job.key.namespace}/{job.key.name} is suspended")
    if read_placement(job.status, job.spec) is None:
        raise _not_placed(job)
    return job.spec


def may_end(job: JobView) -> bool:
    """Whether a job's end is still to be heard.

    Raises:
        NotPlaced: it has never begun.
    """
    if job.status.phase not in FINISHED and not placed_cloud(job.status):
        raise _not_placed(job)
    return job.status.phase not in FINISHED


def _not_placed(job: JobView) -> NotPlaced:
    """How many clients it has, and with that how much it may say, nobody has paid for yet."""
    return NotPlaced(f"job {job.key.namespace}/{job.key.name} has no place yet: try again")
