"""Learning on the job (`allocation.online`): keeps rounds, runs trainers, judges what they learn.

The planner tells it of every round, and of every policy that is offered. The rounds lie in a
ConfigMap beside the job, so that a restarted operator and the trainer find them; what a job has
learnt lies in another. Nothing here holds a round up: what cannot be written is logged, and written
with the next round.
"""

import asyncio
import base64
import binascii
import logging
from dataclasses import dataclass, field

from lockstep_allocator.experience import Experience, InvalidExperience
from lockstep_allocator.policy import InvalidPolicy, Policy
from lockstep_api import names
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import PolicyVerdict
from lockstep_operator.core.children import recorded, trainer_job
from lockstep_operator.core.learn import Verdict, is_due, judge, record_of
from lockstep_operator.core.model import EventNote, JobKey, JobView, ObjectRef
from lockstep_operator.core.placement import CLOUD_POD
from lockstep_operator.core.state import FinishedRound
from lockstep_operator.core.status import read_placement
from lockstep_operator.errors import KubeError, NotFound, PolicyUnavailable, UnfitRequest
from lockstep_operator.policies import BEGAN_WITH, Policies
from lockstep_operator.reconcile import Deps, emit

logger = logging.getLogger(__name__)

TRAINED_THROUGH = "trainedThrough"
"""Entry of the rounds' ConfigMap: the round up to which the policy was updated."""
MAX_POLICY_BYTES = 900_000
"""A ConfigMap may have 1 MiB."""


@dataclass(slots=True)
class _Learning:
    """What is kept of a job."""

    key: JobKey
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    fresh: list[FinishedRound] = field(default_factory=list)
    """Rounds that are not in the ConfigMap yet."""
    experience: Experience | None = None
    """None: the ConfigMap was not read yet."""
    trained_through: int = 0
    trainer: str | None = None
    """The trainer that has not answered yet."""


def _read(content: bytes) -> Policy:
    try:
        offered = Policy.from_bytes(content, source="the policy offered")
    except InvalidPolicy as error:
        raise UnfitRequest(str(error)) from error
    if len(content) > MAX_POLICY_BYTES:
        raise UnfitRequest(f"the policy has {len(content)} bytes, {MAX_POLICY_BYTES} at most")
    return offered


