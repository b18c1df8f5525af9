"""Rounds over clusters: who has which, what their edges are told, which results count."""

import itertools
from typing import Any

import pytest

from lockstep_api.orders import ClusterNews, ClusterResult
from lockstep_api.sessions import Refusal, key_at_edge
from lockstep_api.status import EnergyJoules
from lockstep_api.tiers import ClusterPlan, ClusterReport
from lockstep_api.wire import ClientPlan, ClientReport, RoundPlan, UpdateReport
from lockstep_api.wire_types import MOST_INT, MOST_SECONDS
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.cluster_rounds import ClusterRun, TieredRound
from lockstep_workers.learning.rounds import Base, Progress, repeat_plan, round_report

KEYS = {client: f"key-of-{client}-at-the-cloud-pod" for client in "abcdef"}


def plan(**more: Any) -> RoundPlan:
    """Six clients in three clusters, at three edges."""
    chosen = [
        ClientPlan(client=c, frequency_ghz=1.0, cpu_milli=100, steps=2 + i, applied=True)
        for i, c in enumerate("abcdef")
    ]
    edges = ["x", "y", "z"]
    clusters = [
        ClusterPlan(
            cluster=f"c{i}", edge=edge, clients=list(members),
            fallbacks=[other for other in edges if other != edge],
        )
        for i, (edge, members) in enumerate(zip(edges, ("ab", "cd", "ef"), strict=True))
    ]  # fmt: skip
    return RoundPlan(
        **({"round": 3, "rounds": 9, "participants": chosen, "clusters": clusters} | more)
    )


class Play:
    """A round under way, and the turns of its orders."""

    def __init__(self, edges: str = "xyz", *, patient: bool = False, **more: Any) -> None:
        self.now = TieredRound(plan(**more), began_s=100.0, patient=patient, base=Base({"a": 2}))
        self.turns = itertools.count(7)
        self.orders: dict[str, Any] = {}
        self.place(edges)

    def place(self, edges: str, now_s: float = 100.0) -> list[str]:
        """Gives clusters to these edges; which were given."""
        placed = self.now.place(list(edges), now_s=now_s, next_turn=self.turns.__next__)
        self.orders |= {run.name: self.now.order(run, keys=KEYS) for run in placed}
        return [run.name for run in placed]

    def run(self, cluster: str) -> ClusterRun:
        """The state of a cluster."""
        return self.now.runs[cluster]

    def finish(self, cluster: str, clients: str, **more: Any) -> None:
        """A result with these clients is taken."""
        run, told = self.run(cluster), result(self.run(cluster), clients, **more)
        assert run.edge is not None
        assert self.now.expects(run.edge, cluster=cluster, turn=run.turn) is run
        self.now.contributions(run, told)
        self.now.take(run, told, now_s=110.0)


def result(run: ClusterRun, clients: str, **more: Any) -> ClusterResult:
    """The result of a cluster."""
    told = [
        ClientReport(
            update=UpdateReport(
                client=c, round=3, examples=5, steps=2, download_seconds=0, compute_seconds=0,
                cpu_seconds=0, throttled_seconds=0, frequency_ghz=1.0,
                energy_joules=EnergyJoules(),
            ),
            arrived_seconds=1.0, upload_seconds=0.1, bytes=10,
        )
        for c in clients
    ]  # fmt: skip
    report = ClusterReport(
        cluster=run.name, edge=run.edge or "none", clients=len(told), examples=5 * len(told),
        seconds=1.0,
    )  # fmt: skip
    fields = {"report": report, "round": 3, "turn": run.turn, "clients": told}
    return ClusterResult(**(fields | more))


def edges_of(now: TieredRound) -> dict[str, str | None]:
    """Who has which cluster."""
    return {name: run.edge for name, run in now.runs.items()}


def news(now: TieredRound, keys: dict[str, str]) -> dict[str, ClusterNews]:
    """What edges are told, by cluster."""
    return {told.cluster: told for _, told in now.news(keys)}


# -- edges -----------------------------------------------------------------------------------------


