"""What the operator's adapter puts on the wire, and what it makes of the answers.

A small HTTP server on localhost records each request and answers as the test says.
"""

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from lockstep_operator.core.model import Manifest, ObjectRef
from lockstep_operator.errors import (
    Conflict,
    KubeError,
    NotFound,
    NotServed,
    Refused,
    Throttled,
    Unavailable,
)
from lockstep_operator.kube import JOB, NODE, POD, ApiKube, job_ref
from lockstep_operator.kube_reviews import User
from lockstep_operator.kube_transport import MOST_WRITES
from lockstep_operator.rights import Called
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port

USER = {"username": "u", "uid": "1-2"}
BOUND = {
    "authentication.kubernetes.io/node-name": ["node-1"],
    "authentication.kubernetes.io/pod-name": ["digits-cloud-0"],
    "authentication.kubernetes.io/pod-uid": ["3-4"],
}
PODS = "/api/v1/namespaces/lab/pods"
JOB_PATH = "/apis/lockstep.dev/v1alpha1/namespaces/lab/federatedjobs/digits"


def whole(manifest: Manifest) -> Manifest:
    """What is kept of an object: everything."""
    return manifest


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    content_type: str
    accept: str
    authorization: str
    body: Any


@dataclass
class Server:
    """Answers requests from a list; the last answer is given again and again."""

    url: str = ""
    answers: list[web.Response] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    """What a watch streams before it stays silent."""
    stalled: bool = False
    """Whether requests get no answer."""
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, body: Any, status: int = 200, **headers: str) -> None:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self.answers.append(web.json_response(body, status=status, headers=named))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.requests.append(
            Request(
                request.method,
                request.path,
                dict(request.query),
                request.content_type,
                request.headers["accept"],
                request.headers.get("authorization", ""),
                json.loads(text) if text else None,
            )
        )
        if self.stalled:
            await self.released.wait()
        if "watch" in request.query:
            return await self._stream(request)
        return self.answers.pop(0)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        for line in self.lines:
            await stream.write(json.dumps(line).encode() + b"\n")
        return stream


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    found.url = f"http://{host}:{port}"
    yield found
    found.released.set()
    await runner.cleanup()


def configuration(url: str) -> Configuration:
    made: Configuration = type.__call__(Configuration)
    made.host = url
    made.api_key = {"BearerToken": "bearer secret"}
    return made


@pytest.fixture
async def kube(server: Server) -> AsyncIterator[ApiKube]:
    made = ApiKube(configuration(server.url))
    yield made
    await made.close()


async def test_get(kube: ApiKube, server: Server) -> None:
    server.answer({"metadata": {"name": "digits"}})
    assert (await kube.get(job_ref("lab", "digits")))["metadata"]["name"] == "digits"
    asked = server.requests[0]
    assert (asked.method, asked.path) == ("GET", JOB_PATH)
    assert asked.authorization == "bearer secret"


async def test_jobs_come_few_at_a_time_as_each_may_be_large(kube: ApiKube, server: Server) -> None:
    """Whoever may write jobs writes a megabyte into each, which becomes 30 when it is read."""
    server.answer({"metadata": {"resourceVersion": "7"}, "items": []})
    await kube.list(JOB, "lab", kept=whole)
    assert server.requests[0].query["limit"] == "4"


async def test_list_follows_its_pages_and_names_the_kind(kube: ApiKube, server: Server) -> None:
    page = {"resourceVersion": "7", "continue": "next/page="}
    server.answer({"metadata": page, "items": [{"metadata": {"name": "a"}}]})
    server.answer({"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "b"}}]})
    listing = await kube.list(POD, "lab", labels="lockstep.dev/job=digits", kept=whole)
    assert [item["metadata"]["name"] for item in listing.items] == ["a", "b"]
    assert {(item["apiVersion"], item["kind"]) for item in listing.items} == {POD}
    assert listing.resource_version == "7"
    first, second = server.requests
    assert (first.method, first.path) == ("GET", PODS)
    assert first.query == {"limit": "100", "labelSelector": "lockstep.dev/job=digits"}
    assert second.query == first.query | {"continue": "next/page="}


async def test_a_list_without_items_may_say_null(kube: ApiKube, server: Server) -> None:
    server.answer({"metadata": {"resourceVersion": "7"}, "items": None})
    assert (await kube.list(POD, kept=whole)).items == []


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (NODE, "/api/v1/nodes"),
        (POD, "/api/v1/pods"),
        (JOB, "/apis/lockstep.dev/v1alpha1/federatedjobs"),
    ],
)
async def test_list_of_the_whole_cluster(
    kube: ApiKube, server: Server, kind: tuple[str, str], path: str
) -> None:
    server.answer({"metadata": {"resourceVersion": "1"}, "items": []})
    await kube.list(kind, kept=whole)
    assert server.requests[0].path == path


