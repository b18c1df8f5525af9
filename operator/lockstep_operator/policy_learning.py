"""Learning on the job (`allocation.online`): keeps rounds, runs trainers, judges what they learn.

The planner tells it of every round, and of every policy that is offered. The rounds lie in a
ConfigMap beside the job, so that a restarted operator and the trainer find them; what a job has
learnt lies in another. Nothing here holds a round up: what cannot be written is logged, and written
with the next round. Invariant: one job of a namespace at a time has its rounds read or played, and
only some stay in memory (`experiences`).
"""

import asyncio
import base64
import binascii
import logging
from collections import deque
from dataclasses import dataclass, field, replace

from lockstep_allocator.experience import Experience
from lockstep_allocator.policy import InvalidPolicy, Policy
from lockstep_allocator.records import MAX_BYTES, MAX_ROUNDS, InvalidExperience
from lockstep_api import names
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import PolicyVerdict
from lockstep_operator.beside import Beside
from lockstep_operator.core.children import recorded, trainer_job
from lockstep_operator.core.learn import WINDOW, Verdict, judge, record_of
from lockstep_operator.core.manifests import reference
from lockstep_operator.core.model import EventNote, JobKey, JobView, Manifest, ObjectRef
from lockstep_operator.core.ownership import Standing, standing
from lockstep_operator.core.placement import CLOUD_POD
from lockstep_operator.core.state import FinishedRound
from lockstep_operator.core.status import read_placement
from lockstep_operator.errors import (
    KubeError,
    NameTaken,
    NotFound,
    PolicyUnavailable,
    UnfitRequest,
)
from lockstep_operator.experiences import Experiences
from lockstep_operator.owned import put
from lockstep_operator.policies import BEGAN_WITH, Policies
from lockstep_operator.reconcile import Deps, emit
from lockstep_operator.shares import Shares

logger = logging.getLogger(__name__)

TRAINED_THROUGH = "trainedThrough"
"""Entry of the rounds' ConfigMap: the round up to which the policy was updated."""
MAX_POLICY_BYTES = 900_000
"""A ConfigMap may have 1 MiB."""


@dataclass(slots=True)
class _Learning:
    """What is kept of a job."""

    key: JobKey
    waits: bool = False
    """Whether somebody is about to write its rounds down."""
    fresh: deque[FinishedRound] = field(default_factory=lambda: deque(maxlen=MAX_ROUNDS))
    """Rounds that are not among the recorded ones yet."""
    unwritten: bool = False
    """Whether the ConfigMap lacks rounds that are recorded."""
    told_too_large: bool = False
    """Whether people know that its rounds cannot be recorded."""
    trained_through: int = 0
    untrained: int | None = None
    """Rounds that were recorded since the policy was updated; None: the ConfigMap was not read."""
    trainer: str | None = None
    """The trainer that has not answered yet."""
    trainer_active: str | None = None
    """Since when the job was active when it was started: it goes when the job is suspended."""

    @property
    def has_news(self) -> bool:
        return bool(self.fresh) or self.unwritten


def _read(content: bytes) -> Policy:
    if len(content) > MAX_POLICY_BYTES:
        raise UnfitRequest(f"the policy has {len(content)} bytes, {MAX_POLICY_BYTES} at most")
    try:
        return Policy.from_bytes(content, source="the policy offered")
    except InvalidPolicy as error:
        raise UnfitRequest(str(error)) from error


