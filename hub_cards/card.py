"""A card: the data that the Hub reads, and the text that people read, apart from each other."""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from huggingface_hub import CardData, DatasetCard, ModelCard

from hub_cards.concept_index import IndexContents, index_card_data
from hub_cards.contents import CardContents, License
from hub_cards.dataset import DatasetContents, dataset_card_data
from hub_cards.errors import CardError, CardFileError
from hub_cards.listing import listing, without_listing
from hub_cards.metadata import LICENSE_FIELDS, model_card_data, with_kept_fields
from hub_cards.own_sections import own_sections, sealed, unsealed, was_edited
from hub_cards.publication import CARD, Publication, Pushed
from hub_cards.push import push
from hub_cards.render import built_in_template, render
from hub_cards.views import dataset_view, index_view, model_view

__all__ = ["Card", "Contents"]

Contents: TypeAlias = CardContents | IndexContents | DatasetContents

# Kind of contents -> its template, its metadata, and what the template may write.
_KINDS: dict[type, tuple[str, Callable[[Any], CardData], Callable[[Any], dict[str, Any]]]] = {
    CardContents: ("model_card", model_card_data, model_view),
    IndexContents: ("index_card", index_card_data, index_view),
    DatasetContents: ("dataset_card", dataset_card_data, dataset_view),
}


@dataclass(frozen=True, slots=True)
class Card:
    """A README.md of the Hub.

    Attributes:
        data: The metadata; `huggingface_hub`'s ``ModelCardData`` or ``DatasetCardData``.
        text: The card's Markdown, without the metadata.
    """

    data: CardData
    text: str

    @classmethod
    def of(
        cls,
        contents: Contents,
        *,
        template: str | None = None,
        previous: Card | None = None,
        discard_edits: bool = False,
    ) -> Card:
        """Makes a card of what there is to tell.

        Args:
            contents: What it tells.
            template: Text of a Jinja template; None for the built-in one.
            previous: The card that it replaces. Its user's sections are kept, and so are metadata that this package
                never writes, and its licence unless another was asked for.
            discard_edits: Whether text of `previous` that is outside its marked places may be lost.

        Returns:
            The card.

        Raises:
            CardError: If the template is faulty, or `previous` has text of its user outside the marked places.
        """
        name, data_of, view_of = _KINDS[type(contents)]
        sections: dict[str, str] = {}
        if previous is not None:
            if was_edited(previous.text) and not discard_edits:
                raise CardError(
                    "the card that would be replaced holds text that was not written here and is in none of its "
                    "marked places ('own section'). Move the text into one, or say that it may be lost."
                )
            sections = own_sections(previous.text)
            contents = replace(contents, license=_license(contents, previous.data))
        data = data_of(contents)
        if previous is not None:
            with_kept_fields(data, previous.data)
        text = render(template if template is not None else built_in_template(name), view_of(contents), sections)
        return cls(data, sealed(text))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, dataset: bool = False) -> Card:
        """Reads a card from a file.

        Args:
            path: The file.
            dataset: Whether it is the card of a data set.

        Returns:
            The card.

        Raises:
            CardFileError: If the file cannot be read.
            CardError: If its metadata cannot be read.
        """
        try:
            content = Path(path).read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CardFileError(f"cannot read the card {path}: {error}.") from error
        return cls.parse(content, dataset=dataset)

    @classmethod
    def parse(cls, content: str, *, dataset: bool = False) -> Card:
        """Reads a card from text.

        Args:
            content: All of the card.
            dataset: Whether it is the card of a data set.

        Returns:
            The card.

        Raises:
            CardError: If its metadata cannot be read.
        """
        content = content.replace("\r\n", "\n")
        try:
            card = DatasetCard(content) if dataset else ModelCard(content)
        except (
            Exception
        ) as error:  # PyYAML's errors among others; it is a dependency of the client, not of this package
            raise CardError(f"the card's metadata, between its two lines '---', cannot be read: {error}") from error
        return cls(card.data, card.text)

    def with_metadata_of(self, other: Card) -> Card:
        """Adds what a user wrote into another card's metadata.

        Args:
            other: A card of the same model or data set.

        Returns:
            This card, with the user's fields that only the other one has; with its licence only if both tell of one
            base model.
        """
        data, theirs = copy.deepcopy(self.data), copy.deepcopy(other.data)
        if data.get("base_model") != theirs.get("base_model"):
            for name in LICENSE_FIELDS:
                theirs.pop(name, None)
        with_kept_fields(data, theirs)
        return Card(data, self.text)

    def markdown(self) -> str:
        """Writes the card as text.

        Returns:
            The metadata between two lines ``---``, and the Markdown.
        """
        return f"---\n{self.data.to_yaml()}\n---\n{self.text}"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the card to a file: all of it, or nothing.

        Args:
            path: The file, or a folder in which it becomes ``README.md``.

        Returns:
            The file.

        Raises:
            CardFileError: If the system refuses; a file that was there is untouched.
        """
        target = Path(path)
        if target.is_dir():
            target = target / CARD
        partial = target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "xb") as stream:
                stream.write(self.markdown().encode("utf-8"))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, target)
        except OSError as error:
            raise CardFileError(
                f"cannot write the card {target}: {error.strerror or error}. Nothing there was changed; check the "
                "folder's permissions and the disk, then try again."
            ) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        return target

    def beside(self, files: Mapping[str, bytes | Path]) -> dict[str, bytes | Path]:
        """Puts the card beside the files that it is published with, and lists them at its end.

        By the list, the next publication knows which files are from this one (see `hub_cards.listing`).

        Args:
            files: Path in the repository -> content; a card among them is replaced by this one.

        Returns:
            All files of the publication.
        """
        others = {name: content for name, content in files.items() if name != CARD}
        body = without_listing(unsealed(self.text)).rstrip()
        card = Card(self.data, sealed(f"{body}\n\n{listing(others)}"))
        return {**others, CARD: card.markdown().encode("utf-8")}

    def push(self, publication: Publication, *, token: str | None = None) -> Pushed:
        """Sends the card to the Hub, in one commit with the other files of a publication.

        Args:
            publication: What is to be sent; a card in it is replaced by this one.
            token: Access token; None for the one of ``hf auth login``.

        Returns:
            The commit, and where to look at it.

        Raises:
            PushError: It did not succeed; the message says why and what to do.
        """
        return push(replace(publication, files=self.beside(publication.files)), token=token)


def _license(contents: Contents, previous: CardData) -> License | None:
    """The licence that was asked for; else the one that the user chose before; else the one taken over."""
    asked, chosen = contents.license, _license_in(previous)
    if asked is None:
        return chosen
    if asked.inherited_from is None or chosen is None or chosen.id == asked.id:
        return asked
    # What a card says that tells of another base model may have been taken over from that one.
    return chosen if previous.get("base_model") == asked.inherited_from else asked


def _license_in(data: CardData) -> License | None:
    """The licence that a user wrote into a card's metadata."""
    stated = data.get("license")
    if not isinstance(stated, str):
        return None
    named, link = data.get("license_name"), data.get("license_link")
    try:
        return License(stated, name=None if named is None else str(named), link=None if link is None else str(link))
    except CardError:
        return None
