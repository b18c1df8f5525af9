"""The trainer role: a Job that improves a job's allocation policy from its rounds, and offers it.

The operator mounts the recorded rounds and the policy; what is learnt goes to the planner, which
judges it itself.
"""

import asyncio

import httpx2
import structlog
import torch

from lockstep_allocator.experience import Experience
from lockstep_allocator.policy import InvalidPolicy, Policy, read_policy
from lockstep_allocator.records import InvalidExperience
from lockstep_allocator.training.online import OnlineSettings, improve
from lockstep_api import names
from lockstep_workers.environment import Environment
from lockstep_workers.errors import InvalidJob, PlannerUnreachable
from lockstep_workers.planner_client import PlannerClient
from lockstep_workers.trusting import TrustingTransport

_log = structlog.get_logger()
_TRIES = 8


def run_policy_trainer(environment: Environment) -> None:
    """Learns once.

    Raises:
        InvalidJob: the rounds or the policy cannot be read.
        PlannerUnreachable: the policy could not be offered.
    """
    torch.set_num_threads(1)
    folder = environment.experience
    try:
        experience = Experience.from_bytes((folder / names.EXPERIENCE_FILE).read_bytes())
        policy = read_policy(folder / names.POLICY_FILE)
    except (OSError, InvalidExperience, InvalidPolicy) as error:
        raise InvalidJob(f"cannot learn: {error}") from error
    improved = improve(policy, experience, settings=OnlineSettings(), tick=_tell)
    _log.info("learnt", rounds=len(experience), surely_saved_seconds=round(improved.saved_s, 4))
    asyncio.run(_offer(environment, improved.policy))


def _tell(share: float, text: str) -> None:
    _log.info("learning", percent=round(100 * share), now=text)


async def _offer(environment: Environment, policy: Policy) -> None:
    async with httpx2.AsyncClient(transport=TrustingTransport(environment.planner_trust())) as http:
        planner = PlannerClient(environment.job(), environment.token_file, client=http)
        try:
            verdict = await planner.offer_policy(policy.to_bytes(), tries=_TRIES)
        except PlannerUnreachable as error:
            raise type(error)(f"the policy could not be offered: {error}") from error
    _log.info("judged", taken=verdict.taken, why=verdict.message)
