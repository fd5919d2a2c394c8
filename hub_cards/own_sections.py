"""The parts of a card that belong to its user: kept when the card is written again.

A card has marked places for them; whatever stands between the two lines of a mark is the user's. The card's last line
is a fingerprint of everything else, so that an edit outside the marks is noticed instead of lost.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from hub_cards.errors import CardError
from hub_cards.escape import Markdown

__all__ = ["own_sections", "place_for", "sealed", "unsealed", "was_edited"]

_BEGIN = "<!-- own section: {} (kept when this card is written again) -->"
_END = "<!-- end of own section -->"
_NAME = re.compile(r"[a-z0-9][a-z0-9 _-]*")
_BEFORE_NAME, _AFTER_NAME = (re.escape(part) for part in _BEGIN.split("{}"))
_SECTION = re.compile(
    rf"^{_BEFORE_NAME}(?P<name>.*?){_AFTER_NAME}[ \t]*\n(?P<content>[\s\S]*?)^{re.escape(_END)}[ \t]*$", re.MULTILINE
)
_LOOSE = re.compile(r"^<!-- (own section: .*|end of own section) -->[ \t]*$", re.MULTILINE)
_SEAL = re.compile(r"^<!-- written by hub_cards, fingerprint ([0-9a-f]{16}) -->\s*\Z", re.MULTILINE)


def own_sections(body: str) -> dict[str, str]:
    """Finds the user's sections of a card.

    Args:
        body: The card without its metadata.

    Returns:
        Name of the place -> what the user wrote there; without the places that are empty.

    Raises:
        CardError: If a mark has no partner, or two have one name.
    """
    body = _unix(body)
    sections = list(_SECTION.finditer(body))
    # A section whose end is missing would reach to the end of the next one.
    loose = next(filter(None, (_LOOSE.search(section["content"]) for section in sections)), None)
    loose = loose or _LOOSE.search(_SECTION.sub("", body))
    if loose is not None:
        raise CardError(
            f"the card's mark {loose.group()!r} has no partner. A section of your own begins with "
            f"{_BEGIN.format('NAME')!r} and ends with {_END!r}, each on a line of its own; mend it, then try again."
        )
    found: dict[str, str] = {}
    for section in sections:
        name, content = section["name"], section["content"].strip("\n")
        if name in found:
            raise CardError(f"the card has two sections of your own called {name!r}; rename one of them.")
        found[name] = content
    return {name: content for name, content in found.items() if content.strip()}


def place_for(name: str, sections: Mapping[str, str]) -> Markdown:
    """Writes a marked place.

    Args:
        name: Its name, of small letters and digits.
        sections: What the user wrote, by name.

    Returns:
        The two marks, and between them what the user wrote there.

    Raises:
        CardError: If the name cannot be found again.
    """
    if not _NAME.fullmatch(name):
        raise CardError(f"a template names a section {name!r}; use small letters, digits, blanks, '-' and '_'.")
    content = sections.get(name, "")
    return Markdown(f"{_BEGIN.format(name)}\n{content}{chr(10) if content else ''}{_END}")


def sealed(body: str) -> str:
    """Ends a card with the fingerprint of what its user did not write.

    Args:
        body: The card without its metadata.

    Returns:
        The card with its last line.
    """
    body = f"{body.rstrip()}\n"
    return f"{body}\n<!-- written by hub_cards, fingerprint {_fingerprint(body)} -->\n"


def unsealed(body: str) -> str:
    """Takes the fingerprint off a card.

    Args:
        body: The card without its metadata.

    Returns:
        The card without its last line, if that is a fingerprint.
    """
    return _SEAL.sub("", _unix(body))


def was_edited(body: str) -> bool:
    """Tells whether a card holds text that is not in a marked place and did not come from here.

    Args:
        body: The card without its metadata.

    Returns:
        True, too, for a card that was written by somebody else.
    """
    seal = _SEAL.search(_unix(body))
    return seal is None or _fingerprint(_unix(body)[: seal.start()]) != seal[1]


def _fingerprint(body: str) -> str:
    # A section may be added and moved, and editors trim ends of lines and of files: none of it is an edit.
    lines = [line.rstrip() for line in _SECTION.sub("", body).split("\n")]
    return hashlib.sha256("\n".join(line for line in lines if line).encode("utf-8")).hexdigest()[:16]


def _unix(body: str) -> str:
    return body.replace("\r\n", "\n").replace("\r", "\n")
