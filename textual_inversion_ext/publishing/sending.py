"""From a run's folder, or a word, to a repository of the Hub: what is sent, and the sending."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hub_cards.lookups import full_name, writable_name
from hub_cards.publication import CARD, Publication, Pushed, check
from hub_cards.push import push
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.publishing.cards import card_of, card_on_hub, inherited, previous_card
from textual_inversion_ext.publishing.cleaning import refuse_private
from textual_inversion_ext.publishing.facts import card_contents
from textual_inversion_ext.publishing.files import files_of_concept, files_of_run
from textual_inversion_ext.publishing.pictures import dataset_place, dataset_publication
from textual_inversion_ext.publishing.run import FinishedRun, read_run
from textual_inversion_ext.publishing.settings import PublishSettings, command_for, own_errors

__all__ = ["check_hub", "describe", "prepare_run", "publish_concept", "publish_run"]

_HEAD = 64 * 1024  # of a file that is not text, only its header can tell something


def check_hub(repo_id: str, token: str | None = None) -> str:
    """Find out before a training whether its result can be published.

    Args:
        repo_id: ``user/name``, or ``name`` for the account's own.
        token: Access token; None for the one of `hf auth login`.

    Returns:
        ``user/name``.

    Raises:
        PublishError: Nobody is logged in, the token may not write, or the name cannot be one.
    """
    with own_errors():
        check(Publication(repo_id, {}, "-"), token)
        return writable_name(repo_id, token)


def prepare_run(
    folder: Path, settings: PublishSettings, *, token: str | None = None, online: bool = True
) -> list[Publication]:
    """Lay out what publishing a run would send. Sends nothing and changes nothing.

    Args:
        folder: The run's folder.
        settings: How.
        token: Access token; None for the one of `hf auth login`.
        online: Whether the Hub may be asked for the account's name, the base model's licence, and the card that is
            there now.

    Returns:
        The data set of the training pictures, if it was asked for, and the concept.

    Raises:
        PublishError: It cannot be published.
    """
    with own_errors(command_for(folder, settings, dry_run=not online), folder):
        run = read_run(folder)
        repo_id = full_name(settings.repo_id, token) if online else _with_owner(settings.repo_id)
        named = dataclasses.replace(settings, repo_id=repo_id)
        license = settings.asked_license or inherited(run, token, online)
        publications = []
        dataset = None
        if settings.with_dataset:
            place = dataset_place(named)
            branch = named.revision
            previous = card_on_hub(place, token, repo_type="dataset", revision=branch) if online else None
            pictures = dataset_publication(run, named, previous)
            publications.append(pictures)
            dataset = pictures.repo_id
        files = files_of_run(run, settings.image, dataset)
        contents = card_contents(
            run, files, repo_id=repo_id, license=license, description=settings.description, dataset=dataset
        )
        card = card_of(contents, settings, previous_card(folder, named, token, online))
        publications.append(_publication(named, card.beside(files.files), run.concept.token, folder))
        return publications


def publish_run(folder: Path, settings: PublishSettings, *, token: str | None = None) -> list[Pushed]:
    """Publish a run: one commit for each repository.

    Args:
        folder: The run's folder; only read.
        settings: How.
        token: Access token; None for the one of `hf auth login`. It is neither stored nor shown.

    Returns:
        What came of it: the data set of the training pictures, if it was asked for, and the concept.

    Raises:
        PublishError: It did not succeed; the message holds the command to try again.
    """
    with own_errors(command_for(folder, settings), folder):
        check(Publication(settings.repo_id, {}, "-"), token)  # before anything slow
    publications = prepare_run(folder, settings, token=token)
    with own_errors(command_for(folder, settings), folder):
        return [push(publication, token=token) for publication in publications]


def publish_concept(concept: LearnedConcept, settings: PublishSettings, *, token: str | None = None) -> Pushed:
    """Publish a word without its run.

    Args:
        concept: The word.
        settings: How; what is about a run's folder has no effect.
        token: Access token; None for the one of `hf auth login`. It is neither stored nor shown.

    Returns:
        What came of it.

    Raises:
        PublishError: It did not succeed.
    """
    with own_errors():
        check(Publication(settings.repo_id, {}, "-"), token)
        run = FinishedRun(Path(), concept)
        named = dataclasses.replace(settings, repo_id=full_name(settings.repo_id, token))
        license = settings.asked_license or inherited(run, token, online=True)
        files = files_of_concept(concept)
        contents = card_contents(run, files, repo_id=named.repo_id, license=license, description=settings.description)
        card = card_of(contents, named, card_on_hub(named.repo_id, token, revision=named.revision))
        publication = _publication(named, card.beside(files.files), concept.token, None)
        return push(publication, token=token)


def describe(publication: Publication) -> str:
    """Lists what would be sent: every file with its size, then the card.

    Args:
        publication: What would be sent.

    Returns:
        Several lines.
    """
    sizes = {
        name: len(content) if isinstance(content, bytes) else content.stat().st_size
        for name, content in publication.files.items()
    }
    width = max(len(name) for name in sizes)
    lines = [f"{name.ljust(width)}  {size:>12,} bytes" for name, size in sorted(sizes.items())]
    kind = "data set" if publication.repo_type == "dataset" else "model"
    how = "a pull request in" if publication.create_pr else "one commit to"
    private = ", private if it is new" if publication.private else ""
    card = publication.files[CARD]
    text = card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")
    return "\n".join(
        [
            f"{how} the {kind} {publication.repo_id}{private}: {len(sizes)} files, {sum(sizes.values()):,} bytes",
            *(f"  {line}" for line in lines),
            "",
            text,
        ]
    )


def _publication(
    settings: PublishSettings, files: dict[str, bytes | Path], token: str, folder: Path | None
) -> Publication:
    for name, content in files.items():
        if name.endswith((".png", ".jpg")):
            continue  # their metadata are gone, and pixels are no text
        head = content[:_HEAD] if isinstance(content, bytes) and not name.endswith((".md", ".json")) else content
        refuse_private(name, head if isinstance(head, bytes) else _head(head), folder)
    return Publication(
        settings.repo_id,
        files,
        message=f"Add {token}" if len(token) < 60 else "Add a learned word",
        private=settings.private or None,
        create_pr=settings.create_pr,
        revision=settings.revision,
        parent_commit=settings.parent_commit,
    )


def _head(file: Path) -> bytes:
    with open(file, "rb") as stream:
        return stream.read(_HEAD)


def _with_owner(repo_id: str) -> str:
    return repo_id if "/" in repo_id else f"YOUR_NAME/{repo_id}"
