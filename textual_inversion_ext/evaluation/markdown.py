"""Markdown that says exactly what it was given: tokens and prompts are other people's text."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

# Anywhere in a line; a colon only where it could begin an emoji's name, so that addresses stay whole.
_SPECIAL = re.compile(r"[\\`*_\[\]|~$@]|:(?=\w)")
# At its beginning: headings, lists.
_OPENING = re.compile(r"^(\d*)([#+.)-])(?=\D|$)")


def escaped(text: str) -> str:
    """Write a text so that Markdown and the HTML in it show it as it is.

    Args:
        text: Any text.

    Returns:
        One line of Markdown that shows the text; control characters are left out.
    """
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "" for c in text).split())
    # Punctuation first: what becomes an entity must not get a backslash into it.
    line = _OPENING.sub(r"\1\\\2", _SPECIAL.sub(r"\\\g<0>", line))
    return html.escape(line, quote=False)


def score_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table.

    Args:
        head: Its column heads; any text.
        rows: Its cells; any text.

    Returns:
        The table, first column to the left, the others to the right.
    """
    cells = [[escaped(cell) for cell in line] for line in (head, *rows)]
    lines = [cells[0], [":--", *["--:"] * (len(head) - 1)], *cells[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bulleted(lines: Sequence[str]) -> str:
    """A list.

    Args:
        lines: Its entries; any text.

    Returns:
        The list.
    """
    return "\n".join(f"- {escaped(line)}" for line in lines)
