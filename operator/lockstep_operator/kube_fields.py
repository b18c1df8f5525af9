"""Which fields of an object count as whose; only `kube` uses it.

Server-side apply takes away what a later form of an object leaves out, but only of what was applied
before. What was created by POST is kept as an update, and would stay for ever.
"""

from lockstep_api import names
from lockstep_operator.core.model import Manifest


def as_applied(meta: Manifest) -> list[Manifest] | None:
    """The JSON patch after which what this operator created counts as applied by it.

    It holds only for the object that was read. None: there is nothing to change.
    """
    fields = meta.get("managedFields") or []
    if {one["operation"] for one in fields if _is_ours(one)} != {"Update"}:
        return None
    applied = [{**one, "operation": "Apply"} if _is_ours(one) else one for one in fields]
    return [
        {"op": "test", "path": "/metadata/uid", "value": meta["uid"]},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
        {"op": "replace", "path": "/metadata/managedFields", "value": applied},
    ]


def _is_ours(fields: Manifest) -> bool:
    return fields.get("manager") == names.MANAGER and not fields.get("subresource")