def test_each_cluster_begins_at_the_edge_of_its_plan() -> None:
    play = Play()
    assert edges_of(play.now) == {"c0": "x", "c1": "y", "c2": "z"}
    order = play.orders["c1"]
    assert [(m.client, m.key, m.plan.steps) for m in order.members] == [
        ("c", key_at_edge(KEYS["c"], "y"), 4), ("d", key_at_edge(KEYS["d"], "y"), 5),
    ]  # fmt: skip
    assert (order.turn, order.tries, order.round, order.deadline_seconds) == (8, 1, 3, None)
    assert order.mean_steps == 4.5, "of all of the round's clients"
    assert play.orders["c0"].members[0].base_round == 2
    task = play.now.task_of("d")
    assert task is not None
    assert (task.turn, task.edge, task.cluster, task.steps) == (8, "y", "c1", 5)


def test_without_the_planner_clusters_stay_and_one_without_its_edge_goes_to_another() -> None:
    now = TieredRound(repeat_plan(plan(cut="3"), round_number=4), began_s=100.0)
    turns = itertools.count(7)
    placed = now.place(["y", "z"], now_s=100.0, next_turn=turns.__next__)
    assert edges_of(now) == {"c0": "y", "c1": "y", "c2": "z"}
    assert {now.order(run, keys=KEYS).cut for run in placed} == {"3"}
    assert [run.members for run in placed] == [["a", "b"], ["c", "d"], ["e", "f"]]


def test_a_lost_edge_s_cluster_goes_to_the_fallback_with_the_least_to_do() -> None:
    play = Play()
    play.now.edge_gone("x")
    assert play.now.task_of("a") is None
    assert play.place("yz", now_s=130.0) == ["c0"]
    assert play.run("c0").edge == "y", "the first of two that have one each"
    assert (play.orders["c0"].turn, play.orders["c0"].tries) == (10, 2)
    play.now.edge_gone("z")
    play.finish("c1", "cd")
    play.place("wy")
    assert play.run("c2").edge == "w", "any that is there with less to do will do"
    assert [str(move) for move in play.now.moves] == [
        "edge x is lost: cluster c0 is done again by y",
        "edge z is lost: cluster c2 is done again by w",
    ]


def test_a_cluster_waits_for_an_edge_and_people_are_told_once() -> None:
    play = Play(edges="x")
    assert edges_of(play.now) == dict.fromkeys(("c0", "c1", "c2"), "x")
    play.now.edge_gone("x")
    for _ in range(3):
        assert play.place("") == []
    assert len(play.now.moves) == 3
    assert str(play.now.moves[0]) == "edge x is lost: cluster c0 waits for an edge"
    assert play.place("x") == ["c0", "c1", "c2"]
    assert {order.tries for order in play.orders.values()} == {2}
    assert {order.turn for order in play.orders.values()} == {10, 11, 12}


def test_what_is_done_stays_done_when_its_edge_is_lost() -> None:
    play = Play()
    play.finish("c0", "ab")
    play.now.edge_gone("x")
    assert play.place("yz") == []
    assert not play.now.moves


def test_an_order_that_comes_late_has_less_time_left() -> None:
    play = Play(quorum=4, deadline_seconds=60.0)
    assert (play.orders["c0"].deadline_seconds, play.orders["c0"].quorum) == (60.0, 2)
    play.now.edge_gone("x")
    play.place("yz", now_s=145.0)
    assert play.orders["c0"].deadline_seconds == 15.0


def test_a_client_in_no_cluster_is_lost_and_one_in_two_is_in_the_first() -> None:
    clusters = [
        ClusterPlan(cluster="c0", edge="x", clients=["a", "b", "q"]),
        ClusterPlan(cluster="c1", edge="x", clients=["b", "c", "d", "e"]),
    ]
    now = Play(clusters=clusters).now
    assert now.lost == {"f": "the plan has it in no cluster"}
    assert [run.members for run in now.runs.values()] == [["a", "b"], ["c", "d", "e"]]


# -- clients ---------------------------------------------------------------------------------------


def test_an_edge_hears_of_new_keys_and_of_clients_that_are_gone_each_once() -> None:
    play = Play()
    assert news(play.now, KEYS) == {}
    keys = {c: k for c, k in KEYS.items() if c != "a"} | {"d": "another-key-of-client-d"}
    told = news(play.now, keys)
    assert told["c0"].gone == {"a": "its connection closed"}
    assert told["c0"].keys == {}
    assert told["c1"].keys == {"d": key_at_edge("another-key-of-client-d", "y")}
    assert news(play.now, keys) == {}
    assert play.now.waiting() == list("abcdef"), "its edge says what that means"
    assert told["c1"].keys["d"] not in repr(told["c1"])


