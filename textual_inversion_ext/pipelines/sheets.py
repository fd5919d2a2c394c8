"""Contact sheets: a grid of pictures with labels that stay readable at any picture size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_GAP = 8  # pixels between cells and around the sheet
_SMALLEST_CELL = 160  # smaller pictures are enlarged, so that labels beside them have room
_INK = (32, 32, 32)
_PAPER = (255, 255, 255)


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
) -> Image.Image:
    """Lay pictures out in a grid.

    Pictures keep their shape. Small ones are enlarged by a whole factor with nearest-neighbour sampling, so that pixels
    stay what they were.

    Args:
        rows: Pictures, row by row; None leaves a cell empty, and rows may differ in length.
        row_labels: Text left of each row, wrapped; none or one per row.
        column_labels: Text above each column, wrapped; none or one per column.
        title: Text above everything.

    Returns:
        The sheet, RGB.

    Raises:
        ValueError: There is no picture, or a number of labels differs from the number of rows or columns.
    """
    pictures = [picture for row in rows for picture in row if picture is not None]
    columns = max((len(row) for row in rows), default=0)
    if not pictures:
        raise ValueError("A contact sheet needs at least one picture.")
    _check_labels("row_labels", row_labels, len(rows))
    _check_labels("column_labels", column_labels, columns)

    largest = max(max(picture.size) for picture in pictures)
    factor = max(1, math.ceil(_SMALLEST_CELL / largest))
    cell_width = max(picture.width for picture in pictures) * factor
    cell_height = max(picture.height for picture in pictures) * factor
    font = ImageFont.load_default(size=max(14, cell_height // 22))

    left = _GAP + (max(140, cell_width * 2 // 3) if row_labels else 0)
    right = left + columns * (cell_width + _GAP)
    headline = _wrap(title, font, right - 2 * _GAP)
    heads = [_wrap(label, font, cell_width) for label in column_labels]
    title_bottom = _GAP + (_height(headline, font) + _GAP if title else 0)
    top = title_bottom + (max(_height(head, font) for head in heads) + _GAP if heads else 0)

    # A long label in a narrow column of small pictures may need more height than its row of pictures has.
    sides = [_wrap(label, font, left - 2 * _GAP) for label in row_labels] or [""] * len(rows)
    heights = [max(cell_height, _height(side, font)) for side in sides]
    sheet = Image.new("RGB", (right, top + sum(heights) + _GAP * len(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((_GAP, _GAP), headline, fill=_INK, font=font)
    for column, head in enumerate(heads):
        draw.multiline_text((left + column * (cell_width + _GAP), title_bottom), head, fill=_INK, font=font)
    y = top
    for row, side, height in zip(rows, sides, heights, strict=True):
        draw.multiline_text((_GAP, y), side, fill=_INK, font=font)
        for column, picture in enumerate(row):
            if picture is not None:
                sheet.paste(_enlarged(picture, factor), (left + column * (cell_width + _GAP), y))
        y += height + _GAP
    return sheet


def _check_labels(name: str, labels: Sequence[str], count: int) -> None:
    if labels and len(labels) != count:
        raise ValueError(f"{name} has {len(labels)} entries for {count} in the grid; give one each, or none.")


def _enlarged(picture: Image.Image, factor: int) -> Image.Image:
    picture = picture.convert("RGB")
    if factor == 1:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _height(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    box = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font=font)
    return math.ceil(box[3])


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Break lines between words, and inside words that are wider than the line."""
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".strip()
        if font.getlength(candidate) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(lines)
