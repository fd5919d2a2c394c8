"""The list of a publication's files at the end of its card: by it the next one knows what it may remove.

A file is removed when an earlier publication put it there, when it is still as it was put there, and when the new
publication does not have it. Whatever somebody else added or changed is theirs and stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from hub_cards.digests import digests, is_same
from hub_cards.own_sections import unsealed

__all__ = ["listed", "listing", "untouched", "without_listing"]

_BEGIN = "<!-- files published with this card; the next publication removes those that it has no more"
_LISTING = re.compile(rf"^{re.escape(_BEGIN)}\n(?P<files>[^>]*)\n-->\s*\Z", re.MULTILINE)


def listing(files: Mapping[str, bytes | Path]) -> str:
    """Write the list of a publication's files, as a comment that no reader sees.

    Args:
        files: Path in the repository -> content; without the card.

    Returns:
        The comment, of several lines.
    """
    text = json.dumps({name: digests(content) for name, content in sorted(files.items())}, indent=0)
    # Inside a string of JSON only; a name must not end the comment.
    return f"{_BEGIN}\n{text.replace('>', chr(92) + 'u003e')}\n-->"


def listed(card: str) -> dict[str, str] | None:
    """Read the list of a publication's files.

    Args:
        card: The text of its card.

    Returns:
        Path in the repository -> the file's digests; None for a card that does not end with a list, or whose list was
        spoiled.
    """
    found = _LISTING.search(unsealed(card))
    if found is None:
        return None
    try:
        files = json.loads(found["files"])
    except ValueError:
        return None
    return {str(name): str(names) for name, names in files.items()} if isinstance(files, dict) else None


def without_listing(body: str) -> str:
    """Take the list off a card's end.

    Args:
        body: The card's text, without its last line, the fingerprint.

    Returns:
        The text without it; a list that its user copied into an own section stays there.
    """
    return _LISTING.sub("", body)


def untouched(api: HfApi, repo_type: str, repo_id: str, commit: str, published: Mapping[str, str]) -> tuple[str, ...]:
    """Find which files are still as an earlier publication put them there.

    Args:
        api: The Hub.
        repo_type: Kind of repository.
        repo_id: ``user/name``.
        commit: The commit that is looked at.
        published: Path in the repository -> digests of what was published.

    Returns:
        Paths of those that nobody changed or removed since.
    """
    if not published:
        return ()
    tree = api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)
    there = [entry for entry in tree if isinstance(entry, RepoFile) and entry.path in published]
    return tuple(sorted(entry.path for entry in there if is_same(entry, published[entry.path])))
