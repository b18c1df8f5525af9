"""A port of the cluster on this machine, as `kubectl port-forward` brings it."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster import api


@contextmanager
def forwarded(namespace: str, target: str, port: int) -> Iterator[int]:
    """The local port of a pod's or Service's; each connection goes to one pod, chosen now."""
    words = ("-n", namespace, "port-forward", target, f":{port}", "--address=127.0.0.1")
    argv = (str(api.tools() / "kubectl"), f"--kubeconfig={api.kubeconfig()}", *words)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        try:
            assert run.stdout is not None
            said = run.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", said)
            assert found, said
            yield int(found[1])
        finally:
            run.kill()
