"""Report pages in a real Chromium: drawn, hovered, moved, narrow and wide, and while a job runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.keys import Keys

from lockstep_api.status import FederatedJobStatus, Phase
from lockstep_pictures.figures import JobParts, figures_of
from lockstep_pictures.page import page
from lockstep_pictures.report import Made, comparison_of, report_of
from tests.support import recorded
from tests.support.chromium import Browser, chromium
from tests.support.pictured import Job

pytestmark = pytest.mark.slow

MADE = Made(when="2026-01-02 03:04 UTC", versions={"lockstep": "1.2.3"})
_DRAWN = """
return [...document.querySelectorAll(".plot[data-picture]")].map((plot) => {
  const svg = plot.querySelector("svg.marks");
  const shapes = [...plot.querySelectorAll(".role-mark path, .role-mark text")];
  return {
    name: plot.dataset.picture,
    width: svg ? svg.getBoundingClientRect().right - plot.getBoundingClientRect().right : 1e9,
    marks: shapes.filter((one) => one.getBBox().width + one.getBBox().height > 0).length,
  };
});
"""
"""Each plot: by how much it is too wide, and how many marks it has."""
_BEYOND = """
const wide = document.documentElement.clientWidth;
const shown = [...document.querySelectorAll("main *")]
  .filter((one) => !one.closest(".table, pre, svg, .vega-embed details"))
  .map((one) => Math.round(one.getBoundingClientRect().right));
return Math.max(document.documentElement.scrollWidth, ...shown) - wide;
"""
"""By how much something is wider than the window."""
_CUT_OFF = """
return [...document.querySelectorAll(".table")]
  .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.ariaLabel);
"""
"""Tables that are wider than their place."""
_PAPER = 718
"""A4 within its margins, in pixels."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as one:
        yield one


def report(job: recorded.Recorded) -> str:
    parts = JobParts(
        name=job.name,
        spec=job.spec,
        clients=job.clients,
        status=FederatedJobStatus(phase=Phase.COMPLETED),
        manifest="kind: FederatedJob\n" + f"  long: {'x' * 300}\n",
    )
    return page(report_of(figures_of(parts, job.records), made=MADE))


def many() -> str:
    job = Job(devices=1000, rounds=40, summaries=30, clusters=6)
    return page(report_of(job.figures(), made=MADE))


def compared() -> str:
    jobs = [Job(name="a", rounds=60).figures(), Job(name="b-" + "long" * 10, rounds=9).figures()]
    return page(comparison_of(jobs, made=MADE))


