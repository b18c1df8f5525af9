"""The file in which a device keeps what its strategy remembers, whole or not at all.

Used by `device.loop`. It lies in a folder that outlives the container, not the pod: a pod that is
made anew begins without memory, and its reports say so. A strategy that remembers nothing leaves no
file. Written before the update is sent, so that no update counts whose memory could be missing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
import torch
from safetensors import SafetensorError, safe_open

from lockstep_workers.files import write_whole
from lockstep_workers.learning.memory import Memories
from lockstep_workers.learning.strategy import ClientMemory
from lockstep_workers.tensors import header

FORMAT = "lockstep-memory/1"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFile:
    """The memory of one client of one job."""

    folder: Path
    uid: str
    """UID of the job: another one's memory is none of ours."""
    client: str
    names: tuple[str, ...]
    """The vectors that the strategy remembers."""
    n_values: int
    """Values of each."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / f"{self.uid}.{self.client}.safetensors"

    def read(self) -> Memories:
        """What is there; a file that is missing, damaged or of something else is no memory."""
        if not self.names or not self.path.exists():
            return Memories()
        try:
            memories = self._read()
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("memory cannot be read", file=str(self.path), why=str(error))
            return Memories()
        _log.info("memory found", rounds=sorted(memories.versions))
        return memories

    def write(self, memories: Memories) -> None:
        """Writes all versions; on a full disk they are in this process only, and that is logged."""
        if not self.names:
            return
        vectors = {
            f"{number}/{name}": memory.vectors[name].numpy()
            for number, memory in memories.versions.items()
            for name in self.names
        }
        head = header({name: v.shape for name, v in vectors.items()}, self._metadata(memories))
        pieces = (np.ascontiguousarray(v, np.float32).data.cast("B") for v in vectors.values())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, head, *pieces)
        except OSError as error:
            _log.warning("memory not written", file=str(self.path), why=str(error))

    def _metadata(self, memories: Memories) -> dict[str, str]:
        numbers = {str(n): dict(memory.numbers) for n, memory in memories.versions.items()}
        known = {"format": FORMAT, "uid": self.uid, "client": self.client}
        return known | {"numbers": json.dumps(numbers)}

    def _read(self) -> Memories:
        with safe_open(self.path, framework="numpy") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            owner = [metadata.get(key) for key in ("format", "uid", "client")]
            if owner != [FORMAT, self.uid, self.client]:
                raise ValueError(f"it is of {owner}")
            numbers = json.loads(metadata["numbers"])
            versions = {}
            for number, told in numbers.items():
                vectors = {name: file.get_tensor(f"{number}/{name}") for name in self.names}
                if any(v.shape != (self.n_values,) for v in vectors.values()):
                    raise ValueError(f"expected vectors of {self.n_values} values")
                owned = {name: torch.from_numpy(vector) for name, vector in vectors.items()}
                versions[int(number)] = ClientMemory(owned, told)
        return Memories(versions)
