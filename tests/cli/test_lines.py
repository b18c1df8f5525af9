"""Lines of a log, and things that are followed, whose senders may have no end."""

import json
import threading
from collections.abc import Iterator
from itertools import chain, count, islice, repeat

import pytest

from lockstep_api.records import MOST_HISTORY_BYTES
from lockstep_cli.cluster import Cluster, Request
from lockstep_cli.commands.logs import in_order
from lockstep_cli.feed import MOST, Ended, Feed
from lockstep_cli.lines import lines_of
from lockstep_cli.log_lines import Asked
from lockstep_cli.pods import Pod
from lockstep_cli.records import rounds_of
from tests.support.cli import pod


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pieces_become_lines_wherever_they_are_torn(size: int) -> None:
    said = b"one\n\nthree and more\r\nlast"
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    assert list(lines_of(pieces)) == said.split(b"\n")
    assert list(lines_of([*pieces, b"\n"])) == said.split(b"\n")
    cut = [b"one", b"", b"thre ... (cut)", b"last"]
    assert list(lines_of(pieces, most=4)) == cut


def test_a_line_without_end_is_shown_cut_before_it_ends() -> None:
    pieces = chain(repeat(b"x", 5), repeat(b"y", 100), [b"\nnext\n"])
    lines = lines_of(pieces, most=4)
    assert next(lines) == b"xxxx ... (cut)"
    assert next(pieces) == b"y"
    assert list(lines) == [b"next"]


class Speaking(Cluster):
    """A cluster whose one pod has said very much."""

    said = 0
    closed_after = 0
    most: int | None = None

    def close(self) -> None:
        """It has nothing open."""

    def lines(
        self, request: Request, *, silence_s: float = 0, most: int | None = None
    ) -> Iterator[bytes]:
        """Its log."""
        Speaking.most = most
        try:
            for number in range(100_000):
                Speaking.said = number + 1
                yield b"2026-01-01T00:00:%05d %d" % (number, number)
        finally:
            Speaking.closed_after = Speaking.said


def test_a_long_log_is_printed_while_it_is_read() -> None:
    asked, cluster = Asked(), Speaking(None, "lab")
    running = Pod(pod("digits-cloud-0", "cloud"))
    lines = in_order(cluster, [running], asked=asked)
    assert [line.text for line in islice(lines, 3)] == ["0", "1", "2"]
    assert Speaking.said < 10_000
    assert Speaking.most == 64 << 10
    lines.close()  # type: ignore[attr-defined]
    assert Speaking.closed_after == Speaking.said < 10_000


def test_a_source_that_is_faster_than_the_command_waits_for_it() -> None:
    feed, waiting, held = Feed(Speaking(None, "lab")), threading.Event(), []

    def things() -> Iterator[int]:
        for number in range(10 * MOST):
            held.append(feed.items.qsize())
            if number == MOST:
                waiting.set()
            yield number

    feed.add("source", things)
    waiting.wait()
    while not isinstance(feed.next(), Ended):
        pass
    assert max(held) <= MOST


def test_a_source_that_waits_for_room_ends_when_nobody_follows_any_more() -> None:
    feed, waiting = Feed(Speaking(None, "lab")), threading.Event()

    def things() -> Iterator[int]:
        for number in count():
            if number == MOST:
                waiting.set()
            yield number

    feed.add("source", things)
    waiting.wait()
    feed.close()
    for thread in feed.threads:
        thread.join()


def test_a_round_longer_than_a_cloud_pod_writes_it_is_passed_over() -> None:
    told = {"round": 1, "planned": True, "seconds": 1, "elapsed_seconds": 1, "updates": 1}
    energy = {"model": 1.0}
    line = json.dumps({**told, "missing": 0, "refused": {}, "energy_joules": energy}).encode()
    longer = line.ljust(MOST_HISTORY_BYTES // 4 + 1)
    assert [one.round for one in rounds_of([line, longer])] == [1]
