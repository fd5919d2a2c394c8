"""What is to be sent to the Hub, what came of it, and what can be found wrong before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from huggingface_hub import RepoCard, get_token, is_offline_mode
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from hub_cards.problems import PushError, explained

__all__ = ["CARD", "Publication", "Pushed", "check", "parsed_card", "text_of"]

CARD = "README.md"
"""Where a repository has its card."""

_COMMIT = re.compile("[0-9a-fA-F]{7,40}")
MOST_BYTES = 2 * 1024**3
"""Bytes of a file; nothing that belongs to a concept is as large, and a mistaken checkpoint is."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be in a repository after one commit.

    Attributes:
        repo_id: ``user/name``, or ``name`` for the user of the token.
        files: Path in the repository -> its content, or the file that holds it. Other files there stay as they
            are, but for what an earlier publication left (see `hub_cards.listing`).
        message: Title of the commit.
        repo_type: Kind of repository.
        private: Whether a new repository is private; None for what the account has as its default.
        create_pr: Send a pull request instead of a commit to the branch.
        revision: The branch; None for main.
        parent_commit: The commit that the branch must still be at; None for where it is when the push starts.
    """

    repo_id: str
    files: Mapping[str, bytes | Path]
    message: str
    repo_type: Literal["model", "dataset"] = "model"
    private: bool | None = None
    create_pr: bool = False
    revision: str | None = None
    parent_commit: str | None = None


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of a push.

    Attributes:
        repo_id: ``user/name``.
        commit: The commit that holds the files.
        url: Page of the repository, or of the pull request.
        changed: False where all the files were there already, so that no commit was made.
        removed: Files of an earlier publication that this one does not have, and that are gone with the commit.
    """

    repo_id: str
    commit: str
    url: str
    changed: bool
    removed: tuple[str, ...] = ()


def check(publication: Publication, token: str | None = None) -> None:
    """Find what can be found wrong without asking the Hub.

    Args:
        publication: What is to be sent.
        token: Access token; None for the one of `hf auth login`.

    Raises:
        PushError: The name, the card, a file or the login cannot work.
    """
    try:
        validate_repo_id(publication.repo_id)
        _check_files(publication.files)
        if publication.parent_commit is not None and not _COMMIT.fullmatch(publication.parent_commit):
            raise PushError(
                f"{publication.parent_commit!r} is no commit (--parent_commit); give 7 to 40 hexadecimal digits, as the"
                " repository's history shows them."
            )
        if not (token or get_token()):
            raise LocalTokenNotFoundError("no token")
        if is_offline_mode():
            raise OfflineModeIsEnabled("HF_HUB_OFFLINE")
    except (HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        raise PushError(explained(error, publication.repo_id, "", token)) from error


def _check_files(files: Mapping[str, bytes | Path]) -> None:
    for name, content in files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise PushError(f"{name!r} is no path inside a repository.")
        if not isinstance(content, bytes) and not content.is_file():
            raise PushError(f"{content} is no file; it was to be published as {name}.")
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size > MOST_BYTES:
            raise PushError(
                f"{name} has {size / 1024**3:.1f} GiB; files of a concept have at most {MOST_BYTES / 1024**3:.0f} GiB."
                " Leave it out."
            )
    if CARD in files:
        parsed_card(files[CARD])


def parsed_card(content: bytes | Path) -> RepoCard:
    """Read a card as the Hub does.

    Args:
        content: The card, or its file.

    Returns:
        The card with its metadata.

    Raises:
        PushError: Its metadata cannot be read, or it has none.
    """
    text = text_of(content)
    # The parser's errors are those of a YAML library that this package does not know.
    try:
        card = RepoCard(text)
    except Exception as error:
        raise PushError(f"the card's metadata (between the --- lines) cannot be read: {error}") from error
    if not card.data.to_dict():
        raise PushError("the card has no metadata between --- lines at its start; the Hub could not list it.")
    return card


def text_of(content: bytes | Path) -> str:
    """Read a file of a publication that is text.

    Args:
        content: The content, or the file that holds it.

    Returns:
        The text.
    """
    return (content if isinstance(content, bytes) else content.read_bytes()).decode("utf-8")
