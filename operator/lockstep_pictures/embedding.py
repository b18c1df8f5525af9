"""How pictures get into a page: the libraries once, each picture's spec as data, drawn on opening.

Used by `files` (a page of one picture) and `page` (a report). Invariant: a page needs nothing but
itself, asks no server for anything, and no text that it was given becomes markup or program.
"""

import functools
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""The Vega-Lite that Altair writes, as vl-convert names it."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src {connect}; base-uri 'none'; form-action 'none'"
)
"""What a browser lets the page do; Vega makes functions of a picture's expressions."""

STYLE = """
.plot { width: 100%; max-width: 100%; overflow: hidden; }
.plot.vega-embed, .plot.vega-embed.has-actions { display: block; padding-right: 0; }
.plot svg { max-width: 100%; height: auto; }
.plot.vega-embed summary { opacity: 0; }
.plot.vega-embed:hover summary, .plot.vega-embed summary:focus { opacity: 0.8; }
#vg-tooltip-element { font-family: inherit; font-size: 12px; max-width: 22rem; }
#vg-tooltip-element td.value { overflow-wrap: anywhere; }
"""

ZOOM = "zoom"
"""In a picture's `usermeta`: the channels that people may move and enlarge on a page."""

_DRAW = """
const embedded = {actions: {export: true, source: false, compiled: false, editor: false},
                  renderer: "svg", tooltip: {theme: "light"}};
function specs() { return JSON.parse(document.getElementById("pictures").textContent); }
async function drawPicture(plot, spec) {
  const drawn = await vegaEmbed(plot, spec, embedded);
  plot.dataset.drawn = "yes";
  return drawn;
}
async function drawAll() {
  const all = specs();
  const plots = [...document.querySelectorAll(".plot[data-picture]")];
  await Promise.all(plots.map((plot) => drawPicture(plot, all[plot.dataset.picture])));
}
const drawn = drawAll();
"""


@functools.cache
def libraries() -> str:
    """Vega, Vega-Lite and vega-embed in one script, as large as 0.9 MB."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)


def fitting(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A picture for a page: one plot becomes as wide as its place; several keep their widths."""
    if any(kind in spec for kind in ("hconcat", "vconcat", "concat", "facet", "repeat")):
        return dict(spec)
    size = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
    rest = {key: value for key, value in spec.items() if key != "usermeta"}
    return _movable({**rest, **size}, spec.get("usermeta", {}).get(ZOOM, []))


def _movable(spec: dict[str, Any], channels: Sequence[str]) -> dict[str, Any]:
    """A plot that can be dragged, and enlarged by the wheel while Alt is down: pages scroll too."""
    if not channels:
        return spec
    select = {"type": "interval", "encodings": list(channels), "zoom": "wheel![event.altKey]"}
    zoom = [{"name": "zoom", "select": select, "bind": "scales"}]
    if "layer" not in spec:
        return {**spec, "params": zoom}
    first, *others = spec["layer"]
    return {**spec, "layer": [{**first, "params": zoom}, *others]}


def plot(name: str, *, text: str) -> str:
    """The place of a picture in a page; `text` says what is seen to who does not see it."""
    label = html.escape(text, quote=True)
    return f'<div class="plot" data-picture="{html.escape(name, quote=True)}" role="img"' + (
        f' aria-label="{label}"></div>'
    )


def drawing(pictures: Mapping[str, Mapping[str, Any]], *, script: str = "") -> str:
    """What goes to a page's end: the pictures' specs, the libraries, and what draws them."""
    specs = {name: fitting(spec) for name, spec in pictures.items()}
    return (
        f'<script type="application/json" id="pictures">{as_data(specs)}</script>\n'
        f"<script>{libraries()}</script>\n<script>{_DRAW}{script}</script>\n"
    )


def as_data(value: Any) -> str:
    """JSON that may stand in a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def document(title: str, body: str, *, style: str = "", connect: str = "'none'") -> str:
    """A whole page; `body` is markup, `title` is text."""
    policy = html.escape(POLICY.format(connect=connect), quote=True)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )
