"""Errors of the user's code on clients: who failed how often, and who is given up. Pure.

Whoever receives clients feeds it. Invariant: a client fails at most `MOST_FAILURES` times in a job,
then the job does without it, if its quorum allows that, or ends; an error that is told twice, since
the answer to it was lost, counts once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lockstep_api.sessions import ClientFailure
from lockstep_api.text import few

MOST_FAILURES = 3
_SHOWN = 5
_WHAT_THEN = {
    False: "it is in the next round again, or its pod starts again",
    True: "it is given up",
}


@dataclass(slots=True)
class Troubles:
    """What was told so far."""

    told: dict[str, list[str]] = field(default_factory=dict)
    """The words of each failure, by client."""
    news: list[str] = field(default_factory=list)
    """One line for each failure that its owner has not told people yet."""
    _newest: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, failure: ClientFailure, *, waited_for: bool) -> bool:
        """Takes a failure in; whether it is a new one.

        `waited_for`: the open round waited for the client, so that this is not told again.
        """
        key = (failure.incarnation, failure.round)
        if not waited_for and self._newest.get(failure.client) == key:
            return False
        if self.is_given_up(failure.client):
            return False
        self._newest[failure.client] = key
        told = self.told.setdefault(failure.client, [])
        told.append(failure.message)
        self.news.append(
            f"client {failure.client}: {failure.message} (error {len(told)} of {MOST_FAILURES}; "
            f"{_WHAT_THEN[self.is_given_up(failure.client)]})"
        )
        return True

    def is_given_up(self, client: str) -> bool:
        """Whether the job does without this client from now on."""
        return len(self.told.get(client, ())) >= MOST_FAILURES

    def given_up(self) -> Mapping[str, str]:
        """The clients that the job does without, each with its newest error."""
        return {client: told[-1] for client, told in self.told.items() if self.is_given_up(client)}

    def account(self) -> str | None:
        """Who is given up, and why, for people; None: nobody is."""
        given_up = sorted(self.given_up().items())
        if not given_up:
            return None
        said = few([f"client {client}: {why}" for client, why in given_up], _SHOWN, comma="; ")
        return f"given up after {MOST_FAILURES} errors of the user's code: {said}"


def too_few(clients: int, *, given_up: int, quorum: int | None) -> str | None:
    """Why a job cannot go on without the clients that it has given up; None: it can."""
    left = clients - given_up
    if given_up == 0 or left >= (clients if quorum is None else max(1, quorum)):
        return None
    needed = (
        "participation.quorum is not set, so all are needed"
        if quorum is None
        else f"participation.quorum is {quorum}"
    )
    return f"{left} of {clients} clients are left, and {needed}"
