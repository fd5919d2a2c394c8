"""What a source of pictures yields before any picture is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textual_inversion_ext.config import TextualInversionConfig

__all__ = ["FoundPicture", "Wanted", "listed"]

_LISTED = 8  # names in a message; more would hide what it says


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """A picture that a folder, a list or a data set offers, not yet opened.

    Attributes:
        name: What messages call it: its path, or its place in the list or data set.
        source: A path, the content of a file, or a PIL image; anything else is refused when it is opened.
        captions: What was written about it.
        mask: Its mask, of the same kinds as `source`; None where none was found or asked for.
    """

    name: str
    source: Any
    captions: tuple[str, ...] = ()
    mask: Any = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for beside the pictures themselves.

    Attributes:
        captions: Whether captions are read.
        mask_files: Whether mask files beside the pictures are used.
        mask_column: Whether a column of masks is used.
        image_column: Column of the pictures, None for the usual one.
        caption_column: Column of the captions, None for the usual ones.
        mask_column_name: Column of the masks, None for the usual one.
    """

    captions: bool = False
    mask_files: bool = False
    mask_column: bool = False
    image_column: str | None = None
    caption_column: str | None = None
    mask_column_name: str | None = None

    @classmethod
    def by(cls, config: TextualInversionConfig) -> Wanted:
        """Reads it from a run's settings.

        Args:
            config: ``captions``, ``masks`` and the names of the columns are used.

        Returns:
            What the run needs.
        """
        return cls(
            captions=config.captions != "templates",
            mask_files=config.masks in ("files", "auto"),
            mask_column=config.masks in ("column", "auto"),
            image_column=config.image_column,
            caption_column=config.caption_column,
            mask_column_name=config.mask_column,
        )


def listed(names: Sequence[str]) -> str:
    """Writes names into a message.

    Args:
        names: Any number of them.

    Returns:
        The first few, with commas, and how many there are where some are left out.
    """
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
