"""What is held of the recorded rounds of all jobs: those that were used last, up to a bound.

`policy_learning` reads what is not held from the job's ConfigMap, where it lies in any case. Of a
file of 0.9 MB Python makes 11, and each job may have one. Invariant: beside those of the job that
was used last no more than `MOST_DEVICES` devices of rounds are held.
"""

from dataclasses import dataclass, field

from lockstep_allocator.experience import Experience

MOST_DEVICES = 4_000
"""Each time that one took part in a round counts: a kilobyte, and a half."""


@dataclass(slots=True)
class Experiences:
    """By the job's uid; what was not used for longest goes first."""

    most: int = MOST_DEVICES
    _held: dict[str, Experience] = field(default_factory=dict)

    def get(self, uid: str) -> Experience | None:
        """The rounds of a job; None: they are to be read."""
        found = self._held.pop(uid, None)
        if found is not None:
            self._held[uid] = found
        return found

    def keep(self, uid: str, experience: Experience) -> None:
        """The rounds of a job from now on."""
        self.forget(uid)
        left = self.most - devices(experience)
        for other, one in reversed([*self._held.items()]):
            left -= devices(one)
            if left < 0:
                del self._held[other]
        self._held[uid] = experience

    def forget(self, uid: str) -> None:
        """The job has ended, is gone, or learns no more."""
        self._held.pop(uid, None)


def devices(experience: Experience) -> int:
    """How often a device took part in one of the rounds."""
    return sum(len(record.clients) for record in experience.records)