@dataclass(slots=True)
class PolicyLearning:
    """Keeps what jobs learn from; made by `app`."""

    deps: Deps
    policies: Policies
    beside: Beside = field(default_factory=Beside)
    """Apart from plans, which do not wait for what is learnt."""
    held: Experiences = field(default_factory=Experiences)
    _jobs: dict[str, _Learning] = field(default_factory=dict)
    """By the job's uid."""
    _turns: Shares = field(default_factory=lambda: Shares(1))
    """One is held while the rounds of a job are used."""

    def heard(
        self, job: JobView, spec: FederatedJobSpec, *, finished: FinishedRound | None
    ) -> None:
        """Notes how the last round went."""
        if not spec.allocation.online:
            self.forget(job.uid)
        elif finished is not None:
            self._jobs.setdefault(job.uid, _Learning(job.key)).fresh.append(finished)

    def has_news(self, key: JobKey) -> bool:
        """Whether there are rounds of a job that `learn` would write down."""
        return any(one.key == key and one.has_news for one in self._jobs.values())

    def forget(self, uid: str) -> None:
        """The job has ended or is gone."""
        self._jobs.pop(uid, None)
        self.held.forget(uid)

    async def learn(self, job: JobView, spec: FederatedJobSpec) -> None:
        """Writes the newest rounds down, and starts a trainer when it is time."""
        kept = self._jobs.get(job.uid)
        if kept is None or not kept.has_news or kept.waits:
            return
        kept.waits = True
        try:
            async with self._turns.of(job.key.namespace):
                kept.waits = False
                await self._take_up(job, kept)
                if kept.unwritten:
                    await self._write_rounds(job, kept)
                if (kept.untrained or 0) >= WINDOW:
                    await self._start_trainer(job, spec, kept=kept)
        except (KubeError, PolicyUnavailable) as error:
            logger.warning("job %s does not learn from this round: %s", job.key, error)

    async def judge(self, job: JobView, spec: FederatedJobSpec, *, content: bytes) -> PolicyVerdict:
        """Takes up an offered policy if the recorded rounds had not cost more with it.

        Raises:
            UnfitRequest: it is no policy, or too large to be kept.
            KubeError, PolicyUnavailable: it cannot be compared, or not be kept.
        """
        offered = await asyncio.to_thread(_read, content)
        kept = self._jobs.get(job.uid) or _Learning(job.key)  # nothing is kept of it, then
        kept.trainer = None
        async with self._turns.of(job.key.namespace):
            return await self._judge(job, spec, kept=kept, offered=offered, content=content)

    async def _judge(
        self,
        job: JobView,
        spec: FederatedJobSpec,
        *,
        kept: _Learning,
        offered: Policy,
        content: bytes,
    ) -> PolicyVerdict:
        reference = spec.allocation.policy_ref
        begun = await self.policies.of(job.key, reference)
        has = await self.policies.learnt(job.key, reference, uid=job.uid) or begun
        experience = await self._experience(job, kept)
        if not len(experience):
            raise UnfitRequest("no round is recorded that the policy could be judged by")
        found = await self.beside.run(
            job.key.namespace, judge, experience, has=has, offered=offered, begun=begun
        )
        if found.verdict is not Verdict.KEPT:
            taken = content if found.verdict is Verdict.OFFERED else begun.to_bytes()
            await self._keep_policy(job, taken, reference=reference)
        self.deps.metrics.policies.labels(found.verdict).inc()
        reason = "PolicyKept" if found.verdict is Verdict.KEPT else "PolicyUpdated"
        await emit(job, [EventNote("Normal", reason, found.message)], deps=self.deps)
        return PolicyVerdict(taken=found.verdict is Verdict.OFFERED, message=found.message)

    async def _take_up(self, job: JobView, kept: _Learning) -> None:
        """Adds the rounds that ended to the recorded ones."""
        experience = await self._experience(job, kept)
        while kept.fresh:
            record = record_of(kept.fresh.popleft())
            if record is None:
                continue
            if not len(Experience((record,)).fitting()):
                await self._tell_too_large(job, kept, devices=len(record.clients))
                continue
            is_new = all(one.round != record.round for one in experience.records)
            experience = experience.with_round(record).fitting()
            self.held.keep(job.uid, experience)
            kept.unwritten, kept.untrained = True, (kept.untrained or 0) + is_new

    async def _tell_too_large(self, job: JobView, kept: _Learning, *, devices: int) -> None:
        if kept.told_too_large:
            return
        kept.told_too_large = True
        why = (
            f"the policy does not learn: a round of {devices} devices takes more than "
            f"{MAX_BYTES} bytes, which is what one ConfigMap can hold"
        )
        await emit(job, [EventNote("Warning", "RoundTooLarge", why)], deps=self.deps)

    async def _write_rounds(self, job: JobView, kept: _Learning) -> None:
        experience = await self._experience(job, kept)
        content = await self.beside.run(job.key.namespace, experience.to_bytes)
        told = {TRAINED_THROUGH: str(kept.trained_through)}
        name = names.experience_name(job.key.name)
        files = {names.EXPERIENCE_FILE: content}
        await self._put(job, recorded(job, name, content=files, told=told))
        kept.unwritten = False

    async def _experience(self, job: JobView, kept: _Learning) -> Experience:
        """The rounds of the job; one that cannot be read begins anew."""
        held = self.held.get(job.uid)
        if held is None:
            held, trained_through = await self._read_rounds(job)
            if kept.untrained is None:
                kept.trained_through = trained_through
                kept.untrained = sum(one.round > trained_through for one in held.records)
            self.held.keep(job.uid, held)
        return held

    async def _read_rounds(self, job: JobView) -> tuple[Experience, int]:
        """What the ConfigMap says; what is not the job's own does not count."""
        name = names.experience_name(job.key.name)
        try:
            found = await self.deps.kube.get(ObjectRef("v1", "ConfigMap", job.key.namespace, name))
            if standing(found, job=job.key.name, uid=job.uid) is not Standing.OWN:
                return Experience(), 0
            content = base64.b64decode(found["binaryData"][names.EXPERIENCE_FILE])
            read = await asyncio.to_thread(Experience.from_bytes, content)
            return read, int(found["data"][TRAINED_THROUGH])
        except NotFound:
            return Experience(), 0
        except (InvalidExperience, binascii.Error, KeyError, TypeError, ValueError) as error:
            logger.warning("ConfigMap %s of job %s begins anew: %s", name, job.key, error)
            return Experience(), 0

    async def _start_trainer(
        self, job: JobView, spec: FederatedJobSpec, *, kept: _Learning
    ) -> None:
        placed = read_placement(job.status, spec)
        if placed is None:  # its next pass places it
            return
        experience = await self._experience(job, kept)
        if kept.trainer is not None and kept.trainer_active == job.status.active_time:
            why = f"{kept.trainer} gave no policy: kubectl logs job/{kept.trainer} says why"
            await emit(job, [EventNote("Warning", "TrainerSilent", why)], deps=self.deps)
        reference = spec.allocation.policy_ref
        if await self.policies.learnt(job.key, reference, uid=job.uid) is None:
            begin = await self.policies.of(job.key, reference)
            await self._keep_policy(job, begin.to_bytes(), reference=reference)
        newest = experience.records[-1].round
        allowed = self.deps.sources.cluster.bounds(job.key.namespace)
        settings = replace(self.deps.settings, bounds=allowed)
        await self._write_rounds(job, kept)  # it finds both records by their names
        trainer = trainer_job(job, spec, round=newest, nodes=placed[CLOUD_POD], settings=settings)
        await self._put_trainer(job, trainer)
        kept.trainer, kept.trained_through = names.trainer_name(job.key.name, newest), newest
        kept.untrained = 0
        kept.trainer_active = job.status.active_time
        await self._write_rounds(job, kept)
        note = f"{kept.trainer} learns from the last {len(experience.fitting())} rounds"
        await emit(job, [EventNote("Normal", "TrainerStarted", note)], deps=self.deps)

    async def _put_trainer(self, job: JobView, trainer: Manifest) -> None:
        try:
            await put(job, trainer, kube=self.deps.kube)
        except NameTaken as error:  # the next round's trainer has another name
            why = f"no trainer was started: {error}; rename or delete it, or wait for the next one"
            await emit(job, [EventNote("Warning", "NameTaken", why)], deps=self.deps)
            raise

    async def _keep_policy(self, job: JobView, content: bytes, *, reference: str | None) -> None:
        name, files = names.policy_name(job.key.name), {names.POLICY_FILE: content}
        await self._put(job, recorded(job, name, content=files, told={BEGAN_WITH: reference or ""}))

    async def _put(self, job: JobView, record: Manifest) -> None:
        """Write a record down; of a name that others have the job's next pass tells people."""
        try:
            await put(job, record, kube=self.deps.kube)
        except NameTaken:
            known = self.deps.known.get(job.key)
            if known is not None and known.uid == job.uid:
                known.doubtful |= {reference(record)}
            raise
