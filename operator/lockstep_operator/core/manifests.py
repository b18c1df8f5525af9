"""What is read off an object of a job: its name, whose part it is, and the hash that it carries.

`children` gives each object its hash; `decide` and `owned` read them. An object is applied only
when what Lockstep wants of it has changed, which the hash tells.
"""

import hashlib
import json

from lockstep_api import names
from lockstep_operator.core.model import Manifest, ObjectRef

HASH_ANNOTATION = "lockstep.dev/spec-hash"


def reference(manifest: Manifest) -> ObjectRef:
    """The reference that names a manifest's object."""
    meta = manifest["metadata"]
    return ObjectRef(manifest["apiVersion"], manifest["kind"], meta["namespace"], meta["name"])


def spec_hash(manifest: Manifest) -> str | None:
    """The hash that an object carries, if it was applied by Lockstep."""
    annotations = manifest.get("metadata", {}).get("annotations") or {}
    value = annotations.get(HASH_ANNOTATION)
    return None if value is None else str(value)


def identity(manifest: Manifest) -> dict[str, str]:
    """The labels by which an object is known as a part of a job."""
    labels = manifest["metadata"].get("labels") or {}
    keys = (names.JOB_LABEL, names.ROLE_LABEL, *names.GROUP_LABELS.values())
    return {key: labels[key] for key in keys if key in labels}


def hashed(manifest: Manifest) -> Manifest:
    """The manifest with the hash of all of it."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    meta = manifest["metadata"]
    annotations = {**meta.get("annotations", {}), HASH_ANNOTATION: digest}
    return {**manifest, "metadata": {**meta, "annotations": annotations}}