def test_a_patient_round_tells_of_keys_only() -> None:
    play = Play(patient=True)
    there = {c: k for c, k in KEYS.items() if c != "a"}
    assert news(play.now, there) == {}
    told = news(play.now, there | {"a": "another-key-of-client-a"})
    assert told["c0"].keys == {"a": key_at_edge("another-key-of-client-a", "x")}


def test_no_edge_is_told_the_key_of_a_session_or_what_a_client_shows_at_another_edge() -> None:
    play = Play(patient=True)
    news(play.now, KEYS | {"a": "another-key-of-client-a"})
    play.now.edge_gone("x")
    play.place("yz")
    told = [(client.client, client.key) for client in play.orders["c0"].members]
    assert told[1] == ("b", key_at_edge(KEYS["b"], play.run("c0").edge or ""))
    assert told[1][1] not in {KEYS["b"], key_at_edge(KEYS["b"], "x")}


def test_who_leaves_while_the_cluster_waits_for_an_edge_is_lost_at_once() -> None:
    play = Play(edges="")
    assert news(play.now, {c: k for c, k in KEYS.items() if c not in "ab"}) == {}
    assert set(play.now.lost) == {"a", "b"}
    assert play.place("x") == ["c1", "c2"], "nobody is left in c0"


def test_a_client_whose_code_failed_is_told_to_its_edge() -> None:
    play = Play()
    assert play.now.reject("a", "KeyError: x")
    assert news(play.now, KEYS)["c0"].gone == {"a": "KeyError: x"}
    play.finish("c0", "b", lost={"a": "KeyError: x"})
    assert play.now.rejected == {"a"}


def test_no_update_is_for_the_cloud_pod() -> None:
    play = Play()
    report = result(play.run("c0"), "a").clients[0].update
    with pytest.raises(RefusedUpdate, match="for its edge") as caught:
        play.now.check(report)
    assert caught.value.reason is Refusal.NOT_IN_ROUND
    assert not play.now.disconnect("a", "gone")
    assert play.now.waiting() == list("abcdef")


# -- results ---------------------------------------------------------------------------------------


def test_a_round_closes_when_all_clusters_are_done() -> None:
    play = Play()
    play.now.edge_gone("x")
    play.place("yz", now_s=104.0)
    play.finish("c1", "cd")
    play.finish("c0", "a", lost={"b": "NaN"}, rejected=["b"], refused={Refusal.NON_FINITE: 2})
    assert not play.now.is_closed(1e9)
    play.finish("c2", "ef")
    assert play.now.is_closed(0.0)
    assert play.now.lost == {"b": "NaN"}
    assert play.now.rejected == {"b"}
    assert play.now.refused == {Refusal.NON_FINITE: 2}
    assert play.now.accepted["a"].arrived_seconds == 5.0, "on the round's clock"
    assert play.now.accepted["a"].asked_steps == 2
    told = play.now.cluster_reports()
    assert [(one.cluster, one.edge, one.tries, one.seconds) for one in told] == [
        ("c0", "y", 2, 6.0), ("c1", "y", 1, 10.0), ("c2", "z", 1, 10.0),
    ]  # fmt: skip


def test_a_member_that_a_result_does_not_name_is_lost() -> None:
    play = Play()
    play.finish("c0", "a")
    assert play.now.lost == {"b": "its edge says nothing of it"}


def test_an_update_that_was_given_counts_though_its_client_has_left_since() -> None:
    play = Play()
    play.now.reject("a", "its code failed later")
    play.finish("c0", "ab")
    assert set(play.now.accepted) == {"a", "b"}
    assert not play.now.lost
    assert not play.now.rejected


def test_a_cluster_that_could_not_be_run_has_bad_updates_only() -> None:
    play = Play()
    for cluster in ("c0", "c1", "c2"):
        play.finish(cluster, "", failure="ValueError: shapes")
    assert play.now.all_rejected()
    assert set(play.now.lost.values()) == {"ValueError: shapes"}


