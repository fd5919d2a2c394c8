"""The card of the pictures that a word was learned from, published as a data set of its own."""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub import DatasetCardData

from hub_cards.contents import License, Picture
from hub_cards.errors import CardError
from hub_cards.escape import one_line
from hub_cards.metadata import license_fields
from hub_cards.names import check_repo_id

__all__ = ["DatasetContents", "dataset_card_data"]

# Source: https://github.com/huggingface/hub-docs/blob/main/datasetcard.md?plain=1, size_categories.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True, slots=True)
class DatasetContents:
    """All that the card of the training pictures tells.

    Attributes:
        title: The card's heading.
        images: How many pictures.
        repo_id: ``"user/name"``; None for a card that stays on the disk.
        token: The word that was learned from them.
        model_repo_id: The repository of that word.
        captions: How many of the pictures have a caption.
        masks: How many of the pictures have a mask.
        pictures: A few of them, with their caption as `Picture.prompt`.
        description: What they show and where they are from, in the publisher's own words.
        license: The licence; None when none was given. It is never guessed.
        library: Program that wrote this, with its version.
    """

    title: str
    images: int
    repo_id: str | None = None
    token: str | None = None
    model_repo_id: str | None = None
    captions: int = 0
    masks: int = 0
    pictures: tuple[Picture, ...] = ()
    description: str = ""
    license: License | None = None
    library: str = ""

    def __post_init__(self) -> None:
        if self.images < 1:
            raise CardError(f"a data set of {self.images} pictures has no card; it needs at least one.")
        for name in (self.repo_id, self.model_repo_id):
            if name is not None:
                check_repo_id(name)


def dataset_card_data(contents: DatasetContents) -> DatasetCardData:
    """Builds the metadata of the pictures' card.

    Args:
        contents: What the card tells.

    Returns:
        The metadata: no licence that nobody gave.
    """
    sizes = [name for limit, name in _SIZES if contents.images < limit]
    return DatasetCardData(
        **license_fields(contents.license),
        task_categories=["text-to-image"],
        size_categories=sizes[:1] or None,
        pretty_name=one_line(contents.title),
        tags=["textual_inversion", "imagefolder"],
    )
