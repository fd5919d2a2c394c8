"""The card that lists a library of concepts, each of which has a repository of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from huggingface_hub import ModelCardData

from hub_cards.contents import BaseModel, License, Picture
from hub_cards.errors import CardError
from hub_cards.escape import one_line
from hub_cards.metadata import license_fields
from hub_cards.names import check_repo_id

__all__ = ["IndexContents", "IndexEntry", "index_card_data"]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One repository of the library.

    Attributes:
        repo_id: ``"user/name"``.
        tokens: The words that it holds.
        base_model: The model that learned them.
        picture: A picture that shows them.
        description: What the words mean, in the publisher's own words.
        scores: Title of a metric to the word's mean; nothing where nothing was measured.
    """

    repo_id: str
    tokens: tuple[str, ...]
    base_model: BaseModel
    picture: Picture | None = None
    description: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_repo_id(self.repo_id)
        if not self.tokens:
            raise CardError(f"{self.repo_id} is listed without a word.")


@dataclass(frozen=True, slots=True)
class IndexContents:
    """All that the card of a library tells.

    Attributes:
        title: The card's heading.
        entries: The repositories.
        repo_id: The card's own repository; None for a card that stays on the disk.
        description: What the library is, in the publisher's own words.
        license: The licence of the card's repository; None when none was given.
        library: Program that wrote this, with its version.
    """

    title: str
    entries: tuple[IndexEntry, ...]
    repo_id: str | None = None
    description: str = ""
    license: License | None = None
    library: str = ""

    def __post_init__(self) -> None:
        if not self.entries:
            raise CardError("an index needs at least one repository.")
        if self.repo_id is not None:
            check_repo_id(self.repo_id)


def index_card_data(contents: IndexContents) -> ModelCardData:
    """Builds the metadata of an index card.

    Args:
        contents: What the card tells.

    Returns:
        The metadata. It states no base model: the card's own repository holds no weights.
    """
    families = [entry.base_model.family for entry in contents.entries if entry.base_model.family]
    tags = ["textual_inversion", "text-to-image", "concept-library", *(one_line(family) for family in families)]
    return ModelCardData(**license_fields(contents.license), library_name="diffusers", tags=tags)
