"""Untrusted text made safe for the place where it is written: Markdown, HTML, Python, addresses.

Markdown that is safe has the type `Markdown`; everything else counts as untrusted. YAML is not here: the metadata are
written by `huggingface_hub` with PyYAML, which quotes whatever needs it; `whole` only takes out what no file can hold.

The rules are CommonMark's and those of GitHub's tables (https://github.github.com/gfm/), which the Hub renders.
"""

from __future__ import annotations

import html
import re
import unicodedata
from urllib.parse import quote

__all__ = ["Markdown", "address", "code", "fenced", "html_text", "one_line", "python_string", "text", "whole"]

# Zero-width joiner and non-joiner belong to emoji and to several scripts.
_JOINERS = "\u200c\u200d"
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "\\": "&#92;", "$": "&#36;"}
_BACKSLASHED = "`*_[]~"
# What makes a heading, a list, a quotation or a rule of a line that begins with it.
_LINE_START = re.compile(r"(?:[#+=:-]+|(\d{1,9})[.)])(?=\s|$)")
# What renderers turn into links without being asked; an invisible word joiner in it stops them.
_BARE_LINK = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=\w@)(?=\w)", re.IGNORECASE)
# Renderers disagree about a bar in a table's code, and the Hub looks for formulas before it looks for code
# (https://huggingface.co/docs/hub/model-cards, "Can I write LaTeX in my model card?").
_UNSURE_IN_CODE = re.compile(r"\||\$\$|\\\(|\\\[")
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_REPLACED = {ord("\0"): "\ufffd", 0x85: "\n", 0x2028: "\n", 0x2029: "\n"}
_WORD_JOINER = "\u2060"


class Markdown(str):
    """Markdown that may be written as it is."""

    __slots__ = ()


def whole(value: str) -> str:
    """Replaces what a file of YAML cannot hold: halves of surrogate pairs, NUL, and line ends that only some know.

    Args:
        value: Any text.

    Returns:
        The text, otherwise unchanged.
    """
    # PyYAML writes these line ends unquoted and reads them as a blank.
    return value.encode("utf-8", errors="replace").decode("utf-8").translate(_REPLACED)


def one_line(value: str) -> str:
    """Makes one line without invisible characters, so that nothing can reorder, hide or leave its place.

    Args:
        value: Any text.

    Returns:
        The text with white space and control characters as single spaces, and without the invisible ones that turn the
        direction of what follows.
    """
    kept = []
    for character in whole(value):
        kind = unicodedata.category(character)
        if character.isspace() or kind == "Cc":
            kept.append(" ")
        elif kind != "Cf" or character in _JOINERS:
            kept.append(character)
    return " ".join("".join(kept).split())


def text(value: object) -> Markdown:
    """Writes running text, in a paragraph, a table's cell, a heading or a link.

    Args:
        value: Anything; what is `Markdown` already stays as it is.

    Returns:
        Markdown that shows the text and does nothing else.
    """
    if isinstance(value, Markdown):
        return value
    plain = _BARE_LINK.sub(_WORD_JOINER, one_line(str(value)))
    shown = "".join(
        _ENTITIES.get(character, f"\\{character}" if character in _BACKSLASHED else character) for character in plain
    )
    start = _LINE_START.match(shown)
    if start is None:
        return Markdown(shown)
    place = len(start.group(1) or "")  # a digit cannot be escaped; the dot after it can
    return Markdown(f"{shown[:place]}\\{shown[place:]}")


def code(value: object) -> Markdown:
    """Writes text as code, also in a table's cell.

    Args:
        value: Anything.

    Returns:
        Markdown that shows the characters as they are; nothing for empty text.
    """
    plain = one_line(str(value))
    if not plain:
        return Markdown("")
    if _UNSURE_IN_CODE.search(plain):
        return Markdown(f"<code>{_all_as_entities(plain)}</code>")
    fence = "`" * (_longest_run(plain) + 1)
    pad = " " if plain[0] == "`" or plain[-1] == "`" else ""
    return Markdown(f"{fence}{pad}{plain}{pad}{fence}")


def fenced(lines: str, language: str = "") -> Markdown:
    """Writes a block of code.

    Args:
        lines: The code.
        language: Name of its language.

    Returns:
        The block, with a fence that nothing in the code closes.
    """
    kept = [_printable(line).rstrip() for line in whole(lines).strip("\n").splitlines()]
    # A comment on a line of its own could be taken for a mark of the card (see own_sections.py).
    clean = "\n".join(f" {line}" if line.startswith("<!--") else line for line in kept)
    fence = "`" * max(3, _longest_run(clean) + 1)
    return Markdown(f"{fence}{language}\n{clean}\n{fence}")


def address(path: str) -> Markdown:
    """Writes the destination of a link or of a picture.

    Args:
        path: Path inside the repository, or an ``https://`` address.

    Returns:
        The path with everything percent-encoded that could end or change it.
    """
    if path.startswith(("https://", "http://")):
        return Markdown(quote(_BARE_PERCENT.sub("%25", whole(path)), safe=":/?#@!&+,=%"))
    return Markdown(quote(whole(path), safe="/"))


def html_text(value: object) -> str:
    """Writes text or an attribute's value in HTML.

    Args:
        value: Anything.

    Returns:
        The text on one line, with ``& < > " '`` as entities.
    """
    return html.escape(one_line(str(value)), quote=True)


def python_string(value: str) -> str:
    """Writes a string of Python that has this value.

    Args:
        value: Any text.

    Returns:
        A literal in double quotes, on one line; what cannot be seen is written as an escape.
    """
    escaped = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escaped.get(character, _seen(character)) for character in value) + '"'


def _seen(character: str) -> str:
    if character.isprintable() and unicodedata.category(character) != "Cf":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _printable(line: str) -> str:
    return "".join(character for character in line if character.isprintable() or character in _JOINERS + "\t")


def _all_as_entities(value: str) -> str:
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in value)


def _longest_run(value: str) -> int:
    return max((len(run) for run in re.findall("`+", value)), default=0)
