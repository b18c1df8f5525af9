"""The newest state of every job; written by the planner, read by observe.

It lives in memory: a restarted operator hears the next report a round later; the status keeps
what was known before. States belong to a job's uid, so a new job of the same name starts empty.
"""

from collections.abc import Callable

from lockstep_operator.core.model import JobKey
from lockstep_operator.core.state import JobState


class Reports:
    """By the job's uid."""

    def __init__(self) -> None:
        self._by_uid: dict[str, JobState] = {}
        self._uids: dict[JobKey, set[str]] = {}
        self._when_gone: list[Callable[[str], None]] = []

    def when_gone(self, tell: Callable[[str], None]) -> None:
        """Tell somebody else who keeps something of jobs the uid of each that is gone."""
        self._when_gone.append(tell)

    def get(self, uid: str) -> JobState | None:
        """The state of a job; None: nothing was heard of it."""
        return self._by_uid.get(uid)

    def of(self, uid: str) -> JobState:
        """The state of a job; an empty one when nothing was heard of it."""
        return self._by_uid.get(uid) or JobState()

    def keep(self, key: JobKey, uid: str, *, state: JobState) -> None:
        """The state of a job from now on."""
        self._by_uid[uid] = state
        self._uids.setdefault(key, set()).add(uid)

    def forget(self, key: JobKey, *, but: str | None = None) -> None:
        """All jobs of this name are gone, but the one with the uid `but`.

        Also those of which a plan that was under way has told once more.
        """
        known = self._uids.pop(key, set())
        for uid in known - {but}:
            del self._by_uid[uid]
            for tell in self._when_gone:
                tell(uid)
        if but is not None and but in known:
            self._uids[key] = {but}
