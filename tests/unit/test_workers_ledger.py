"""A ledger's counts: each client's own, and none ever less."""

from lockstep_workers.learning.ledger import Ledger

ONE = Ledger().after(["a", "b"]).after(["a"])


def test_a_model_counts_for_those_whose_updates_are_in_it() -> None:
    assert (ONE.of("a"), ONE.of("b"), ONE.of("c"), ONE.most) == (2, 1, 0, 2)


def test_nobody_has_less_than_the_least() -> None:
    raised = ONE.at_least(1)
    assert [raised.of(client) for client in "abc"] == [2, 1, 1]
    assert [raised.at_least(0).of(client) for client in "abc"] == [2, 1, 1]
    assert raised.at_least(5).most == 5
    assert raised.at_least(5).after(["c"]).of("c") == 6


def test_a_round_is_allowed_while_nobody_in_it_is_at_the_most() -> None:
    assert ONE.allows(["a", "b", "c"], most=None)
    assert ONE.allows(["b", "c"], most=2)
    assert not ONE.allows(["b", "a"], most=2)
    assert not ONE.at_least(2).allows(["c"], most=2)


def test_each_model_takes_it_further_and_a_new_one_is_another() -> None:
    begun = Ledger().begun()
    assert begun.mark.models == 0
    assert begun.after(["a"]).after([]).mark == begun.mark.model_copy(update={"models": 2})
    assert begun.at_least(3, models=7).mark.models == 7
    assert begun.after(["a"]).at_least(3).mark.models == 1
    assert begun.mark.ledger != Ledger().begun().mark.ledger


def test_it_is_the_same_after_it_was_written_down() -> None:
    assert Ledger.model_validate_json(ONE.at_least(1).to_json()) == ONE.at_least(1)
