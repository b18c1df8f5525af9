"""A device's session at the edge that the cloud pod has sent it to.

Used by `device.loop`. A device proves who it is by what it makes of the key of its session at the
cloud pod, which the edge knows, too. The session at the edge is kept from round to round, and
opened anew when the device is sent elsewhere, has another session at the cloud pod, or something
broke. Invariant: one edge at a time.
"""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field

from lockstep_api.sessions import Registration, key_at_edge
from lockstep_workers.device.connection import OpenSession, connect, is_open, open_session
from lockstep_workers.device.session import Opened
from lockstep_workers.errors import NoSession
from lockstep_workers.trust import NOBODY, Trust


@dataclass(frozen=True, slots=True)
class Visit:
    """An open session at an edge."""

    edge: str
    of_session: int
    """The number of the session at the cloud pod."""
    session: OpenSession
    held: http.client.HTTPConnection
    """On which the session lasts."""
    connection: http.client.HTTPConnection
    """For work and updates."""

    @property
    def key(self) -> str:
        """What every request shows."""
        return self.session.key

    def is_of(self, edge: str, opened: Opened) -> bool:
        """Whether it is at this edge, in this session at the cloud pod, and can be used."""
        there = (self.edge, self.of_session) == (edge, opened.number)
        return there and is_open(self.connection)

    def close(self) -> None:
        """Leaves."""
        for one in (self.session, self.held, self.connection):
            one.close()


@dataclass(slots=True)
class Edges:
    """Where a device is."""

    urls: Mapping[str, str]
    registration: Registration
    trust: Trust = NOBODY
    _visit: Visit | None = field(default=None, init=False)

    def at(self, edge: str, opened: Opened) -> Visit:
        """The session at an edge, opened when there is none; `opened` is that at the cloud pod.

        Raises:
            NoSession: the job has no such edge.
            NotAdmitted: the edge is of another version.
            OSError, http.client.HTTPException: not now; says why.
        """
        if self._visit is not None and self._visit.is_of(edge, opened):
            return self._visit
        self.leave()
        if edge not in self.urls:
            raise NoSession(f"this job has no edge {edge}")
        self._visit = self._open(edge, opened)
        return self._visit

    def _open(self, edge: str, opened: Opened) -> Visit:
        held = connect(self.urls[edge], self.trust)
        try:
            known = self.registration.without_labels()
            session = open_session(held, known, key=key_at_edge(opened.key, edge))
            try:
                connection = connect(self.urls[edge], self.trust)
            except BaseException:
                session.close()
                raise
        except BaseException:
            held.close()
            raise
        return Visit(edge, opened.number, session, held, connection)

    def leave(self) -> None:
        """Closes the session, if there is one."""
        if self._visit is not None:
            self._visit.close()
            self._visit = None
