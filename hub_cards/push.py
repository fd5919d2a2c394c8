"""One commit of files to a repository of the Hub, with nothing sent twice and every failure explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from hub_cards.landed import commit_with, pull_request_with, pull_requests
from hub_cards.listing import listed, untouched
from hub_cards.lookups import card_at
from hub_cards.patience import WAITS, patiently, pause_before, rest
from hub_cards.problems import (
    CLIENT_ERRORS,
    PushError,
    described_account,
    explained,
    is_transient,
    request_path,
    status_of,
    without_tokens,
)
from hub_cards.publication import CARD, Publication, Pushed, check, parsed_card, text_of
from hub_cards.validation import validate

__all__ = ["CARD", "Publication", "PushError", "Pushed", "check", "push"]

# Requests that the client itself tries again, for half a minute.
_RETRIED_BY_CLIENT = ("/preupload/", "/info/lfs/", "/tree/", "/commits/")


def push(publication: Publication, *, token: str | None = None, waits: Sequence[float] = WAITS) -> Pushed:
    """Send files in one commit; make the repository first if there is none.

    A request that may be repeated is repeated when the Hub is busy or the connection breaks. When the answer to the
    commit itself is lost, the branch is looked at before anything is sent again, and the commit names its parent: it is
    made once or not at all. If the files are there already, no commit is made. What an earlier publication left behind
    goes with the same commit, if the cards of both list their files (see `hub_cards.listing`).

    Args:
        publication: What to send.
        token: Access token; None for the one of `hf auth login`. It is neither stored nor shown.
        waits: Seconds before the second, third, ... try.

    Returns:
        The commit, and where to look at it.

    Raises:
        PushError: It did not succeed; the message says why and what to do.
    """
    check(publication, token)
    api = HfApi(token=token)
    repo_id = publication.repo_id
    try:
        if "/" not in repo_id:
            repo_id = f"{patiently(api.whoami, waits)['name']}/{repo_id}"
        if CARD in publication.files:
            card = parsed_card(publication.files[CARD])
            patiently(lambda: validate(card, publication.repo_type), waits)
        branch = _open_repository(api, publication, repo_id, waits)
        gone = _left_over(api, publication, repo_id, branch, waits)
        return _commit(api, publication, repo_id, branch.head, gone, waits)
    except PushError:
        raise
    except CLIENT_ERRORS as error:
        text = explained(error, repo_id, _account(api, repo_id, error), token)
        # A server may repeat what it was sent; such an error must not be shown behind ours either.
        tells = without_tokens(str(error), token) != str(error)
        raise PushError(text) from (None if tells else error)


@dataclass(frozen=True, slots=True)
class _Branch:
    """What is known of a branch before anything is sent to it: the commit that it is at, and that commit's files."""

    head: str | None
    files: frozenset[str]


def _open_repository(api: HfApi, publication: Publication, repo_id: str, waits: Sequence[float]) -> _Branch:
    """Make the repository if there is none, and look at its branch."""
    kind, revision = publication.repo_type, publication.revision
    try:
        info = patiently(lambda: api.repo_info(repo_id, repo_type=kind, revision=revision), waits)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError as error:
        if publication.create_pr:
            raise PushError(f"there is no repository {repo_id} to open a pull request in.") from error
        # Safe to repeat: one that is there by then is taken.
        patiently(lambda: api.create_repo(repo_id, repo_type=kind, private=publication.private, exist_ok=True), waits)
        info = patiently(lambda: api.repo_info(repo_id, repo_type=kind, revision=revision), waits)
    asked = publication.parent_commit
    if asked is not None and not (info.sha or "").startswith(asked.lower()):
        raise PushError(
            f"{repo_id} is at commit {(info.sha or 'none')[:12]} and not at {asked} (--parent_commit), so nothing was "
            "sent: it was changed by somebody else. Look at what is new there, then try again with its commit."
        )
    if publication.private and info.private is False:
        raise PushError(
            f"{repo_id} exists and is public; nothing was sent. Make it private in its settings, leave --private out, "
            "or choose another --repo_id."
        )
    siblings = getattr(info, "siblings", None) or ()  # not every kind of repository has them
    return _Branch(info.sha, frozenset(file.rfilename for file in siblings))


def _left_over(
    api: HfApi, publication: Publication, repo_id: str, branch: _Branch, waits: Sequence[float]
) -> tuple[str, ...]:
    """Files of an earlier publication that are still there and that this one does not have."""
    kind, card, head = publication.repo_type, publication.files.get(CARD), branch.head
    now = None if card is None else listed(text_of(card))
    if now is None or head is None or CARD not in branch.files:
        return ()
    before = listed(patiently(lambda: card_at(api, repo_id, kind, head), waits) or "") or {}
    asked = {name: known for name, known in before.items() if name in branch.files and name not in now}
    # The client repeats this by itself, but not before its version 2.
    return patiently(lambda: untouched(api, kind, repo_id, head, asked), waits)


def _commit(
    api: HfApi,
    publication: Publication,
    repo_id: str,
    head: str | None,
    gone: tuple[str, ...],
    waits: Sequence[float],
) -> Pushed:
    place = f"{ENDPOINT}/{'datasets/' if publication.repo_type == 'dataset' else ''}{repo_id}"
    opened: frozenset[str] = frozenset()
    if publication.create_pr:
        opened = patiently(lambda: pull_requests(api, publication.repo_type, repo_id), waits)
    for wait in (*waits, None):
        try:
            info = api.create_commit(
                repo_id,
                # Made anew each time: the client marks them as sent.
                [
                    *(CommitOperationAdd(name, content) for name, content in publication.files.items()),
                    *(CommitOperationDelete(name) for name in gone),
                ],
                commit_message=publication.message,
                repo_type=publication.repo_type,
                revision=publication.revision,
                create_pr=publication.create_pr,
                parent_commit=head,
            )
            return Pushed(repo_id, info.oid, info.pr_url or place, changed=info.oid != head, removed=gone)
        except CLIENT_ERRORS as error:
            path = request_path(error)
            client_tried = any(part in path for part in _RETRIED_BY_CLIENT)
            if not client_tried and (is_transient(error) or status_of(error) == 412 or isinstance(error, KeyError)):
                # It may have been made all the same, by this try or by one that came late.
                found = _found(api, publication, repo_id, head, gone, opened, waits)
                if found is not None:
                    commit, page = found
                    return Pushed(repo_id, commit, f"{place}{page}", changed=True, removed=gone)
            pause = pause_before(error, wait)
            if pause is None or client_tried:
                raise
            rest(error, pause)
    raise PushError(f"{repo_id}: no try succeeded.")  # not reached: the last try raises


def _found(
    api: HfApi,
    publication: Publication,
    repo_id: str,
    parent: str | None,
    gone: tuple[str, ...],
    opened: frozenset[str],
    waits: Sequence[float],
) -> tuple[str, str] | None:
    """The commit with the files and the end of its page's address, if a try whose answer was lost has made it."""
    kind, files = publication.repo_type, {**publication.files, **dict.fromkeys(gone)}
    if publication.create_pr:
        return patiently(lambda: pull_request_with(api, kind, repo_id, files, opened), waits)
    commit = patiently(lambda: commit_with(api, kind, repo_id, files, publication.revision, parent), waits)
    return None if commit is None else (commit, "")


def _account(api: HfApi, repo_id: str, error: BaseException) -> str:
    """What the token may do, where that is the question."""
    if status_of(error) != 403:
        return ""
    try:
        return described_account(api.whoami(), repo_id)
    except CLIENT_ERRORS:
        return "Check what your token may do with `hf auth whoami`."
