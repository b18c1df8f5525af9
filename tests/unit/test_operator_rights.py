"""The table of what the operator may ask of Kubernetes, and the roles that are made of it."""

from pathlib import Path

import pytest
import yaml

from lockstep_operator import rights
from lockstep_operator.rights import RIGHTS, Called, Scope, called, granted

ROOT = Path(__file__).resolve().parents[2]


def test_the_charts_roles_are_made_of_the_table() -> None:
    assert (ROOT / rights.PATH).read_text() == rights.text()


@pytest.mark.parametrize("scope", Scope)
def test_a_scopes_rules_say_what_its_rows_say(scope: Scope) -> None:
    begun = rights.text().partition(f'define "lockstep.rights.{scope}" -}}}}\n')[2]
    rules = yaml.safe_load(begun.partition("{{- end }}")[0])
    assert [(*one["resources"], *one["verbs"]) for one in rules if "resources" in one] == [
        (*one.resources, *one.verbs) for one in rights.of(scope) if one.resources
    ]
    assert all("*" not in str(one) for one in rules)


@pytest.mark.parametrize(
    ("verb", "path", "wanted"),
    [
        ("list", "/api/v1/nodes", Called("list", "", "nodes")),
        ("get", "/api/v1/namespaces/lab/configmaps/a", Called("get", "", "configmaps")),
        ("patch", "/api/v1/namespaces/lab/pods/p/resize", Called("patch", "", "pods/resize")),
        ("watch", "/api/v1/namespaces", Called("watch", "", "namespaces")),
        ("get", "/api/v1/namespaces/lab", Called("get", "", "namespaces")),
        (
            "apply",
            "/apis/lockstep.dev/v1alpha1/namespaces/lab/federatedjobs/j/status",
            Called("patch", "lockstep.dev", "federatedjobs/status"),
        ),
        ("create", "/apis/apps/v1/namespaces/lab/statefulsets",
         Called("create", "apps", "statefulsets")),
        ("get", "/openid/v1/jwks", Called("get", "", "/openid/v1/jwks")),
    ],
)  # fmt: skip
def test_a_call_is_seen_as_roles_see_it(verb: str, path: str, wanted: Called) -> None:
    assert called(verb, path) == wanted


def test_only_what_is_in_the_table_is_granted() -> None:
    assert granted(Called("list", "", "nodes"))
    for call in (
        Called("get", "", "nodes"),
        Called("list", "apps", "nodes"),
        Called("patch", "", "nodes"),
        Called("list", "", "nodes/status"),
    ):
        assert not granted(call)


def test_nobody_may_change_whom_the_operator_trusts() -> None:
    """Nor take part in pods: what would make it the cluster's administrator by a row."""
    groups = {one.group for one in RIGHTS}
    assert not groups & {"rbac.authorization.k8s.io", "admissionregistration.k8s.io", "*"}
    resources = {resource for one in RIGHTS for resource in one.resources}
    assert not resources & {"pods/exec", "pods/attach", "serviceaccounts/token", "nodes/proxy"}


def test_every_row_says_what_it_is_for() -> None:
    assert all(one.why.endswith(".") for one in RIGHTS)
    assert all(bool(one.resources) is not bool(one.urls) for one in RIGHTS)
