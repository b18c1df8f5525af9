"""What people's commands and the operator need to be allowed; the chart's roles give it."""

from lockstep_api import names
from lockstep_cli.doctor.finding import Right

_GROUP = names.GROUP
USER_RIGHTS = (
    Right("list", names.PLURAL, _GROUP, needed_for="list, describe", vital=True),
    Right("watch", names.PLURAL, _GROUP, needed_for="watch"),
    Right("create", names.PLURAL, _GROUP, needed_for="kubectl apply"),
    Right("patch", names.PLURAL, _GROUP, needed_for="suspend, resume"),
    Right("delete", names.PLURAL, _GROUP, needed_for="delete"),
    Right("list", "pods", needed_for="describe, devices"),
    Right("get", "pods/log", needed_for="logs"),
    Right("list", "events", needed_for="events"),
    Right("get", "persistentvolumeclaims", needed_for="model, report"),
    Right("create", "pods/exec", needed_for="model, report"),
    Right("create", "pods", needed_for="model, report after a job's end"),
    Right("delete", "pods", needed_for="model, report after a job's end"),
)
OPERATOR_RIGHTS = (
    *(Right(verb, names.PLURAL, _GROUP, vital=True) for verb in ("list", "watch")),
    Right("patch", f"{names.PLURAL}/status", _GROUP, vital=True),
    *(
        Right(verb, "statefulsets", "apps", vital=True)
        for verb in ("list", "create", "patch", "delete")
    ),
    *(
        Right("create", resource, vital=True)
        for resource in ("services", "configmaps", "serviceaccounts", "persistentvolumeclaims")
    ),
    Right("create", "poddisruptionbudgets", "policy", vital=True),
    Right("create", "networkpolicies", "networking.k8s.io", vital=True),
    Right("create", "jobs", "batch", needed_for="allocation.online"),
    *(Right(verb, "pods", vital=True) for verb in ("list", "watch")),
    Right("patch", "pods", needed_for="labels of clusters"),
    Right("patch", "pods/resize", needed_for="frequencies"),
    Right("create", "events", needed_for="kubectl describe"),
    Right("list", "nodes", vital=True, whole_cluster=True),
    Right("create", "tokenreviews", "authentication.k8s.io", vital=True, whole_cluster=True),
    Right(
        "create",
        "subjectaccessreviews",
        "authorization.k8s.io",
        needed_for="several releases",
        whole_cluster=True,
    ),
)
