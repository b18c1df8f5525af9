"""Where a job's trained policy comes from; the planner asks before every round of policy ppo.

The one that comes with Lockstep, a ConfigMap in the job's namespace, or a file on a volume of the
operator (`volume/NAME`). What was read is kept as long as it is the same. A policy that cannot be
used is no reason to stop a job: the equaliser stands in, and the job says why.
"""

import base64
import binascii
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lockstep_allocator.policy import SHIPPED, InvalidPolicy, Policy, read_policy
from lockstep_api import names
from lockstep_operator.core.model import JobKey, Manifest, ObjectRef
from lockstep_operator.errors import KubeError, NotFound
from lockstep_operator.kube import Kube

VOLUME = "volume/"
BEGAN_WITH = "beganWith"
"""Entry of a learnt policy's ConfigMap: the policyRef that it began with."""
_KEPT = 64


class PolicyUnavailable(Exception):
    """A policy that cannot be used; the message is for people."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A policy that was read."""

    policy: Policy
    began_with: str | None = None
    """Of a learnt one."""


@dataclass(slots=True)
class Policies:
    """Finds policies; made by `app`."""

    kube: Kube
    folder: Path | None = None
    """Where files of `volume/NAME` lie; none when empty."""
    _read: dict[tuple[str, str], _Found] = field(default_factory=dict)
    """(source, version) → what was read."""

    async def learnt(self, key: JobKey, reference: str | None) -> Policy | None:
        """What a job has learnt, beginning with the policy that it asks for; None: nothing yet.

        Raises:
            PolicyUnavailable: it cannot be read.
        """
        ref = ObjectRef("v1", "ConfigMap", key.namespace, names.policy_name(key.name))
        try:
            found = await self._from_config_map(ref)
            return found.policy if found.began_with == (reference or "") else None
        except NotFound:
            return None
        except (InvalidPolicy, KubeError) as error:
            raise PolicyUnavailable(str(error)) from error

    async def of(self, key: JobKey, reference: str | None) -> Policy:
        """The policy that a job asks for.

        Raises:
            PolicyUnavailable: it is not there or cannot be read.
        """
        try:
            if reference is None:
                return _shipped()
            if reference.startswith(VOLUME):
                return self._from_volume(reference.removeprefix(VOLUME))
            ref = ObjectRef("v1", "ConfigMap", key.namespace, reference)
            return (await self._from_config_map(ref)).policy
        except NotFound as error:
            raise PolicyUnavailable(f"there is no ConfigMap {reference}") from error
        except (InvalidPolicy, KubeError) as error:
            raise PolicyUnavailable(str(error)) from error

    def _from_volume(self, name: str) -> Policy:
        if self.folder is None:
            raise PolicyUnavailable(
                "the operator has no volume of policies (operator.policyVolume)"
            )
        file = self.folder / name
        try:
            version = str(file.stat().st_mtime_ns)
        except OSError as error:
            raise PolicyUnavailable(f"{file}: {error.strerror}") from error
        source = (str(file), version)
        known = self._read.get(source) or self._keep(source, _Found(read_policy(file)))
        return known.policy

    async def _from_config_map(self, ref: ObjectRef) -> _Found:
        name = f"{ref.namespace}/{ref.name}"
        if (known := self._read.get((name, await self.kube.version(ref)))) is not None:
            return known
        found = await self.kube.get(ref)
        began_with = (found.get("data") or {}).get(BEGAN_WITH)
        version = found["metadata"]["resourceVersion"]
        return self._keep((name, version), _Found(_from_object(ref.name, found), began_with))

    def _keep(self, source: tuple[str, str], found: _Found) -> _Found:
        if len(self._read) >= _KEPT:
            self._read.clear()
        self._read[source] = found
        return found


def _from_object(name: str, found: Manifest) -> Policy:
    where = f"ConfigMap {name}"
    binary = found.get("binaryData") or {}
    if len(binary) != 1:
        raise InvalidPolicy(
            f"{where} has {len(binary)} entries of binaryData instead of one: make it with "
            f"kubectl create configmap {name} --from-file=policy.safetensors"
        )
    try:
        content = base64.b64decode(next(iter(binary.values())), validate=True)
    except binascii.Error as error:
        raise InvalidPolicy(f"{where}: {error}") from error
    return Policy.from_bytes(content, source=where)


@cache
def _shipped() -> Policy:
    return read_policy(SHIPPED)
