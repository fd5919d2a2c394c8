"""What goes wrong between this machine and the Hub: whether to try again, and one sentence for a person."""

from __future__ import annotations

import json
import re
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hub_cards.errors import HubCardsError

__all__ = [
    "CLIENT_ERRORS",
    "PushError",
    "described_account",
    "explained",
    "is_own_space",
    "is_transient",
    "request_path",
    "seconds_asked",
    "status_of",
    "without_tokens",
]

# What the Hub's client lets through is its HTTP library's, which it has exchanged before; so it is found, not imported.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]

CLIENT_ERRORS: tuple[type[Exception], ...] = (_HTTP_ERROR, OSError, RuntimeError, ValueError, KeyError)
"""All that an upload with the Hub's client may raise (KeyError: an answer without a field that it needs)."""

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}\b|\b[Bb]earer\s+[\w.~+/-]{8,}=*")
# The client's Xet storage has one error for all that goes wrong with a connection, an answer's status included.
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})\b")
_SETTINGS = "https://huggingface.co/settings/tokens"
_MOST_TEXT = 300


class PushError(HubCardsError, OSError):
    """Nothing, or nothing more, was sent to the Hub; the message says why and what to do, and holds no token."""


def without_tokens(text: str, token: str | None = None) -> str:
    """Blot out access tokens.

    Args:
        text: Any text.
        token: A token that is known; the one of this machine's login and all that look like one go as well.

    Returns:
        The text with ``***`` in their places.
    """
    for secret in (token, get_token()):
        if secret:
            text = text.replace(secret, "***")
    return _TOKEN.sub("***", text)


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error.

    Args:
        error: What the client raised.

    Returns:
        The status; None where no answer came, or where it is not about an answer.
    """
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        # "It cannot be found": the client's word for a file of which it could not ask whether it is there.
        return status_of(error.__cause__)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and isinstance(error, ConnectionError) and (found := _XET_STATUS.search(str(error))):
        return int(found.group(1))
    return status


def request_path(error: BaseException) -> str:
    """Which request an error is about.

    Args:
        error: What the client raised.

    Returns:
        The path of its address; empty where it is not known.
    """
    try:
        return str(error.request.url.path)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # the HTTP library raises RuntimeError where it never had a request
        return ""


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later.

    Args:
        error: What the client raised.

    Returns:
        True for overload, rate limits and lost connections.
    """
    status = status_of(error)
    # An answer that is no JSON comes from something between here and the Hub. Xet has tried often by itself.
    kinds = (_HTTP_ERROR, json.JSONDecodeError)
    return isinstance(error, kinds) and (status is None or status in _TRANSIENT)


def seconds_asked(error: BaseException) -> float:
    """How long the Hub asks to wait.

    Args:
        error: What the client raised.

    Returns:
        Seconds; 0 where it does not say.
    """
    headers: Any = getattr(getattr(error, "response", None), "headers", {})
    limit = re.search(r"r=0\b.*?t=(\d+)", headers.get("RateLimit", ""))
    told = limit.group(1) if limit else headers.get("Retry-After", "")
    return float(told) + 1 if told.isdigit() else 0.0


def explained(error: BaseException, repo_id: str, account: str, token: str | None) -> str:
    """Say what an error means for who wants to publish.

    Args:
        error: What the client raised.
        repo_id: The repository.
        account: Who the token belongs to and what it may do, from `described_account`; may be empty.
        token: The token that was used, so that it can be blotted out.

    Returns:
        A sentence or two: what was wrong, and what to do.
    """
    status = status_of(error)
    text = _by_status(status, error, repo_id, account) if status is not None else _without_answer(error, repo_id)
    return without_tokens(text, token)


def _by_status(status: int, error: BaseException, repo_id: str, account: str) -> str:
    said = _said(error.__cause__ or error if isinstance(error, LocalEntryNotFoundError) else error)
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated: accept its terms on its page first."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no such branch; leave --revision out, or make the branch first."
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no repository {repo_id} that this token may see; check the name, and the token's rights."
    whole = {
        401: f"the Hub does not know this token (401); make a new one at {_SETTINGS} and log in with `hf auth login`.",
        403: f"you may not write to {repo_id} (403: {said}). {account}".rstrip(),
        409: f"the Hub is busy with {repo_id} (409: {said}); try again in a minute.",
        412: f"{repo_id} was changed by somebody else in the meantime (412), so nothing was sent; look at what is new "
        "there, then try again.",
        413: f"a file is larger than the Hub takes (413: {said}); leave it out.",
        429: f"the Hub asks for a pause (429, rate limit){_pause(error)}; try again then.",
    }
    if status in whole:
        return whole[status]
    if status >= 500 or status == 408:
        return f"the Hub has trouble at the moment ({status}: {said}); see https://status.huggingface.co, try later."
    return f"the Hub refused {repo_id} ({status}: {said})."


def _without_answer(error: BaseException, repo_id: str) -> str:
    said = _said(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE=1), so nothing can be sent; unset it."
    if isinstance(error, LocalTokenNotFoundError):
        return f"you are not logged in to the Hub; make a token that may write at {_SETTINGS}, then `hf auth login`."
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is no name of a repository: {said}"
    if isinstance(error, ValueError) and ("metadata" in said or _complaints(error)):
        return f"the Hub does not accept the card: {_complaints(error) or said}"
    cause = _said(error.__cause__) if error.__cause__ is not None else ""
    if isinstance(error, RuntimeError | ValueError):
        return f"a file was not accepted: {said} {cause}".rstrip() + "; leave it out if it is large, or try later."
    if isinstance(error, KeyError):
        return f"the Hub's answer about {repo_id} has no {said}; try again, or with a newer huggingface_hub."
    return f"the Hub cannot be reached ({said}); check the connection and try again."


def described_account(account: dict[str, Any], repo_id: str) -> str:
    """Say what a token may do, in view of a repository that it may not write to.

    Args:
        account: What ``whoami`` answered.
        repo_id: The repository.

    Returns:
        A sentence or two.
    """
    name = account.get("name", "?")
    role = account.get("auth", {}).get("accessToken", {}).get("role", "")
    if role == "read":
        return f"The token of {name} may only read; make one that may write at {_SETTINGS}, then `hf auth login`."
    if not is_own_space(account, repo_id):
        spaces = ", ".join(_spaces(account))
        return f"You are {name} and may publish under {spaces}; name the repository {name}/..., or use --create_pr."
    return f"The token of {name} has no right to write there; check its permissions at {_SETTINGS}."


def is_own_space(account: dict[str, Any], repo_id: str) -> bool:
    """Whether a repository would lie under an account's name or under that of one of its organisations.

    Args:
        account: What ``whoami`` answered.
        repo_id: ``user/name``.

    Returns:
        False where the account can publish nothing.
    """
    return repo_id.split("/")[0] in _spaces(account)


def _spaces(account: dict[str, Any]) -> list[str]:
    return [account.get("name", "?"), *(entry.get("name", "?") for entry in account.get("orgs", []))]


def _pause(error: BaseException) -> str:
    seconds = seconds_asked(error)
    return f" of {seconds:.0f} seconds" if seconds else ""


def _said(error: BaseException) -> str:
    """The error's own words in one line: those of the Hub where it answered."""
    words = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return " ".join(words.split())[:_MOST_TEXT].rstrip(". ")


def _complaints(error: BaseException) -> str:
    """What the Hub finds wrong with a card; the client hands on its answer as it came."""
    try:
        return "; ".join(entry["message"] for entry in json.loads(str(error))["errors"])
    except (ValueError, KeyError, TypeError):
        return ""
