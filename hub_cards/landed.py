"""Whether a commit was made whose answer never came: the files that a branch holds are compared with those sent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from hub_cards.digests import digests, is_same

__all__ = ["commit_with", "pull_request_with", "pull_requests"]

_MOST_COMMITS = 20


def commit_with(
    api: HfApi,
    repo_type: str,
    repo_id: str,
    files: Mapping[str, bytes | Path | None],
    revision: str | None,
    parent: str | None,
) -> str | None:
    """Find the commit after a known one that holds files.

    Args:
        api: The Hub.
        repo_type: Kind of repository.
        repo_id: ``user/name``.
        files: Path in the repository -> content; None for a file that is to be gone.
        revision: The branch; None for main.
        parent: The commit that the branch was at; None where it had none.

    Returns:
        The oldest commit after it that holds all of them, or None.
    """
    if api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha == parent:
        return None
    since: list[str] = []
    for commit in api.list_repo_commits(repo_id, repo_type=repo_type, revision=revision)[:_MOST_COMMITS]:
        if commit.commit_id == parent:
            break
        since.append(commit.commit_id)
    return next((commit for commit in reversed(since) if _holds(api, repo_type, repo_id, commit, files)), None)


def pull_requests(api: HfApi, repo_type: str, repo_id: str) -> frozenset[str]:
    """The pull requests of a repository.

    Args:
        api: The Hub.
        repo_type: Kind of repository.
        repo_id: ``user/name``.

    Returns:
        Their refs: ``refs/pr/1`` and so on.
    """
    refs = api.list_repo_refs(repo_id, repo_type=repo_type, include_pull_requests=True)
    return frozenset(entry.ref for entry in refs.pull_requests or [])


def pull_request_with(
    api: HfApi, repo_type: str, repo_id: str, files: Mapping[str, bytes | Path | None], before: frozenset[str]
) -> tuple[str, str] | None:
    """Find a new pull request that holds files.

    Args:
        api: The Hub.
        repo_type: Kind of repository.
        repo_id: ``user/name``.
        files: Path in the repository -> content; None for a file that is to be gone.
        before: Refs of the pull requests that are not new.

    Returns:
        Its commit, and the end of its page's address; None where there is none.
    """
    for ref in sorted(pull_requests(api, repo_type, repo_id) - before):
        if _holds(api, repo_type, repo_id, ref, files):
            commit = api.repo_info(repo_id, repo_type=repo_type, revision=ref).sha or ""
            return commit, f"/discussions/{ref.rsplit('/', 1)[-1]}"
    return None


def _holds(api: HfApi, repo_type: str, repo_id: str, revision: str, files: Mapping[str, bytes | Path | None]) -> bool:
    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    return all(
        name not in there if content is None else name in there and is_same(there[name], digests(content))
        for name, content in files.items()
    )
