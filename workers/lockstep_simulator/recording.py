"""Writes a simulated job down as a cloud pod does: `running` calls it for each finished round.

The files are those of `lockstep_api.records`, so that whatever reads a job's volume reads them too.
"""

from pathlib import Path

from lockstep_api.records import CLIENTS_FILE, HISTORY_FILE, ClientsRecord, RoundRecord
from lockstep_workers.cloud.history import History, most_bytes
from lockstep_workers.files import write_whole


class Recording:
    """The files of one job."""

    def __init__(self, folder: Path, clients: ClientsRecord) -> None:
        """Makes the folder; what is in its files goes.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / HISTORY_FILE).unlink(missing_ok=True)
        self._history = History(folder / HISTORY_FILE, most_bytes(folder))
        write_whole(folder / CLIENTS_FILE, clients.to_json().encode())

    def add(self, record: RoundRecord) -> None:
        """A finished round.

        Raises:
            OSError: it cannot be written.
        """
        self._history.add(record)
