"""In which threads files are read."""

import threading
from typing import Any

import pytest


def threads_of(monkeypatch: pytest.MonkeyPatch, kind: Any) -> list[threading.Thread]:
    """The threads that from now on call a class's `from_bytes`."""
    seen: list[threading.Thread] = []
    read = kind.from_bytes

    def noted(content: bytes, **more: Any) -> Any:
        seen.append(threading.current_thread())
        return read(content, **more)

    monkeypatch.setattr(kind, "from_bytes", noted)
    return seen
