"""uvicorn as a part of a process: the operator and the cloud role run it beside other work."""

from contextlib import AbstractContextManager, nullcontext

import uvicorn


class HostedServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process has one set, and ends it in order."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()
