"""Fills a card's template; whatever a template writes is escaped as Markdown unless it says how else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hub_cards.errors import CardError, CardFileError
from hub_cards.escape import Markdown, address, code, fenced, html_text, text
from hub_cards.own_sections import place_for

__all__ = ["built_in_template", "read_template", "render"]


def built_in_template(name: str) -> str:
    """Reads one of this package's templates, for use or as the start of one's own.

    Args:
        name: ``"model_card"``, ``"index_card"`` or ``"dataset_card"``.

    Returns:
        The template's text.
    """
    return (files("hub_cards") / "templates" / f"{name}.md.jinja").read_text(encoding="utf-8")


def read_template(path: str | os.PathLike[str]) -> str:
    """Reads a user's own template.

    Args:
        path: The file.

    Returns:
        The template's text.

    Raises:
        CardFileError: If it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CardFileError(f"cannot read the card template {path}: {error}. Give a text file in UTF-8.") from error


def render(template: str, values: Mapping[str, Any], sections: Mapping[str, str]) -> str:
    """Fills a template.

    Args:
        template: Text of a Jinja template. ``{{ value }}`` writes running text; ``{{ value | code }}``,
            ``{{ value | fenced("python") }}``, ``{{ value | address }}`` and ``{{ value | html_text }}`` write it
            for other places; ``{{ own("notes") }}`` makes a marked place for the user.
        values: The template's names.
        sections: The user's own sections. Those that the template has no place for come at its end.

    Returns:
        The card without metadata.

    Raises:
        CardError: If the template is faulty or uses a name that is not there.
    """
    placed: list[str] = []

    def own(name: str) -> Markdown:
        placed.append(name)
        return place_for(name, sections)

    try:
        body = _compiled(template).render({**values, "own": own})
    except TemplateSyntaxError as error:
        raise CardError(f"the card template has a fault in line {error.lineno}: {error.message}.") from error
    except Exception as error:  # a template can divide by zero, too
        names = ", ".join(sorted([*values, "own"]))
        raise CardError(f"the card template cannot be filled: {error}. The names it may use are {names}.") from error
    left = [place_for(name, sections) for name in sections if name not in placed]
    return "\n\n".join([body.rstrip(), *left]) + "\n"


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    # A template may come from anywhere, and must not reach the machine; it escapes unless told otherwise.
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, finalize=text, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(address=address, code=code, fenced=fenced, text=text, html_text=_html)
    return environment.from_string(template)


def _html(value: object) -> Markdown:
    return Markdown(html_text(value))
