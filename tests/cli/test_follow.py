"""Following objects: nothing is lost, whatever ends a watch."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from lockstep_cli.cluster import JOBS, Cluster, Where, connect
from lockstep_cli.errors import Denied, Unreachable
from lockstep_cli.follow import Change, Selection, follow
from tests.support.apiserver import FakeApi, forbidden
from tests.support.cli import Lockstep, job
from tests.support.patience import PATIENCE_S

LAB = Selection(JOBS, "lab")


@pytest.fixture
def cluster(lockstep: Lockstep) -> Iterator[Cluster]:
    with closing(connect(Where(kubeconfig=lockstep.kubeconfig))) as connected:
        yield replace(connected, pause=lambda seconds: None)


def names(change: Change) -> list[str]:
    return sorted(name for _, name in change.objects)


def watched(api: FakeApi, then: Callable[[], object], *, times: int = 1) -> threading.Thread:
    """Does something once so many watches were asked for."""

    def act() -> None:
        with api.changed:
            api.changed.wait_for(lambda: api.watches >= times, timeout=PATIENCE_S)
        then()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


def test_first_comes_what_there_is_then_each_change(api: FakeApi, cluster: Cluster) -> None:
    api.put("federatedjobs", job("first"))
    changes = follow(cluster, LAB)
    assert names(next(changes)) == ["first"]
    watched(api, lambda: api.put("federatedjobs", job("second")))
    change = next(changes)
    assert change.changed is not None
    assert (change.changed["metadata"]["name"], names(change)) == ("second", ["first", "second"])
    api.remove("federatedjobs", "lab", name="first")
    assert names(next(changes)) == ["second"]


def test_a_watch_that_ends_goes_on_from_where_it_was(api: FakeApi, cluster: Cluster) -> None:
    changes = follow(cluster, LAB)
    next(changes)

    def meanwhile() -> None:
        api.end_watches()
        api.put("federatedjobs", job("late"))

    watched(api, meanwhile)
    assert names(next(changes)) == ["late"]
    lists = [query for _, _, query in api.requests if "watch" not in query]
    assert len(lists) == 1


def test_a_watch_that_is_too_old_begins_with_a_new_list(api: FakeApi, cluster: Cluster) -> None:
    """What was deleted meanwhile is gone from it."""
    api.put("federatedjobs", job("first"))
    changes = follow(cluster, LAB)
    next(changes)

    def meanwhile() -> None:
        with api.changed:
            api.end_watches(forget=True)
            api.objects.clear()

    watched(api, meanwhile)
    change = next(changes)
    assert (change.changed, names(change)) == (None, [])


def test_bookmarks_are_no_changes(api: FakeApi, cluster: Cluster) -> None:
    """But a watch goes on from them."""
    changes = follow(cluster, LAB)
    next(changes)
    bookmark = {"kind": "FederatedJob", "metadata": {"resourceVersion": "9000"}}

    def mark() -> None:
        api.tell("federatedjobs", "BOOKMARK", bookmark)
        api.end_watches()

    watched(api, mark)
    watched(api, lambda: api.tell("federatedjobs", "ADDED", newer("after", 9001)), times=2)
    assert names(next(changes)) == ["after"]
    assert [q["resourceVersion"] for _, _, q in api.requests if "watch" in q][-1] == "9000"


def newer(name: str, version: int) -> dict[str, object]:
    made = job(name)
    made["metadata"]["resourceVersion"] = str(version)
    return made


def test_a_cluster_that_is_away_is_told_and_asked_again(api: FakeApi, cluster: Cluster) -> None:
    api.put("federatedjobs", job("first"))
    changes = follow(cluster, LAB)
    next(changes)
    away = iter([(503, "starting"), (503, "starting")])
    api.refuse = lambda method, path: next(away, None)
    watched(api, api.end_watches)
    assert "starting" in next(changes).trouble
    assert "starting" in next(changes).trouble
    change = next(changes)
    assert (change.trouble, names(change)) == ("", ["first"])


@pytest.mark.parametrize(
    ("refusal", "error"), [((503, "starting"), Unreachable), (forbidden("no"), Denied)]
)
def test_a_first_list_that_fails_is_an_error(
    api: FakeApi, cluster: Cluster, *, refusal: tuple[int, str], error: type[Exception]
) -> None:
    api.refuse = lambda method, path: refusal
    with pytest.raises(error):
        next(follow(cluster, LAB))


def test_a_right_that_is_taken_away_ends_it(api: FakeApi, cluster: Cluster) -> None:
    changes = follow(cluster, LAB)
    next(changes)

    def take_away() -> None:
        api.refuse = lambda method, path: forbidden("not any more")
        api.end_watches()

    watched(api, take_away)
    with pytest.raises(Denied, match="not any more"):
        next(changes)