@pytest.mark.parametrize(
    ("said_s", "counts_s"), [(1.0, 1.0), (9.9, 9.9), (11.0, 10.0), (MOST_SECONDS, 10.0)]
)
def test_no_update_has_come_later_than_its_result_whatever_its_edge_says(
    said_s: float, counts_s: float
) -> None:
    """Else its energy would be held against a time that nobody saw, and its report be too much for
    the planner."""
    play = Play()
    told = result(play.run("c0"), "ab")
    late = [one.model_copy(update={"arrived_seconds": said_s}) for one in told.clients]
    play.now.take(play.run("c0"), told.model_copy(update={"clients": late}), now_s=110.0)
    assert play.now.accepted["a"].arrived_seconds == pytest.approx(counts_s)


def test_refusals_that_no_report_could_hold_are_told_as_many() -> None:
    """Of two edges that say as much as a number may be."""
    play = Play()
    for cluster in ("c0", "c1"):
        play.finish(cluster, "", refused={Refusal.SHAPE: MOST_INT})
    play.finish("c2", "ef")
    told = round_report(
        play.now, Progress(), now_s=120.0, result={"accuracy": 0.5, "loss": 1.0}, powers={}
    )
    assert told.refused == {Refusal.SHAPE: MOST_INT}


def closing(play: Play, now_s: float) -> list[str]:
    """Clusters whose edges are told to close."""
    return [told.cluster for _, told in play.now.closing(now_s) if told.close]


def test_after_the_deadline_edges_close_once_the_quorum_is_in_wherever_it_is() -> None:
    play = Play(quorum=4, deadline_seconds=60.0)
    play.finish("c0", "ab")
    play.run("c1").progress = 1
    assert closing(play, 159.0) == []
    assert closing(play, 161.0) == [], "three of four"
    assert not play.now.is_closed(1e9)
    assert play.now.deadline_s() == 160.0
    play.run("c2").progress = 1
    assert closing(play, 200.0) == ["c1", "c2"]
    assert closing(play, 201.0) == [], "each is told once"
    assert not play.now.is_closed(205.9), "their results are on their way"
    assert play.now.deadline_s() == 206.0
    play.finish("c1", "c", lost={"d": "late"})
    assert not play.now.is_closed(1e9), "three of four"
    play.finish("c2", "e", lost={"f": "late"})
    assert play.now.is_closed(202.0)
    assert set(play.now.lost) == {"d", "f"}


def test_an_edge_that_does_not_close_in_time_is_waited_for_no_longer() -> None:
    play = Play(quorum=3, deadline_seconds=60.0)
    play.finish("c0", "ab")
    play.finish("c1", "cd")
    assert closing(play, 160.0) == ["c2"]
    assert not play.now.is_closed(165.9)
    assert play.now.is_closed(166.0)
    assert [(edge, told.cluster, told.dropped) for edge, told in play.now.drop("closed")] == [
        ("z", "c2", "closed")
    ]


def test_what_a_lost_edge_had_counts_no_longer() -> None:
    play = Play(quorum=4, deadline_seconds=60.0)
    play.finish("c0", "ab")
    play.run("c1").progress = 2
    play.now.edge_gone("y")
    play.place("xz", now_s=130.0)
    assert closing(play, 200.0) == []


@pytest.mark.parametrize(
    ("edge", "cluster", "turn", "reason"),
    [
        ("x", "c9", 7, Refusal.NOT_IN_ROUND),
        ("y", "c0", 7, Refusal.WRONG_ROUND),
        ("x", "c0", 6, Refusal.WRONG_ROUND),
        ("x", "c0", 8, Refusal.WRONG_ROUND),
        ("y", "c1", 8, Refusal.DUPLICATE),
    ],
)
def test_results_that_are_not_waited_for(
    edge: str, cluster: str, turn: int, reason: Refusal
) -> None:
    play = Play()
    play.finish("c1", "cd")
    with pytest.raises(RefusedUpdate) as caught:
        play.now.expects(edge, cluster=cluster, turn=turn)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("clients", "more"),
    [
        ("ac", {}),
        ("aa", {}),
        ("a", {"lost": {"a": "why"}}),
        ("a", {"lost": {"c": "why"}}),
        ("a", {"round": 4}),
        ("a", {"turn": 6}),
    ],
)
def test_results_that_are_not_in_order(clients: str, more: dict[str, Any]) -> None:
    play = Play()
    with pytest.raises(RefusedUpdate) as caught:
        play.now.contributions(play.run("c0"), result(play.run("c0"), clients, **more))
    assert caught.value.reason is Refusal.BAD_REPORT
