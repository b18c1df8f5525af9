"""Permits that come back with time, for each who asks and within bounds."""

from lockstep_serving.pace import Bucket, Buckets, Rate


def test_so_many_at_once_and_then_so_many_a_second() -> None:
    bucket = Bucket(Rate(burst=3, per_s=0.5))
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(11.0)
    assert bucket.take(12.0)
    assert bucket.left(1000.0) == 3


def test_one_who_asks_too_often_takes_nothing_from_others() -> None:
    buckets = Buckets(Rate(burst=1, per_s=0))
    assert [buckets.of("a").take(0.0), buckets.of("a").take(0.0)] == [True, False]
    assert buckets.of("b").take(0.0)


def test_who_has_not_asked_for_longest_is_forgotten() -> None:
    buckets = Buckets(Rate(burst=1, per_s=0), most=2)
    for key in ("a", "b", "a", "c"):
        buckets.of(key).take(0.0)
    assert not buckets.of("a").take(0.0)
    assert buckets.of("b").take(0.0)
    assert len(buckets._by_key) == 2
