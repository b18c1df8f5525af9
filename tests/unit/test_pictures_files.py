"""Pictures as files: each kind, repeatable, whole in itself; texts that look like markup."""

import io
import json
import re
from pathlib import Path

import altair as alt
import pytest
import vl_convert
from PIL import Image

from lockstep_pictures import embedding, files, rows, theme


def chart(count: int = 3) -> alt.Chart:
    values = [{"a": place, "b": place / 3} for place in range(count)]
    lines: alt.Chart = alt.Chart(rows.data(values)).mark_line().encode(x="a:Q", y="b:Q")
    return lines


@pytest.mark.parametrize("kind", files.KINDS)
def test_a_picture_has_the_same_bytes_each_time(kind: files.Kind) -> None:
    first = files.rendered(chart(), kind, title="one")
    alt.layer(chart(), chart()).interactive().to_dict()  # counts Altair's own names on
    assert files.rendered(chart(), kind, title="one") == first


def test_a_png_is_packed_again_and_stays_the_same_picture() -> None:
    spec = theme.spec_of(chart(), title="t")
    hasty = vl_convert.vegalite_to_png(spec, vl_version=embedding.VEGA_LITE, scale=2)
    packed = files.smaller(hasty)
    assert len(packed) < len(hasty)
    before, after = (Image.open(io.BytesIO(one)) for one in (hasty, packed))
    assert before.size == after.size
    assert before.tobytes() == after.tobytes()
    assert files.rendered(chart(), "png", title="t") == packed


def test_a_page_needs_nothing_but_itself() -> None:
    page = files.rendered(chart(), "html", title="a <job> & more").decode()
    assert page.startswith("<!doctype html>")
    assert "<title>a &lt;job&gt; &amp; more</title>" in page
    markup = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r'<[^>]*(?:src|href)="(?!#)[^"]*"', markup) == []
    assert "default-src 'none'" in page.replace("&#x27;", "'")


def test_data_of_a_page_cannot_end_its_script() -> None:
    text = embedding.as_data({"name": "</script><script>alert(1)</script><!--"})
    assert "<" not in text
    assert ">" not in text
    assert json.loads(text) == {"name": "</script><script>alert(1)</script><!--"}


def test_a_plot_fills_its_place_on_a_page_and_several_keep_their_widths() -> None:
    assert embedding.fitting(theme.spec_of(chart()))["width"] == "container"
    assert "width" not in embedding.fitting(theme.spec_of(chart() | chart()))


@pytest.mark.parametrize(("name", "fine"), [("a.png", True), ("a.pdf", False), ("png", False)])
def test_other_kinds_of_files_are_refused(name: str, fine: bool) -> None:
    problem = files.check_suffix(Path(name), option="--plot")
    assert (problem is None) is fine
    if problem:
        assert problem == f"--plot {name}: the name must end in one of .png, .svg, .html"


@pytest.mark.parametrize("kind", files.KINDS)
def test_the_kind_of_a_file_is_its_suffix(kind: files.Kind) -> None:
    assert files.kind_of(Path(f"run.{kind}")) == kind


def test_what_is_not_finite_is_left_empty() -> None:
    values = rows.data([{"a": float("nan"), "b": float("inf"), "c": 1.23456789, "d": "x"}])
    assert values.values == [{"a": None, "b": None, "c": 1.2346, "d": "x"}]


def test_few_of_many_keep_the_first_and_the_last() -> None:
    assert rows.few(list(range(10)), 4) == [0, 3, 6, 9]
    assert rows.few([1, 2], 4) == [1, 2]
    assert rows.few([1, 2, 3], 1) == [3]


@pytest.mark.parametrize(("count", "most"), [(1, 5), (5, 5), (17, 5), (1000, 60)])
def test_shares_hold_everything_once(count: int, most: int) -> None:
    found = rows.shares(count, most)
    assert [place for begin, end in found for place in range(begin, end)] == list(range(count))
    assert len(found) == min(count, most)


def test_many_lines_differ_in_more_than_colour() -> None:
    names = [f"n{place}" for place in range(28)]
    colours, dashes = theme.colour_scale(names), theme.dash_scale(names)
    looks = {
        (colour, tuple(dash)) for colour, dash in zip(colours.range, dashes.range, strict=True)
    }
    assert len(looks) == 28