READ = {
    "metadata": {
        "name": "digits-cloud",
        "namespace": "lab",
        "uid": "uid-7",
        "resourceVersion": "17",
        "managedFields": [
            {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status"},
            {"manager": "lockstep-operator", "operation": "Apply", "fieldsV1": {"f:spec": {}}},
        ],
    }
}
"""Metadata of an object that was applied."""


async def test_apply_is_server_side_and_takes_over_what_was_read(
    kube: ApiKube, server: Server
) -> None:
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "digits-cloud", "namespace": "lab"},
    }
    server.answer(manifest)
    await kube.apply(manifest, over=READ)
    (sent,) = server.requests
    assert (sent.method, sent.path) == (
        "PATCH",
        "/apis/apps/v1/namespaces/lab/statefulsets/digits-cloud",
    )
    assert sent.query == {"fieldManager": "lockstep-operator", "force": "true"}
    assert sent.content_type == "application/apply-patch+yaml"
    same = {"uid": "uid-7", "resourceVersion": "17"}
    assert sent.body == manifest | {"metadata": manifest["metadata"] | same}  # type: ignore[operator]


async def test_what_was_created_counts_as_applied_before_it_is(
    kube: ApiKube, server: Server
) -> None:
    """Else what a later form leaves out would stay in the object."""
    created = copy.deepcopy(READ)
    ours = created["metadata"]["managedFields"][1]
    ours["operation"] = "Update"  # type: ignore[index]
    server.answer({"metadata": {"uid": "uid-7", "resourceVersion": "18"}})
    server.answer(SET)
    await kube.apply(SET, over=created)
    first, second = server.requests
    assert (first.method, first.path) == (second.method, second.path)
    assert first.content_type == "application/json-patch+json"
    assert first.body == [
        {"op": "test", "path": "/metadata/uid", "value": "uid-7"},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "17"},
        {
            "op": "replace",
            "path": "/metadata/managedFields",
            "value": READ["metadata"]["managedFields"],
        },
    ]
    assert second.content_type == "application/apply-patch+yaml"
    assert second.body["metadata"]["resourceVersion"] == "18"


async def test_metadata_are_asked_for_without_the_object(kube: ApiKube, server: Server) -> None:
    server.answer({"kind": "PartialObjectMetadata", "metadata": {"resourceVersion": "17"}})
    ref = ObjectRef("v1", "ConfigMap", "lab", "large")
    read = await kube.metadata(ref)
    assert read["metadata"]["resourceVersion"] == "17"
    assert (read["apiVersion"], read["kind"]) == ("v1", "ConfigMap")
    sent = server.requests[0]
    assert (sent.method, sent.path) == ("GET", "/api/v1/namespaces/lab/configmaps/large")
    assert sent.accept == "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"


async def test_the_status_is_applied_for_one_uid(kube: ApiKube, server: Server) -> None:
    server.answer({})
    await kube.apply_status(job_ref("lab", "digits"), "uid-1", status={"phase": "Running"})
    sent = server.requests[0]
    assert (sent.method, sent.path) == ("PATCH", JOB_PATH + "/status")
    assert sent.content_type == "application/apply-patch+yaml"
    assert sent.body["metadata"] == {"name": "digits", "namespace": "lab", "uid": "uid-1"}
    assert sent.body["status"] == {"phase": "Running"}


async def test_an_older_crd_is_named(kube: ApiKube, server: Server) -> None:
    server.answer({"message": ".status.activeTime: field not declared in schema"}, 500)
    with pytest.raises(Refused, match="CRD in this cluster is older than this operator: apply"):
        await kube.apply_status(job_ref("lab", "digits"), "uid-1", status={})


