"""Who makes room when there are too many, by the clock."""

from lockstep_serving.sources import Sources

PLACES = 40


class Flood:
    """Connections of one address, as fast as they come."""

    def __init__(self, settle_s: float) -> None:
        self.sources: Sources[int] = Sources(settle_s)
        self.came_s: dict[int, float] = {}
        self.lived_s: dict[int, float] = {}

    def come(self, number: int, now_s: float) -> None:
        self.came_s[number] = now_s
        self.sources.add("flood", number, now_s=now_s)
        if len(self.sources) > PLACES:
            found = self.sources.next_to_go(now_s)
            assert found is not None
            source, one = found
            self.sources.discard(source, one)
            self.lived_s[one] = now_s - self.came_s[one]

    def last(self, seconds: int) -> list[float]:
        """A thousand a second come; how long each lived that is gone."""
        for number in range(1000 * seconds):
            self.come(number, number / 1000)
        return list(self.lived_s.values())


def test_however_fast_they_come_half_of_the_places_have_time_to_settle() -> None:
    """So whoever comes again has a part in these: as many a second as half of the places."""
    lived_s = Flood(settle_s=1.0).last(seconds=11)
    settled = sum(each >= 1.0 for each in lived_s)
    assert PLACES / 2 * 9 <= settled <= PLACES / 2 * 11
    assert max(lived_s) < 1.1, "and then gives way: nobody keeps others out by holding on"
    quick = sorted(lived_s)[len(lived_s) // 2]
    assert quick >= PLACES / 2 / 1000 * 0.9, "the others have the other half"


def test_without_time_to_settle_the_oldest_goes() -> None:
    lived_s = Flood(settle_s=0.0).last(seconds=3)
    assert max(lived_s) < 2 * PLACES / 1000


def test_the_source_that_holds_most_gives_way_whoever_comes() -> None:
    sources: Sources[str] = Sources(1.0)
    for number in range(6):
        sources.add("many", f"many {number}", now_s=number / 10)
    sources.add("one", "one 0", now_s=0.0)
    assert sources.next_to_go(0.9) == ("many", "many 3"), "of the newer half the oldest"
    assert sources.next_to_go(1.0) == ("many", "many 0")
    for number in range(6):
        sources.discard("many", f"many {number}")
    assert sources.next_to_go(0.5) == ("one", "one 0")