PAGES = {
    "federated": lambda: report(recorded.federated()),
    "split": lambda: report(recorded.split()),
    "many": many,
    "compared": compared,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {name: folder / f"{name}.html" for name in PAGES}
    for name, path in made.items():
        path.write_text(PAGES[name](), encoding="utf-8")
    return made


def test_pages_are_drawn_whole_in_windows_of_any_width(
    browser: Browser, files: dict[str, Path]
) -> None:
    for name, path in files.items():
        for width in (1280, 400):
            browser.sized(width).open(path.as_uri())
            where = f"{name}, {width} pixels"
            found = browser.run(_DRAWN)
            assert len(found) == path.read_text().count('class="plot"'), where
            assert [one for one in found if not one["marks"] or one["width"] > 1] == [], where
            assert browser.run(_BEYOND) <= 0, where
            browser.shoot(f"{name}-{width}")
            assert browser.complaints() == [], where


def test_nothing_is_cut_off_in_print(browser: Browser, files: dict[str, Path]) -> None:
    for name in ("compared", "split"):
        browser.sized(_PAPER).open(files[name].as_uri())
        browser.printing(True)
        assert browser.run(_BEYOND) <= 0, name
        assert browser.run(_CUT_OFF) == [], name
        browser.shoot(f"{name}-print")
        browser.printing(False)


def test_hovering_a_mark_tells_its_figures(browser: Browser, files: dict[str, Path]) -> None:
    browser.sized(1280).open(files["federated"].as_uri())
    marks = {
        '[data-picture="accuracy-round"] .mark-symbol path': "accuracy on held-out data",
        '[data-picture="frequencies"] .mark-rect path': "had, GHz",
    }
    for selector, told in marks.items():
        mark = browser.find(selector)
        browser.run("arguments[0].scrollIntoView({block: 'center'})", mark)
        browser.actions().move_to_element(mark).perform()
        browser.when("document.querySelector('#vg-tooltip-element.visible') !== null")
        assert told in browser.find("#vg-tooltip-element").text
    assert browser.complaints() == []


def test_the_wheel_enlarges_a_plot_only_with_alt(browser: Browser, files: dict[str, Path]) -> None:
    browser.sized(1280).open(files["compared"].as_uri())
    plot = browser.find('[data-picture="accuracy-round"]')
    browser.run("arguments[0].scrollIntoView({block: 'center'})", plot)
    texts = "document.querySelectorAll('[data-picture=\"accuracy-round\"] .role-axis-label text')"
    axis = f"[...{texts}].map((one) => one.textContent).join()"
    before = browser.run(f"return {axis}")
    origin = ScrollOrigin.from_element(plot)
    browser.actions().key_down(Keys.ALT).scroll_from_origin(origin, 0, -400).key_up(
        Keys.ALT
    ).perform()
    browser.when(f"{axis} !== '{before}'")
    enlarged, place = browser.run(f"return {axis}"), browser.run("return scrollY")
    browser.run("addEventListener('scroll', () => document.body.dataset.scrolled = 'yes')")
    browser.actions().scroll_from_origin(origin, 0, 200).perform()
    browser.when("document.body.dataset.scrolled === 'yes'")
    assert browser.run("return scrollY") > place
    assert browser.run(f"return {axis}") == enlarged


@contextmanager
def served(answer: dict[str, str]) -> Iterator[str]:
    """A server whose page can be changed."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer["page"].encode() if self.path == "/" else b""
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_a_live_page_takes_over_what_changed_in_its_place(browser: Browser) -> None:
    def stands(rounds: int, phase: Phase) -> str:
        job = Job(rounds=9)
        records = job.records()[:rounds]
        figures = figures_of(job.parts(status=FederatedJobStatus(phase=phase)), records)
        return page(report_of(figures, made=MADE), live=True, every_s=0.05)

    answer = {"page": stands(3, Phase.RUNNING)}
    with served(answer) as address:
        browser.sized(1280).open(address)
        marks = "document.querySelectorAll('svg.marks')"
        browser.run(f"{marks}.forEach((one) => one.dataset.old = '1')")
        browser.run("scrollTo(0, 700); document.querySelector('main').dataset.old = '1'")
        answer["page"] = stands(4, Phase.RUNNING)
        browser.when("document.querySelector('dl').textContent.includes('4 of 9')")
        points = "document.querySelectorAll('[data-picture=\"accuracy-round\"] .mark-symbol path')"
        browser.when(f"{points}.length === 4")
        assert browser.run("return scrollY") == 700
        labels = browser.find('[data-picture="labels"] svg.marks')
        assert labels.get_attribute("data-old") == "1"
        answer["page"] = stands(9, Phase.COMPLETED)
        browser.when("document.getElementById('live').textContent === 'ended'")
        assert "9 of 9" in browser.find("dl").text
        browser.when(f"{points}.length === 9")
    assert browser.complaints() == []


def test_a_live_page_says_that_nobody_answers(browser: Browser) -> None:
    content = report_of(Job().figures(status=FederatedJobStatus(phase=Phase.RUNNING)), made=MADE)
    with served({"page": page(content, live=True, every_s=0.05)}) as address:
        browser.sized(1280).open(address)
    browser.when("document.getElementById('live').textContent.startsWith('no answer')")
    assert "accuracy" in browser.find("main").text.lower()
    browser.complaints()  # each question without an answer is one
