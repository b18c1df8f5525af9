"""`lockstep dashboard`: a page for this machine alone, made anew while its job runs."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from lockstep_cli.cluster import Where, connect
from lockstep_cli.commands.dashboard import Followed
from lockstep_cli.errors import CliError, Unreachable
from lockstep_cli.serving import HOST, OLD_S, Kept, server_of
from tests.support.apiserver import running
from tests.support.cli import Lockstep
from tests.support.patience import PATIENCE_S
from tests.support.recorded import federated, plain
from tests.support.volumes import Files, Kubelet, mounted, with_cloud_pod, with_volume


@dataclass
class Source:
    """Pages that a test makes."""

    text: str = "first"
    ended: bool = False
    trouble: str = ""
    made: int = 0
    now_s: float = 0.0
    told: list[str] = field(default_factory=list)

    def make(self) -> tuple[str, bool]:
        """The page."""
        self.made += 1
        if self.trouble:
            raise Unreachable(self.trouble)
        return self.text, self.ended

    def kept(self) -> Kept:
        """The page as it is served, made once."""
        kept = Kept(self.make, self.told.append, clock=lambda: self.now_s)
        kept.first()
        return kept


def test_a_page_is_made_anew_once_it_is_old() -> None:
    source = Source()
    kept = source.kept()
    source.text = "second"
    source.now_s = OLD_S - 0.1
    assert kept.page() == b"first"
    source.now_s = OLD_S
    assert kept.page() == b"second"
    assert kept.page() == b"second"
    assert source.made == 2


def test_a_page_of_a_job_that_has_ended_is_made_no_more() -> None:
    source = Source(ended=True)
    kept = source.kept()
    source.now_s = 10 * OLD_S
    assert kept.page() == b"first"
    assert source.made == 1


def test_what_goes_wrong_is_told_once_and_leaves_the_page() -> None:
    source = Source()
    kept = source.kept()
    source.trouble = "no answer"
    for _ in range(3):
        source.now_s += OLD_S
        assert kept.page() == b"first"
    assert source.told == ["the page stays as it was: no answer"]


@contextmanager
def served(source: Source) -> Iterator[int]:
    """Its port."""
    with server_of(source.kept(), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def asked(port: int, path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
    connection.request(
        "GET", path, headers={key.replace("_", "-"): v for key, v in headers.items()}
    )
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_page_is_served_and_costs_nothing_when_it_is_known() -> None:
    with served(Source()) as port:
        code, headers, content = asked(port)
        assert (code, content) == (200, b"first")
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert asked(port, If_None_Match=headers["ETag"])[::2] == (304, b"")


@pytest.mark.parametrize(
    ("path", "host", "code"),
    [("/", "evil.example", 403), ("/etc/passwd", "localhost", 404), ("/?x=1", "localhost", 200)],
)
def test_nothing_else_is_served_and_no_other_name(path: str, host: str, code: int) -> None:
    with served(Source()) as port:
        assert asked(port, path, Host=f"{host}:{port}")[0] == code


def test_a_port_that_is_taken_is_told() -> None:
    with served(Source()) as port, pytest.raises(CliError, match="choose another with --port"):
        server_of(Source().kept(), port)


# -- of a job -----------------------------------------------------------------------------------


def test_the_volume_is_read_again_only_when_a_round_has_finished(
    lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = federated()
    with running(Kubelet()) as api:
        body = with_volume(api, of.name, **plain(of.spec))
        with_cloud_pod(api, of.name)
        files = history(monkeypatch, 1)
        state = {"phase": "Running", "round": 1}
        api.put("federatedjobs", {**body, "status": state})
        config = api.kubeconfig(lockstep.kubeconfig.parent)
        followed = Followed(connect(Where(kubeconfig=config)), of.name, None)
        first, ended = followed.page()
        assert not ended
        assert followed.page() == (first, False)
        assert len(files.read) == 2  # history and clients
        again = history(monkeypatch, 2)
        api.put("federatedjobs", {**body, "status": {**state, "round": 2}})
        second, _ = followed.page()
        assert second != first
        assert len(again.read) == 2
        api.put("federatedjobs", {**body, "status": {"phase": "Completed", "round": 2}})
        assert followed.page()[1]


def history(monkeypatch: pytest.MonkeyPatch, rounds: int) -> Files:
    of = federated()
    lines = "".join(f"{one.to_json()}\n" for one in of.records[:rounds])
    return mounted(monkeypatch, history__jsonl=lines.encode())