async def test_delete_is_in_the_background_and_of_one_object(kube: ApiKube, server: Server) -> None:
    server.answer({})
    ref = ObjectRef("v1", "Service", "lab", "digits-cloud")
    await kube.delete(ref, uid="uid-7", version="17")
    sent = server.requests[0]
    assert (sent.method, sent.path) == ("DELETE", "/api/v1/namespaces/lab/services/digits-cloud")
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
    same = {"uid": "uid-7", "resourceVersion": "17"}
    assert sent.body == options | {"preconditions": same}
    server.answer({})
    await kube.delete(job_ref("lab", "digits"), uid="uid-1")
    assert server.requests[1].body == options | {"preconditions": {"uid": "uid-1"}}


async def test_deleting_what_is_gone_is_done(kube: ApiKube, server: Server) -> None:
    server.answer({"message": "not found"}, 404)
    await kube.delete(ObjectRef("v1", "Service", "lab", "digits-cloud"), uid="uid-7")


async def test_a_resize_sets_nothing_but_the_cpu_limit(kube: ApiKube, server: Server) -> None:
    server.answer({})
    await kube.resize("lab", "pod-0", container="worker", cpu="125m")
    sent = server.requests[0]
    assert (sent.method, sent.path) == ("PATCH", PODS + "/pod-0/resize")
    assert sent.content_type == "application/strategic-merge-patch+json"
    limits = {"limits": {"cpu": "125m"}}
    assert sent.body == {"spec": {"containers": [{"name": "worker", "resources": limits}]}}


async def test_a_watch_goes_on_from_a_list(kube: ApiKube, server: Server) -> None:
    server.lines = [{"type": "MODIFIED", "object": {"metadata": {"name": "a"}}}]
    watch = kube.watch(POD, "lab", labels="a=b", resource_version="7", timeout_s=2.0)
    async with aclosing(watch):
        events = [event async for event in watch]
    assert [event["object"]["metadata"]["name"] for event in events] == ["a"]
    assert server.requests[0].path == PODS
    assert server.requests[0].query == {
        "watch": "true",
        "labelSelector": "a=b",
        "resourceVersion": "7",
        "timeoutSeconds": "2",
    }


async def test_a_list_of_metadata_asks_for_no_more(kube: ApiKube, server: Server) -> None:
    server.answer({"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}]})
    kind = ("v1", "ConfigMap")
    pages = kube.pages(kind, labels="x", metadata_only=True)
    items = [one async for page in pages for one in page.items]
    assert [(one["kind"], one["metadata"]["name"]) for one in items] == [("ConfigMap", "a")]
    accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    assert server.requests[0].accept == accept


async def test_a_watch_of_metadata_has_bookmarks_and_names_the_kind(
    kube: ApiKube, server: Server
) -> None:
    server.lines = [
        {"type": "ADDED", "object": {"kind": "PartialObjectMetadata", "metadata": {"name": "a"}}},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}},
    ]
    watch = kube.watch(
        ("v1", "ConfigMap"),
        None,
        labels="",
        resource_version="7",
        timeout_s=300.0,
        bookmarks=True,
        metadata_only=True,
    )
    async with aclosing(watch):
        events = [event async for event in watch]
    assert events[0]["object"]["kind"] == "ConfigMap"
    assert events[1]["object"]["metadata"]["resourceVersion"] == "9"
    sent = server.requests[0]
    assert (sent.path, sent.query["allowWatchBookmarks"]) == ("/api/v1/configmaps", "true")
    assert sent.accept == "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"


async def test_every_request_is_counted_by_verb_and_kind(server: Server) -> None:
    counted: list[tuple[str, str]] = []
    kube = ApiKube(configuration(server.url), count=lambda verb, kind: counted.append((verb, kind)))
    page = {"resourceVersion": "7", "continue": "next"}
    server.answer({"metadata": page, "items": []})
    server.answer({"metadata": {"resourceVersion": "7"}, "items": []})
    server.answer({"message": "no"}, 403)
    await kube.list(POD, kept=whole)
    with pytest.raises(Refused):
        await kube.get(job_ref("lab", "digits"))
    await kube.close()
    assert counted == [("list", "Pod"), ("list", "Pod"), ("get", "FederatedJob")]


SET = {
    "apiVersion": "apps/v1",
    "kind": "StatefulSet",
    "metadata": {"name": "digits-cloud", "namespace": "lab"},
}


async def test_a_write_is_not_waited_for_longer_than_the_lease_lasts(
    kube: ApiKube, server: Server
) -> None:
    server.stalled = True
    leading = kube.while_leading(lambda: 0.2)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Unavailable):
            await leading.apply(SET, over=READ)
    assert len(server.requests) == 1


