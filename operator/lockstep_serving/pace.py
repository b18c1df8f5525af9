"""How often somebody may do something: buckets of permits that come back with time; pure.

Invariant: what is kept is bounded, however many ask.
"""

from dataclasses import dataclass, field

from lockstep_serving.recent import remember


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, and then so many a second."""

    burst: float
    per_s: float


@dataclass(slots=True)
class Bucket:
    """Permits of one who asks."""

    rate: Rate
    _left: float = field(init=False)
    _at_s: float = float("-inf")

    def __post_init__(self) -> None:
        """At first it is full."""
        self._left = self.rate.burst

    def left(self, now_s: float) -> float:
        """Permits that are there."""
        if now_s > self._at_s:
            back = (now_s - self._at_s) * self.rate.per_s
            self._left, self._at_s = min(self.rate.burst, self._left + back), now_s
        return self._left

    def take(self, now_s: float) -> bool:
        """Take a permit; False: there is none."""
        if self.left(now_s) < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Buckets:
    """A bucket for each who asks; who has not asked for longest is forgotten."""

    rate: Rate
    most: int = 4096
    _by_key: dict[str, Bucket] = field(default_factory=dict)

    def of(self, key: str) -> Bucket:
        """The bucket of one who asks."""
        bucket = self._by_key.get(key) or Bucket(self.rate)
        remember(self._by_key, key, value=bucket, most=self.most)
        return bucket
