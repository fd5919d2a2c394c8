"""A run's card: made anew, with the licence of the base model and whatever its user wrote into the one before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from hub_cards.card import Card
from hub_cards.contents import CardContents, License
from hub_cards.lookups import license_of, published_card
from hub_cards.own_sections import own_sections, was_edited
from hub_cards.publication import CARD
from hub_cards.render import read_template
from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.errors import PublishError
from textual_inversion_ext.publishing.facts import base_model_of, card_contents
from textual_inversion_ext.publishing.files import files_of_run
from textual_inversion_ext.publishing.run import FinishedRun, read_run
from textual_inversion_ext.publishing.settings import PublishSettings, own_errors

__all__ = ["LOCAL_CARD", "card_of", "card_on_hub", "inherited", "local_card", "previous_card", "write_card"]

logger = logging.getLogger(__name__)

LOCAL_CARD = "card"
"""Folder of a card and its pictures in the folder of a run."""


def write_card(folder: Path, settings: PublishSettings | None = None) -> tuple[Path, str]:
    """Write a run's card and its pictures into its folder; what its user wrote into the marked places is kept.

    Nothing is asked of the Hub, so that a licence to take over from the base model is not known here.

    Args:
        folder: The run's folder.
        settings: How it is to be published; None for the defaults.

    Returns:
        The file, ``card/README.md`` in the folder, and its text.

    Raises:
        PublishError: It is no run, or the card that is there cannot be replaced.
        StorageError: The card or its pictures cannot be written.
    """
    with own_errors(untouched=folder):
        run = read_run(folder)
        chosen = settings or PublishSettings("")
        files = files_of_run(run, chosen.image)
        contents = card_contents(
            run, files, repo_id=chosen.repo_id or None, license=chosen.asked_license, description=chosen.description
        )
        text = card_of(contents, chosen, local_card(folder)).markdown()
    # In a folder of its own: the run's may hold the user's pictures under the same names.
    home = folder / LOCAL_CARD
    for picture in files.pictures:
        content = files.files[picture.path]
        atomic_write(home / picture.path, content if isinstance(content, bytes) else content.read_bytes())
    atomic_write(home / CARD, text)
    return home / CARD, text


def card_of(contents: CardContents, settings: PublishSettings, previous: Card | None) -> Card:
    """Make a card.

    Args:
        contents: What it tells.
        settings: Its template, and whether edits may be lost.
        previous: The card that it replaces.

    Returns:
        The card.

    Raises:
        CardError: The template is faulty, or `previous` has text outside of its marked places.
        CardFileError: The template cannot be read.
    """
    template = None if settings.template is None else read_template(settings.template)
    return Card.of(contents, template=template, previous=previous, discard_edits=settings.discard_edits)


def previous_card(folder: Path, settings: PublishSettings, token: str | None, online: bool) -> Card | None:
    """Find the card to keep the user's own sections of.

    Args:
        folder: The run's folder.
        settings: Where it is published.
        token: Access token.
        online: Whether the Hub may be asked.

    Returns:
        The folder's, with what only the Hub's has in its metadata; else the one on the Hub.

    Raises:
        PublishError: Both are there, and the Hub's holds text of its user that the folder's does not.
    """
    local = local_card(folder)
    remote = card_on_hub(settings.repo_id, token, revision=settings.revision) if online else None
    if local is None or remote is None or settings.discard_edits:
        return local or remote
    here = own_sections(local.text)
    lost = [name for name in own_sections(remote.text) if name not in here]
    if lost or was_edited(remote.text):
        raise PublishError(
            f"the card of {settings.repo_id} on the Hub holds text that {folder / LOCAL_CARD / CARD} does not"
            f"{' (own section ' + ', '.join(lost) + ')' if lost else ''}. Copy it into an own section there, remove "
            "that file so that the Hub's is taken, or say that it may be lost: --discard_edits."
        )
    return local.with_metadata_of(remote)


def local_card(folder: Path) -> Card | None:
    """Read the card in a run's folder.

    Args:
        folder: The run's folder.

    Returns:
        The card, or None.
    """
    file = folder / LOCAL_CARD / CARD
    return Card.load(file) if file.is_file() else None


def card_on_hub(
    repo_id: str, token: str | None, *, repo_type: Literal["model", "dataset"] = "model", revision: str | None = None
) -> Card | None:
    """Read the card that a repository has now.

    Args:
        repo_id: ``user/name``.
        token: Access token.
        repo_type: Kind of repository.
        revision: The branch; None for main.

    Returns:
        The card; None where there is none, or one of metadata alone.
    """
    text = published_card(repo_id, repo_type=repo_type, revision=revision, token=token)
    card = None if text is None else Card.parse(text, dataset=repo_type == "dataset")
    # The Hub writes a card of metadata alone when a licence is chosen on its page; there is nothing in it to lose.
    return card if card is not None and card.text.strip() else None


def inherited(run: FinishedRun, token: str | None, online: bool) -> License | None:
    """Take over the licence of the model that learned the word.

    Args:
        run: The run.
        token: Access token.
        online: Whether the Hub may be asked.

    Returns:
        The licence that the model's card states; None where it states none, or where it is not known.
    """
    base = base_model_of(run.concept, run.config)
    if base.hub_id is None or not online:
        return None
    license = license_of(base.hub_id, base.revision, token)
    if license is None:
        logger.warning("notice: the card of %s states no licence to take over; give one with --license.", base.hub_id)
    return license