async def test_slow_writes_to_one_namespace_leave_connections_to_all_else(
    kube: ApiKube, server: Server
) -> None:
    """An apiserver takes seconds for a large object, and somebody may have hundreds."""
    server.stalled = True
    waiting = [
        asyncio.create_task(kube.apply_status(job_ref("lab", f"j{number}"), "uid-1", status={}))
        for number in range(200)
    ]
    while len(server.requests) < MOST_WRITES:  # noqa: ASYNC110  the server is another's
        await asyncio.sleep(0.01)
    lease = ObjectRef("coordination.k8s.io/v1", "Lease", "lab", "lockstep-operator")
    others = [
        kube.get(job_ref("lab", "digits")),
        kube.apply_status(job_ref("other", "digits"), "uid-1", status={}),
        kube.replace({"apiVersion": lease.api_version, "kind": lease.kind,
                      "metadata": {"namespace": "lab", "name": lease.name}}),
    ]  # fmt: skip
    asked = [asyncio.create_task(one) for one in others]
    while len(server.requests) < MOST_WRITES + len(asked):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    paths = [one.path for one in server.requests]
    assert len([path for path in paths if path.endswith("/status")]) == MOST_WRITES + 1
    for _ in range(len(waiting) + len(asked)):
        server.answer({"metadata": {"name": "x"}})
    server.released.set()
    await asyncio.gather(*waiting, *asked)


async def test_no_write_begins_after_the_lease(kube: ApiKube, server: Server) -> None:
    ended = kube.while_leading(lambda: 0.0)
    pod = ("lab", "pod-0")
    for write in (
        ended.apply(SET, over=READ),
        ended.create(SET),
        ended.delete(ObjectRef("v1", "Service", "lab", "digits-cloud"), uid="uid-7"),
        ended.resize(*pod, container="worker", cpu="125m"),
        ended.apply_status(job_ref("lab", "digits"), "uid-1", status={}),
    ):
        with pytest.raises(Unavailable, match="does not lead any more"):
            await write
    assert server.requests == []
    server.answer({"metadata": {"name": "digits"}})
    await ended.get(job_ref("lab", "digits"))
    server.answer({})
    await kube.apply(SET, over=READ)


async def test_an_expired_watch_is_unavailable(kube: ApiKube, server: Server) -> None:
    server.lines = [{"type": "ERROR", "object": {"code": 410, "message": "too old"}}]
    watch = kube.watch(POD, "lab", labels="", resource_version="7", timeout_s=1.0)
    async with aclosing(watch):
        with pytest.raises(Unavailable, match="too old"):
            await anext(watch)


async def test_an_event_is_posted(kube: ApiKube, server: Server) -> None:
    server.answer({}, 201)
    metadata = {"name": "e", "namespace": "lab"}
    await kube.create({"apiVersion": "v1", "kind": "Event", "metadata": metadata})
    sent = server.requests[0]
    assert (sent.method, sent.path) == ("POST", "/api/v1/namespaces/lab/events")
    assert sent.content_type == "application/json"


async def test_a_replacement_depends_on_the_version_that_was_read(
    kube: ApiKube, server: Server
) -> None:
    server.answer({"message": "the object has been modified"}, 409)
    metadata = {"name": "l", "namespace": "lab", "resourceVersion": "7"}
    with pytest.raises(Conflict, match="has been modified"):
        await kube.replace(
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
        )
    sent = server.requests[0]
    path = "/apis/coordination.k8s.io/v1/namespaces/lab/leases/l"
    assert (sent.method, sent.path) == ("PUT", path)
    assert sent.body["metadata"] == metadata


