"""What has to be known from the Hub before a card can be written: whose account, which licence, which card is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from hub_cards.contents import License
from hub_cards.metadata import inherited_license
from hub_cards.patience import WAITS, patiently
from hub_cards.problems import CLIENT_ERRORS, PushError, described_account, explained, is_own_space, without_tokens
from hub_cards.publication import CARD

__all__ = ["card_at", "full_name", "license_of", "published_card", "writable_name"]

Answer = TypeVar("Answer")


def full_name(repo_id: str, token: str | None = None, waits: Sequence[float] = WAITS) -> str:
    """Put the account's name before a repository's name that has none.

    Args:
        repo_id: ``user/name``, or ``name``.
        token: Access token; None for the one of `hf auth login`.
        waits: Seconds before the second, third, ... try.

    Returns:
        ``user/name``.

    Raises:
        PushError: The account cannot be asked for.
    """
    if "/" in repo_id:
        return repo_id
    account = _asked(lambda: HfApi(token=token).whoami(), repo_id, token, waits)
    return f"{account['name']}/{repo_id}"


def writable_name(repo_id: str, token: str | None = None, waits: Sequence[float] = WAITS) -> str:
    """Make sure that a token is known and may write, before the work that is to be published begins.

    Args:
        repo_id: ``user/name``, or ``name``.
        token: Access token; None for the one of `hf auth login`.
        waits: Seconds before the second, third, ... try.

    Returns:
        ``user/name``.

    Raises:
        PushError: The token is unknown, may only read, or belongs to none who may publish under that name.
    """
    account = _asked(lambda: HfApi(token=token).whoami(), repo_id, token, waits)
    name = repo_id if "/" in repo_id else f"{account['name']}/{repo_id}"
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read" or not is_own_space(account, name):
        raise PushError(f"{name} cannot be written to. {described_account(account, name)}")
    return name


def license_of(
    base_model: str, revision: str | None = None, token: str | None = None, waits: Sequence[float] = WAITS
) -> License | None:
    """Look up the licence that a base model's card states.

    Args:
        base_model: ``user/name``.
        revision: Its branch, tag or commit.
        token: Access token; None for the one of `hf auth login`.
        waits: Seconds before the second, third, ... try.

    Returns:
        The licence; None where the card states none, or where the model cannot be seen.

    Raises:
        PushError: The Hub cannot be asked.
    """
    try:
        info = _asked(lambda: HfApi(token=token).model_info(base_model, revision=revision), base_model, token, waits)
    except PushError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError | RevisionNotFoundError):
            return None
        raise
    return None if info.card_data is None else inherited_license(base_model, info.card_data.to_dict())


def published_card(
    repo_id: str,
    *,
    repo_type: str = "model",
    revision: str | None = None,
    token: str | None = None,
    waits: Sequence[float] = WAITS,
) -> str | None:
    """Read the card that a repository has now.

    Args:
        repo_id: ``user/name``.
        repo_type: Kind of repository.
        revision: The branch; None for main.
        token: Access token; None for the one of `hf auth login`.
        waits: Seconds before the second, third, ... try.

    Returns:
        Its text; None where there is no card, or no such repository.

    Raises:
        PushError: The Hub cannot be asked.
    """
    api = HfApi(token=token)

    def read() -> str | None:
        # Its commit is asked for first: a branch's file may come from a cache that has not seen the last commit.
        commit = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        return card_at(api, repo_id, repo_type, commit)

    try:
        return _asked(read, repo_id, token, waits)
    except PushError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError | RevisionNotFoundError):
            return None
        raise


def card_at(api: HfApi, repo_id: str, repo_type: str, commit: str | None) -> str | None:
    """Read the card of a commit.

    Args:
        api: The Hub.
        repo_id: ``user/name``.
        repo_type: Kind of repository.
        commit: The commit; None for the last one of main.

    Returns:
        Its text; None where there is no card. The client's errors pass.
    """
    try:
        file = api.hf_hub_download(repo_id, CARD, repo_type=repo_type, revision=commit)
    except RemoteEntryNotFoundError:
        # Not any EntryNotFoundError: the client's local one means that the card could not be asked for, and a card that
        # is taken for missing loses what its user wrote.
        return None
    return Path(file).read_bytes().decode("utf-8", errors="replace")


def _asked(request: Callable[[], Answer], repo_id: str, token: str | None, waits: Sequence[float]) -> Answer:
    try:
        return patiently(request, waits)
    except CLIENT_ERRORS as error:
        # A server may repeat what it was sent; such an error must not be shown behind ours.
        tells = without_tokens(str(error), token) != str(error)
        raise PushError(explained(error, repo_id, "", token)) from (None if tells else error)