@dataclass(slots=True)
class PolicyLearning:
    """Keeps what jobs learn from; made by `app`."""

    deps: Deps
    policies: Policies
    _jobs: dict[str, _Learning] = field(default_factory=dict)
    """By the job's uid."""

    def heard(
        self, job: JobView, spec: FederatedJobSpec, *, finished: FinishedRound | None
    ) -> None:
        """Notes how the last round went."""
        if not spec.allocation.online:
            self._jobs.pop(job.uid, None)
        elif finished is not None:
            self._jobs.setdefault(job.uid, _Learning(job.key)).fresh.append(finished)

    def has_news(self, key: JobKey) -> bool:
        """Whether there are rounds of a job that `learn` would write down."""
        return any(one.key == key and one.fresh for one in self._jobs.values())

    async def learn(self, job: JobView, spec: FederatedJobSpec) -> None:
        """Writes the newest rounds down, and starts a trainer when it is time."""
        kept = self._jobs.get(job.uid)
        if kept is None or not kept.fresh:
            return
        self._forget_gone()
        try:
            async with kept.writing:
                await self._write(job, kept)
                if is_due(await self._experience(job, kept), kept.trained_through):
                    await self._start_trainer(job, spec, kept)
        except (KubeError, PolicyUnavailable) as error:
            logger.warning("job %s does not learn from this round: %s", job.key, error)

    async def judge(self, job: JobView, spec: FederatedJobSpec, content: bytes) -> PolicyVerdict:
        """Takes up an offered policy if the recorded rounds had not cost more with it.

        Raises:
            UnfitRequest: it is no policy, or too large to be kept.
            KubeError, PolicyUnavailable: it cannot be compared, or not be kept.
        """
        offered = _read(content)
        kept = self._jobs.setdefault(job.uid, _Learning(job.key))
        kept.trainer = None
        reference = spec.allocation.policy_ref
        begun = await self.policies.of(job.key, reference)
        has = await self.policies.learnt(job.key, reference) or begun
        experience = await self._experience(job, kept)
        found = await asyncio.to_thread(judge, experience, has=has, offered=offered, begun=begun)
        if found.verdict is not Verdict.KEPT:
            taken = content if found.verdict is Verdict.OFFERED else begun.to_bytes()
            await self._keep_policy(job, taken, reference)
        self.deps.metrics.policies.labels(found.verdict).inc()
        reason = "PolicyKept" if found.verdict is Verdict.KEPT else "PolicyUpdated"
        await emit(job, [EventNote("Normal", reason, found.message)], deps=self.deps)
        return PolicyVerdict(taken=found.verdict is Verdict.OFFERED, message=found.message)

    async def _write(self, job: JobView, kept: _Learning) -> None:
        experience = await self._experience(job, kept)
        played = list(kept.fresh)
        for finished in played:
            if (record := record_of(finished)) is not None:
                experience = experience.with_round(record)
        kept.experience = experience
        await self._write_rounds(job, kept, experience)
        del kept.fresh[: len(played)]  # others may have come meanwhile

    async def _write_rounds(self, job: JobView, kept: _Learning, experience: Experience) -> None:
        content = await asyncio.to_thread(experience.to_bytes)
        told = {TRAINED_THROUGH: str(kept.trained_through)}
        name = names.experience_name(job.key.name)
        files = {names.EXPERIENCE_FILE: content}
        await self.deps.kube.apply(recorded(job, name, content=files, told=told))

    async def _experience(self, job: JobView, kept: _Learning) -> Experience:
        """The rounds of the job; one that cannot be read begins anew."""
        if kept.experience is None:
            name = names.experience_name(job.key.name)
            try:
                found = await self.deps.kube.get(
                    ObjectRef("v1", "ConfigMap", job.key.namespace, name)
                )
                content = base64.b64decode(found["binaryData"][names.EXPERIENCE_FILE])
                kept.experience = Experience.from_bytes(content)
                kept.trained_through = int(found["data"][TRAINED_THROUGH])
            except NotFound:
                kept.experience = Experience()
            except (InvalidExperience, binascii.Error, KeyError, TypeError, ValueError) as error:
                logger.warning("ConfigMap %s of job %s begins anew: %s", name, job.key, error)
                kept.experience = Experience()
        return kept.experience

    async def _start_trainer(self, job: JobView, spec: FederatedJobSpec, kept: _Learning) -> None:
        placed = read_placement(job.status, spec)
        if placed is None:  # its next pass places it
            return
        experience = await self._experience(job, kept)
        if kept.trainer is not None:
            why = f"{kept.trainer} gave no policy: kubectl logs job/{kept.trainer} says why"
            await emit(job, [EventNote("Warning", "TrainerSilent", why)], deps=self.deps)
        reference = spec.allocation.policy_ref
        if await self.policies.learnt(job.key, reference) is None:
            begin = await self.policies.of(job.key, reference)
            await self._keep_policy(job, begin.to_bytes(), reference)
        newest = experience.records[-1].round
        settings = self.deps.settings
        await self.deps.kube.apply(
            trainer_job(job, spec, round=newest, nodes=placed[CLOUD_POD], settings=settings)
        )
        kept.trainer, kept.trained_through = names.trainer_name(job.key.name, newest), newest
        await self._write_rounds(job, kept, experience)
        note = f"{kept.trainer} learns from the last {len(experience)} rounds"
        await emit(job, [EventNote("Normal", "TrainerStarted", note)], deps=self.deps)

    async def _keep_policy(self, job: JobView, content: bytes, reference: str | None) -> None:
        name, files = names.policy_name(job.key.name), {names.POLICY_FILE: content}
        await self.deps.kube.apply(
            recorded(job, name, content=files, told={BEGAN_WITH: reference or ""})
        )

    def _forget_gone(self) -> None:
        known = {one.uid for one in self.deps.known.values()}
        for uid in [uid for uid in self._jobs if uid not in known]:
            del self._jobs[uid]
