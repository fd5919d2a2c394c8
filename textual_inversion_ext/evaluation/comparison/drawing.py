"""A drawing of lines, marks and text, written as SVG (for pages) and as PNG (to share) from one list of parts.

A scatter plot needs no plotting library: what makes one worth its size (axes, legends, formats) is not used here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any, Literal, TypeAlias

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Drawing", "Line", "Mark", "Part", "Shape", "Text", "text_width"]

Anchor = Literal["start", "middle", "end"]
Shape = Literal["disc", "diamond"]

_SCALE = 2  # pixels of the PNG per unit; screens and slides are finer than a page's units
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line.

    Attributes:
        start: Its beginning; x to the right, y downwards.
        end: Its end.
        colour: "#rrggbb".
        width: In units.
        dashed: Whether it is broken.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    colour: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text.

    Attributes:
        place: Where its baseline is anchored.
        text: The text.
        size: Of the font, in units.
        colour: "#rrggbb".
        anchor: Which part of the text lies there.
        upwards: Whether it is turned a quarter to the left.
        halo: Whether a white rim keeps it readable above lines.
    """

    place: tuple[float, float]
    text: str
    size: float
    colour: str
    anchor: Anchor = "start"
    upwards: bool = False
    halo: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of data.

    Attributes:
        place: Its middle.
        radius: In units.
        colour: "#rrggbb".
        shape: A filled disc, or a hollow diamond.
        title: What a browser shows under the pointer.
    """

    place: tuple[float, float]
    radius: float
    colour: str
    shape: Shape = "disc"
    title: str = ""


Part: TypeAlias = "Line | Text | Mark"


@dataclass(frozen=True, slots=True)
class Drawing:
    """Parts on white paper, later ones above earlier ones.

    Attributes:
        width: In units.
        height: In units.
        parts: What is drawn.
        title: What it shows, for those who cannot see it.
    """

    width: int
    height: int
    parts: Sequence[Part]
    title: str = ""

    def to_svg(self) -> str:
        """Write it as an ``<svg>`` element for a page; text is escaped."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img"'
            f' aria-label="{escape(self.title)}" font-family="system-ui, sans-serif">'
        )
        return "\n".join([head, *(_svg(part) for part in self.parts), "</svg>"])

    def to_png(self) -> bytes:
        """Write it as a PNG file, twice as fine as its units."""
        page = Image.new("RGB", (self.width * _SCALE, self.height * _SCALE), "#ffffff")
        draw = ImageDraw.Draw(page)
        for part in self.parts:
            _paint(part, page, draw)
        data = io.BytesIO()
        page.save(data, "PNG")
        return data.getvalue()


def text_width(text: str, size: float) -> float:
    """Measure a line of text as the PNG shows it.

    Args:
        text: The text.
        size: Of the font, in units.

    Returns:
        Its width in units.
    """
    return float(_font(size).getlength(text)) / _SCALE


@cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=round(size * _SCALE))


def _svg(part: Part) -> str:
    if isinstance(part, Line):
        (x1, y1), (x2, y2) = part.start, part.end
        dashes = ' stroke-dasharray="6 5"' if part.dashed else ""
        return (
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{part.colour}"'
            f' stroke-width="{part.width:g}"{dashes}/>'
        )
    x, y = part.place
    if isinstance(part, Text):
        more = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if part.upwards else ""
        more += ' stroke="#ffffff" stroke-width="3" paint-order="stroke"' if part.halo else ""
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{part.size:g}" fill="{part.colour}"'
            f' text-anchor="{part.anchor}"{more}>{escape(part.text)}</text>'
        )
    title = f"<title>{escape(part.title)}</title>" if part.title else ""
    if part.shape == "disc":
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{part.radius:g}" fill="{part.colour}" stroke="#ffffff"'
            f' stroke-width="1.5">{title}</circle>'
        )
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in _diamond(part))
    return f'<polygon points="{points}" fill="#ffffff" stroke="{part.colour}" stroke-width="2">{title}</polygon>'


def _diamond(mark: Mark) -> list[tuple[float, float]]:
    (x, y), r = mark.place, mark.radius
    return [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]


def _paint(part: Part, page: Image.Image, draw: ImageDraw.ImageDraw) -> None:
    if isinstance(part, Line):
        for start, end in _dashes(part) if part.dashed else [(part.start, part.end)]:
            draw.line([_pixel(start), _pixel(end)], fill=part.colour, width=round(part.width * _SCALE))
    elif isinstance(part, Text):
        _paint_text(part, page, draw)
    elif part.shape == "disc":
        (x, y), radius = _pixel(part.place), part.radius * _SCALE
        draw.circle((x, y), radius, fill=part.colour, outline="#ffffff", width=_SCALE)
    else:
        draw.polygon([_pixel(point) for point in _diamond(part)], fill="#ffffff", outline=part.colour, width=2 * _SCALE)


def _pixel(place: tuple[float, float]) -> tuple[float, float]:
    return place[0] * _SCALE, place[1] * _SCALE


def _dashes(line: Line) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Cut a line into dashes of 6 units with gaps of 5, as its SVG has them."""
    (x1, y1), (x2, y2) = line.start, line.end
    length = math.hypot(x2 - x1, y2 - y1)

    def at(distance: float) -> tuple[float, float]:
        share = min(1.0, distance / length)
        return x1 + (x2 - x1) * share, y1 + (y2 - y1) * share

    return [(at(11.0 * number), at(11.0 * number + 6)) for number in range(math.ceil(length / 11))]


def _paint_text(part: Text, page: Image.Image, draw: ImageDraw.ImageDraw) -> None:
    font = _font(part.size)
    if not part.upwards:
        rim: dict[str, Any] = {"stroke_width": _SCALE, "stroke_fill": "#ffffff"} if part.halo else {}
        draw.text(_pixel(part.place), part.text, fill=part.colour, font=font, anchor=_ANCHORS[part.anchor], **rim)
        return
    left, top, right, bottom = (math.floor(side) for side in font.getbbox(part.text))
    strip = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(strip).text((1 - left, 1 - top), part.text, fill=255, font=font)
    strip = strip.rotate(90, expand=True)
    x, y = (round(side) for side in _pixel(part.place))
    offset = {"start": strip.height, "middle": strip.height // 2, "end": 0}[part.anchor]
    page.paste(part.colour, (x - strip.width, y - offset), strip)