@pytest.mark.parametrize(
    ("status", "user"),
    [
        ({"authenticated": True, "audiences": ["us"], "user": USER}, User("u", "1-2")),
        (
            {"authenticated": True, "audiences": ["us"], "user": {**USER, "extra": BOUND}},
            User("u", "1-2", "digits-cloud-0", "3-4"),
        ),
        ({"authenticated": True, "audiences": ["others"], "user": USER}, None),
        ({"authenticated": False}, None),
        ({"authenticated": True, "user": USER}, None),
    ],
)
async def test_a_token_counts_only_for_its_audience_and_says_which_pod_it_is_of(
    kube: ApiKube, server: Server, status: dict[str, Any], user: User | None
) -> None:
    server.answer({"status": status}, 201)
    assert await kube.review_token("token", "us") == user
    sent = server.requests[0]
    assert (sent.method, sent.path) == ("POST", "/apis/authentication.k8s.io/v1/tokenreviews")
    assert sent.body["spec"] == {"token": "token", "audiences": ["us"]}


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        ({"allowed": True}, True),
        ({"allowed": False, "denied": True}, False),
        ({"allowed": False, "evaluationError": "role not found"}, False),
        ({"allowed": "true"}, False),
        ({}, False),
    ],
)
async def test_whether_an_account_may_do_a_thing_is_asked_with_the_groups_that_it_has(
    kube: ApiKube, server: Server, status: dict[str, Any], allowed: bool
) -> None:
    server.answer({"status": status}, 201)
    user, call = "system:serviceaccount:lab:op", Called("patch", "lockstep.dev", "jobs/status")
    not_leading = kube.while_leading(lambda: 0.0)
    assert await not_leading.review_access(user, call, namespace="vic") is allowed, "it is no write"
    sent = server.requests[0]
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert (sent.method, sent.path) == ("POST", path)
    assert sent.body["spec"] == {
        "user": user,
        "groups": [
            "system:serviceaccounts", "system:serviceaccounts:lab", "system:authenticated",
        ],
        "resourceAttributes": {
            "verb": "patch",
            "group": "lockstep.dev",
            "resource": "jobs",
            "subresource": "status",
            "namespace": "vic",
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, NotFound),
        (409, Conflict),
        (410, Unavailable),
        (400, Refused),
        (403, Refused),
        (422, Refused),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_errors_have_a_class_and_the_apiservers_words(
    kube: ApiKube, server: Server, status: int, error: type[KubeError]
) -> None:
    details = {"name": "digits"}
    server.answer({"kind": "Status", "message": "because of this", "details": details}, status)
    with pytest.raises(error, match="because of this") as caught:
        await kube.get(job_ref("lab", "digits"))
    assert type(caught.value) is error
    assert JOB_PATH in str(caught.value)
    assert caught.value.words == "because of this"


async def test_a_route_that_is_not_served_is_no_missing_object(
    kube: ApiKube, server: Server
) -> None:
    """What an apiserver answers to a resource or subresource that it does not know."""
    server.answers.append(web.Response(status=404, text="404 page not found\n"))
    unknown = {"kind": "Status", "message": "the server could not find the requested resource"}
    server.answer(unknown | {"reason": "NotFound", "details": {}}, 404)
    for _ in range(2):
        with pytest.raises(NotServed):
            await kube.resize("lab", "p-0", container="worker", cpu="100m")


async def test_being_slowed_down_says_for_how_long(kube: ApiKube, server: Server) -> None:
    server.answer({"message": "too many"}, 429, Retry_After="7")
    with pytest.raises(Throttled) as caught:
        await kube.get(job_ref("lab", "digits"))
    assert caught.value.retry_after == 7.0


async def test_an_error_that_is_no_json(kube: ApiKube, server: Server) -> None:
    server.answers.append(web.Response(status=502, text="bad gateway"))
    with pytest.raises(Unavailable, match="bad gateway"):
        await kube.get(job_ref("lab", "digits"))


async def test_a_good_answer_that_is_no_json(kube: ApiKube, server: Server) -> None:
    server.answers.append(web.Response(text="<html>"))
    with pytest.raises(Unavailable):
        await kube.get(job_ref("lab", "digits"))


async def test_nobody_listens() -> None:
    kube = ApiKube(configuration(f"http://127.0.0.1:{free_port()}"))
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(Unavailable, match="GET"):
            await kube.get(job_ref("lab", "digits"))
    await kube.close()


async def test_a_call_that_no_role_grants_does_not_go_out(kube: ApiKube, server: Server) -> None:
    with pytest.raises(Refused, match=r"get nodes is not among the operator's rights"):
        await kube.get(ObjectRef(*NODE, "", "n"))
    with pytest.raises(Refused, match=r"delete pods is not among"):
        await kube.delete(ObjectRef(*POD, "lab", "p"), uid="1")
    assert server.requests == []


async def test_what_the_apiserver_publishes_is_no_object(kube: ApiKube, server: Server) -> None:
    server.answer({"keys": []})
    assert await kube.published("/openid/v1/jwks") == {"keys": []}
    (sent,) = server.requests
    assert (sent.method, sent.path) == ("GET", "/openid/v1/jwks")
    told = "application/json, application/jwk-set+json"
    assert sent.accept == told, "else the apiserver answers 406"
