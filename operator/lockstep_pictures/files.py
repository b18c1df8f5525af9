"""Pictures as files: PNG and SVG without a browser, or a page with zoom and tooltips.

Called by whoever has a chart and a name for its file. Invariant: the same chart gives the same
bytes, whatever was drawn before, on every machine with the same release of vl-convert (the fonts
come with it).
"""

import html
import struct
import zlib
from pathlib import Path
from typing import Literal

import vl_convert

from lockstep_pictures import embedding, theme

Kind = Literal["png", "svg", "html"]
KINDS: tuple[Kind, ...] = ("png", "svg", "html")
SUFFIXES = tuple(f".{kind}" for kind in KINDS)

_MAGIC = b"\x89PNG\r\n\x1a\n"
_PAGE_STYLE = f"""
body {{ margin: 1rem auto; max-width: 70rem; padding: 0 1rem;
  font-family: {theme.FONT}; color: {theme.INK}; background: {theme.PAPER}; }}
h1 {{ font-size: 1.2rem; }}
"""


def check_suffix(path: Path, *, option: str) -> str | None:
    """What is wrong with the name of a picture; None: it can be written."""
    if path.suffix in SUFFIXES:
        return None
    return f"{option} {path}: the name must end in one of {', '.join(SUFFIXES)}"


def kind_of(path: Path) -> Kind:
    """The kind of a file that `check_suffix` allows."""
    return next(kind for kind in KINDS if path.suffix == f".{kind}")


def rendered(picture: theme.Picture, kind: Kind, *, title: str, scale: float = 2.0) -> bytes:
    """A picture as the bytes of a file.

    Args:
        picture: the chart, of any number of plots.
        kind: `html` is a page that needs nothing but itself.
        title: the heading of a picture that has none, and of its page.
        scale: pixels of a PNG for each of the chart's.
    """
    if kind == "html":
        return _page(picture, title).encode()
    spec = theme.spec_of(picture, title=title)
    if kind == "svg":
        return vl_convert.vegalite_to_svg(spec, vl_version=embedding.VEGA_LITE).encode()
    return smaller(vl_convert.vegalite_to_png(spec, vl_version=embedding.VEGA_LITE, scale=scale))


def smaller(png: bytes) -> bytes:
    """The same picture in a third of the bytes: vl-convert packs in haste."""
    pixels, chunks, place = b"", [], len(_MAGIC)
    while place < len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        content = png[place + 8 : place + 8 + length]
        if kind == b"IDAT":
            pixels += content
        else:
            chunks.append((kind, content))
        place += length + 12
    packed = (b"IDAT", zlib.compress(zlib.decompress(pixels), 9))
    return _MAGIC + b"".join(_chunk(*one) for one in (*chunks[:-1], packed, chunks[-1]))


def _chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", crc)


def _page(picture: theme.Picture, title: str) -> str:
    spec = theme.spec_of(picture)
    text = str(spec.get("description") or title)
    body = (
        f"<main>\n<h1>{html.escape(title)}</h1>\n{embedding.plot('picture', text=text)}\n</main>\n"
        f"{embedding.drawing({'picture': spec})}"
    )
    return embedding.document(title, body, style=_PAGE_STYLE)
