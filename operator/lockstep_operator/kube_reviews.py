"""What `kube` asks the apiserver about others: whose a token is, and what somebody may do.

Reviews are asked by POST and change nothing; their bodies are made, and answers read, here.
"""

from dataclasses import dataclass

from lockstep_operator.core.model import Manifest
from lockstep_operator.rights import Called

TOKEN_REVIEW = ("authentication.k8s.io/v1", "TokenReview")
ACCESS_REVIEW = ("authorization.k8s.io/v1", "SubjectAccessReview")
_BOUND_TO = ("authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid")


@dataclass(frozen=True, slots=True)
class User:
    """Whom a token stands for; of a ServiceAccount the uid tells two of one name apart."""

    name: str
    uid: str
    pod: str = ""
    """The pod that the token is bound to; empty: it is bound to none."""
    pod_uid: str = ""


def of_token(token: str, audience: str) -> Manifest:
    """The question whose a token is."""
    return _review(TOKEN_REVIEW, {"token": token, "audiences": [audience]})


def user_in(answer: Manifest, audience: str) -> User | None:
    """Whom the apiserver names; None when the token is not valid for the audience."""
    status = answer.get("status", {})
    valid = status.get("authenticated") and audience in status.get("audiences", [])
    if not valid:
        return None
    user = status["user"]
    pod, pod_uid = ((user.get("extra") or {}).get(key, [""])[0] for key in _BOUND_TO)
    return User(user["username"], user.get("uid", ""), pod, pod_uid)


def of_access(user: str, call: Called, *, namespace: str) -> Manifest:
    """The question whether a ServiceAccount may do this in a namespace; `""`: in all of them.

    The apiserver takes the groups that it is told, so they are those that it gives the account.
    """
    resource, _, part = call.resource.partition("/")
    asked = {"verb": call.verb, "group": call.group, "resource": resource, "subresource": part}
    home = user.split(":")[2]
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"]
    return _review(
        ACCESS_REVIEW,
        {"user": user, "groups": groups, "resourceAttributes": {**asked, "namespace": namespace}},
    )


def allowed_in(answer: Manifest) -> bool:
    """What the apiserver says to that."""
    return answer.get("status", {}).get("allowed") is True


def _review(kind: tuple[str, str], spec: Manifest) -> Manifest:
    return {"apiVersion": kind[0], "kind": kind[1], "spec": spec}
