"""How something is to be published, and the command that does it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from hub_cards.contents import License
from hub_cards.errors import HubCardsError
from textual_inversion_ext.errors import PublishError
from textual_inversion_ext.publishing.cleaning import refuse_private_words

__all__ = ["PublishSettings", "command_for", "own_errors"]


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """What a user may choose; the flags of ``textual-inversion publish`` have the same names.

    Attributes:
        repo_id: ``user/name``; with ``name`` alone the account's own.
        private: Make a new repository private.
        create_pr: Send a pull request instead of a commit to the branch.
        revision: The branch; None for main.
        parent_commit: The commit that the branch must still be at; None to take it as it is.
        license: The Hub's identifier of the licence; None to take over the base model's, if it states one.
        license_name: What a licence is called that the Hub does not list.
        license_link: Where its text is.
        description: What the concept is, in the user's own words.
        image: Pictures to publish instead of those of the evaluation.
        template: A Jinja template of the card.
        discard_edits: Whether text that a user wrote outside of a card's marked places may be lost.
        with_dataset: Publish the training pictures too, as a data set of its own.
        dataset_repo_id: Its repository; None for that of the concept with ``-images`` behind it.

    Raises:
        PublishError: Something is told of what was not asked for, or the description holds a token or a path.
    """

    repo_id: str
    private: bool = False
    create_pr: bool = False
    revision: str | None = None
    parent_commit: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    description: str = ""
    image: tuple[Path, ...] = ()
    template: Path | None = None
    discard_edits: bool = False
    with_dataset: bool = False
    dataset_repo_id: str | None = None

    def __post_init__(self) -> None:
        refuse_private_words("--description", self.description)
        named = [f"--{name}" for name in ("license_name", "license_link") if getattr(self, name) is not None]
        if named and self.license is None:
            raise PublishError(f"{' and '.join(named)} without a licence that it is about; add --license other.")
        if self.dataset_repo_id is not None and not self.with_dataset:
            raise PublishError(
                f"--dataset_repo_id {self.dataset_repo_id} is where the training pictures go, and they are not to be"
                " published; add --with_dataset, or leave it out."
            )

    @property
    def asked_license(self) -> License | None:
        """The licence that was asked for."""
        if self.license is None:
            return None
        return License(self.license, name=self.license_name, link=self.license_link)


def command_for(place: Path, settings: PublishSettings, *, collection: bool = False, dry_run: bool = False) -> str:
    """Write the command that publishes something.

    Args:
        place: The run's folder.
        settings: How.
        collection: Whether the folder is one of many concepts.
        dry_run: Whether it is only to show what it would send.

    Returns:
        A line for the shell. A token is no part of the settings, so it is not in it.
    """
    words = ["textual-inversion", "publish", *(["--collection"] if collection else []), str(place)]
    for item in fields(settings):
        value = getattr(settings, item.name)
        if value is True:
            words.append(f"--{item.name}")
        elif isinstance(value, tuple):
            words += [f"--{item.name}", *map(str, value)] if value else []
        elif value not in (None, False, ""):
            words += [f"--{item.name}", str(value)]
    words += ["--dry_run"] if dry_run else []
    return shlex.join(words)


@contextmanager
def own_errors(again: str = "", untouched: Path | None = None) -> Iterator[None]:
    """Turn what `hub_cards` says into an error of this package, with the command to try again.

    Args:
        again: The command; empty where there is none.
        untouched: The folder that was only read.

    Raises:
        PublishError: In its place.
    """
    try:
        yield
    except (HubCardsError, PublishError) as error:
        hint = f" {untouched} is as it was." if untouched is not None and untouched.exists() else ""
        retry = f"\nTry again: {again}" if again else ""
        raise PublishError(f"{str(error).rstrip()}{hint}{retry}") from error
