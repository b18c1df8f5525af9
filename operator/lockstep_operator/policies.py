"""Where a job's trained policy comes from; the planner asks before every round of policy ppo.

The one that comes with Lockstep, a ConfigMap in the job's namespace, or a file on a volume of the
operator (`volume/NAME`). What was read is kept as long as it is the same. A policy that cannot be
used is no reason to stop a job: the equaliser stands in, and the job says why.
"""

import asyncio
import base64
import binascii
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lockstep_allocator.policy import SHIPPED, InvalidPolicy, Policy, read_policy
from lockstep_api import names
from lockstep_operator.core.model import JobKey, Manifest, ObjectRef
from lockstep_operator.core.ownership import Standing, standing
from lockstep_operator.core.policy_source import PolicyProblem
from lockstep_operator.errors import KubeError, NotFound, PolicyUnavailable
from lockstep_operator.kube import Kube
from lockstep_operator.views import kept_child
from lockstep_serving.recent import remember

VOLUME = "volume/"
BEGAN_WITH = "beganWith"
"""Entry of a learnt policy's ConfigMap: the policyRef that it began with."""
_KEPT = 16
"""Policies, whichever jobs ask for them."""
_LONGEST = 256
"""Characters of a reference to a policy: names of ConfigMaps have 253."""


@dataclass(slots=True)
class Policies:
    """Finds policies; made by `app`."""

    kube: Kube
    folder: Path | None = None
    """Where files of `volume/NAME` lie; none when empty."""
    _read: dict[tuple[str, str], Policy] = field(default_factory=dict)
    """(source, version) → what was read."""
    _objects: dict[ObjectRef, Manifest] = field(default_factory=dict)
    """ConfigMaps as they were last, less their content."""

    async def learnt(self, key: JobKey, reference: str | None, *, uid: str) -> Policy | None:
        """What a job has learnt, beginning with the policy that it asks for; None: nothing yet.

        What is not its own, like that of an earlier job of its name, does not count.

        Raises:
            PolicyUnavailable: it cannot be read.
        """
        ref = ObjectRef("v1", "ConfigMap", key.namespace, names.policy_name(key.name))
        try:
            found = await self._object(ref)
            began_with = (found.get("data") or {}).get(BEGAN_WITH)
            if began_with != (reference or ""):
                return None
            if standing(found, job=key.name, uid=uid) is not Standing.OWN:
                return None
            return await self._from_object(ref, found)
        except NotFound:
            return None
        except (InvalidPolicy, KubeError) as error:
            raise PolicyUnavailable(str(error), _problem(error)) from error

    async def of(self, key: JobKey, reference: str | None) -> Policy:
        """The policy that a job asks for.

        Raises:
            PolicyUnavailable: it is not there or cannot be read.
        """
        try:
            if reference is None:
                return _shipped()
            if reference.startswith(VOLUME):
                return await self._from_volume(reference.removeprefix(VOLUME))
            return await self._from_config_map(
                ObjectRef("v1", "ConfigMap", key.namespace, reference)
            )
        except NotFound as error:
            what = f"there is no ConfigMap {reference}"
            raise PolicyUnavailable(what, PolicyProblem.MISSING) from error
        except (InvalidPolicy, KubeError) as error:
            raise PolicyUnavailable(str(error), _problem(error)) from error

    async def _from_volume(self, name: str) -> Policy:
        if self.folder is None:
            what = "the operator has no volume of policies (operator.policyVolume)"
            raise PolicyUnavailable(what, PolicyProblem.MISSING)
        file = self.folder / name
        try:
            version = str(file.stat().st_mtime_ns)
        except OSError as error:
            what = f"{file}: {error.strerror}"
            raise PolicyUnavailable(what, PolicyProblem.MISSING) from error
        if (known := self._kept((str(file), version))) is not None:
            return known
        return self._keep((str(file), version), await asyncio.to_thread(read_policy, file))

    async def _from_config_map(self, ref: ObjectRef) -> Policy:
        return await self._from_object(ref, await self._object(ref))

    async def _object(self, ref: ObjectRef) -> Manifest:
        """A ConfigMap, which may have a megabyte: read again only when it has changed.

        What was read before has no content any more, which its policy was made of.
        """
        known = self._objects.get(ref)
        if known is not None and self._kept(_version(ref, known)) is not None:
            now = await self.kube.metadata(ref)
            if known["metadata"]["resourceVersion"] == now["metadata"]["resourceVersion"]:
                remember(self._objects, ref, value=known, most=_KEPT)
                return known
        found = await self.kube.get(ref)
        remember(self._objects, ref, value=_shown(found), most=_KEPT)
        return found

    async def _from_object(self, ref: ObjectRef, found: Manifest) -> Policy:
        where = f"ConfigMap {ref.name}"
        version = _version(ref, found)
        if (known := self._kept(version)) is not None:
            return known
        binary = found.get("binaryData") or {}
        if len(binary) != 1:
            raise InvalidPolicy(
                f"{where} has {len(binary)} entries of binaryData instead of one: make it with "
                f"kubectl create configmap {ref.name} --from-file=policy.safetensors"
            )
        try:
            content = base64.b64decode(next(iter(binary.values())), validate=True)
        except binascii.Error as error:
            raise InvalidPolicy(f"{where}: {error}") from error
        read = await asyncio.to_thread(Policy.from_bytes, content, source=where)
        return self._keep(version, read)

    def _kept(self, version: tuple[str, str]) -> Policy | None:
        found = self._read.get(version)
        return None if found is None else self._keep(version, found)

    def _keep(self, version: tuple[str, str], policy: Policy) -> Policy:
        remember(self._read, version, value=policy, most=_KEPT)
        return policy


def _version(ref: ObjectRef, found: Manifest) -> tuple[str, str]:
    """What is kept of a ConfigMap is kept under this."""
    return f"{ref.namespace}/{ref.name}", found["metadata"]["resourceVersion"]


def _shown(found: Manifest) -> Manifest:
    """Of a ConfigMap whose it is and what it began with, less its content and all else."""
    body = kept_child(found).manifest
    version = found["metadata"]["resourceVersion"]
    shown = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
    began_with = (found.get("data") or {}).get(BEGAN_WITH)
    return shown if began_with is None else {**shown, "data": {BEGAN_WITH: began_with[:_LONGEST]}}


def _problem(error: InvalidPolicy | KubeError) -> PolicyProblem:
    invalid = isinstance(error, InvalidPolicy)
    return PolicyProblem.INVALID if invalid else PolicyProblem.UNREADABLE


@cache
def _shipped() -> Policy:
    return read_policy(SHIPPED)
