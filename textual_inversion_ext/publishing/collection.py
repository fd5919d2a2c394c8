"""Many concepts at once: a repository for each, and one with a card that lists them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from hub_cards.card import Card
from hub_cards.concept_index import IndexContents, IndexEntry
from hub_cards.contents import Picture
from hub_cards.lookups import full_name
from hub_cards.publication import Publication, Pushed, check
from hub_cards.push import push
from textual_inversion_ext import __version__
from textual_inversion_ext.errors import PublishError
from textual_inversion_ext.publishing.cards import card_on_hub
from textual_inversion_ext.publishing.cleaning import clean_json
from textual_inversion_ext.publishing.facts import base_model_of
from textual_inversion_ext.publishing.run import concept_folders, read_run
from textual_inversion_ext.publishing.sending import prepare_run, publish_run
from textual_inversion_ext.publishing.settings import PublishSettings, command_for, own_errors

__all__ = ["members", "prepare_collection", "publish_collection"]


def members(folder: Path, settings: PublishSettings) -> list[tuple[Path, PublishSettings]]:
    """The concepts of a folder, and how each is published.

    Args:
        folder: A run with several concepts, or a folder of runs.
        settings: How the index is published; its owner is theirs.

    Returns:
        The folder of each, and its settings: ``user/library`` and ``<corgi>`` make ``user/corgi``.

    Raises:
        PublishError: There are none, or two would have the same repository.
    """
    if settings.dataset_repo_id is not None:
        raise PublishError(
            f"the pictures of many words do not go into one data set ({settings.dataset_repo_id}): each word's get one"
            " of their own, called like its repository with -images behind it. Leave --dataset_repo_id out."
        )
    folders = concept_folders(folder)
    if not folders:
        raise PublishError(f"{folder} holds no folder with a learned word; give the output_dir of a run, or of runs.")
    owner = settings.repo_id.rpartition("/")[0]
    found: dict[str, Path] = {settings.repo_id: folder}
    chosen = []
    for place in folders:
        name = _repository_name(read_run(place).concept.name)
        repo_id = f"{owner}/{name}" if owner else name
        if repo_id in found:
            raise PublishError(
                f"{place} and {found[repo_id]} would both be published as {repo_id}; give the index another --repo_id,"
                " or publish one of the two by itself."
            )
        found[repo_id] = place
        chosen.append(
            (place, dataclasses.replace(settings, repo_id=repo_id, parent_commit=None, description="", image=()))
        )
    return chosen


def prepare_collection(folder: Path, settings: PublishSettings) -> Iterator[Publication]:
    """Lay out what publishing a collection would send, without asking the Hub anything.

    Args:
        folder: A run with several concepts, or a folder of runs.
        settings: How the index is published.

    Yields:
        What each concept's repository would get, then the index.

    Raises:
        PublishError: Something cannot be published.
    """
    again = command_for(folder, settings, collection=True, dry_run=True)
    with own_errors(again, folder):
        chosen = members(folder, settings)
    for place, own in chosen:
        yield from prepare_run(place, own, online=False)
    with own_errors(again, folder):
        yield _index(chosen, settings, None)


def publish_collection(folder: Path, settings: PublishSettings, *, token: str | None = None) -> list[Pushed]:
    """Publish every concept of a folder, then the index.

    A collection that was published in part goes on where it stopped: what is there already makes no new commit.

    Args:
        folder: A run with several concepts, or a folder of runs; only read.
        settings: How the index is published.
        token: Access token; None for the one of `hf auth login`. It is neither stored nor shown.

    Returns:
        What came of each, the index last.

    Raises:
        PublishError: One did not succeed; those before it are published.
    """
    again = command_for(folder, settings, collection=True)
    with own_errors(again, folder):
        check(Publication(settings.repo_id, {}, "-"), token)
        settings = dataclasses.replace(settings, repo_id=full_name(settings.repo_id, token))
        chosen = members(folder, settings)
    done: list[Pushed] = []
    for place, own in tqdm(chosen, "publishing", unit="concept", leave=False, disable=None):
        done += publish_run(place, own, token=token)
    with own_errors(again, folder):
        previous = card_on_hub(settings.repo_id, token, revision=settings.revision)
        return [*done, push(_index(chosen, settings, previous), token=token)]


def _index(chosen: list[tuple[Path, PublishSettings]], settings: PublishSettings, previous: Card | None) -> Publication:
    files: dict[str, bytes | Path] = {}
    entries = []
    for place, own in chosen:
        run = read_run(place)
        (*_, publication) = prepare_run(place, dataclasses.replace(own, with_dataset=False), online=False)
        shown = next((name for name in sorted(publication.files) if name.startswith("pictures/")), None)
        picture = None
        if shown is not None:
            path = f"pictures/{own.repo_id.rpartition('/')[2]}{Path(shown).suffix}"
            files[path] = publication.files[shown]
            picture = Picture(path)
        scores = {
            str(score["metric"]): float(score["mean"])
            for score in clean_json(dict(run.report or {})).get("scores", [])
            if score.get("subject") == "word" and score.get("prompt") is None
        }
        base = base_model_of(run.concept, run.config)
        entries.append(IndexEntry(publication.repo_id, (run.concept.token,), base, picture, scores=scores))
    repo_id = settings.repo_id if "/" in settings.repo_id else f"YOUR_NAME/{settings.repo_id}"
    contents = IndexContents(
        title=repo_id.rpartition("/")[2],
        entries=tuple(entries),
        repo_id=repo_id,
        description=settings.description,
        license=settings.asked_license,
        library=f"textual-inversion-ext {__version__}",
    )
    card = Card.of(contents, previous=previous, discard_edits=settings.discard_edits)
    return Publication(
        repo_id,
        card.beside(files),
        message=f"List {len(entries)} words",
        private=settings.private or None,
        create_pr=settings.create_pr,
        revision=settings.revision,
        parent_commit=settings.parent_commit,
    )


def _repository_name(name: str) -> str:
    """A concept's name, of letters that a repository's name may have."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "-" for letter in name)
    while "--" in kept or ".." in kept:
        kept = kept.replace("--", "-").replace("..", ".")
    return kept.strip("-.")[:80] or "concept"
