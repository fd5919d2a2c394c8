"""Writing what a run has learned into its folder."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.files import TARGETS, save_concept
from textual_inversion_ext.training.outputs import DIFFUSERS_FILE, PER_IMAGE, RunFolder


def written_for(concept: LearnedConcept) -> tuple[str, ...]:
    """The tools that a run writes a concept for.

    Args:
        concept: The concept.

    Returns:
        Keys of ``TARGETS``.
    """
    # Other interfaces have no place for a word of Stable Diffusion XL that only the second text encoder knows.
    return ("diffusers", "webui") if TARGETS["webui"].takes(concept) else ("diffusers",)


def write_concept(run: RunFolder, concept: LearnedConcept, step: int | None = None) -> tuple[Path, ...]:
    """Write a concept's embedding files.

    Args:
        run: The run's folder.
        concept: The concept.
        step: Optimizer step of a snapshot, or None for the final files.

    Returns:
        The files written: for diffusers (one per text encoder), and for the final files also the one for other
        interfaces, if they have a place for the text encoders that learned.

    Raises:
        StorageError: The files cannot be written.
    """
    folder = run.concept_folder(concept.token)
    if step is not None:
        snapshot = folder / f"learned_embeds-steps-{step}.safetensors"
        return save_concept(concept, snapshot, "diffusers")
    names = {"diffusers": DIFFUSERS_FILE, "webui": f"{concept.name}.safetensors"}
    files = [save_concept(concept, folder / names[target], target) for target in written_for(concept)]
    return tuple(file for written in files for file in written)


def write_beside(run: RunFolder, token: str, others: Mapping[str, LearnedConcept]) -> tuple[Path, ...]:
    """Write rows of other steps beside a concept's final files, and remove those of an earlier session.

    Args:
        run: The run's folder.
        token: The concept's placeholder token.
        others: "last", "best" or "best-of-160" -> the concept with those rows.

    Returns:
        The files written, for diffusers: ``learned_embeds-best.safetensors`` and so on.

    Raises:
        StorageError: The files cannot be written.
    """
    folder = run.concept_folder(token)
    for name in ("last", "best", "best-of-*"):
        for old in folder.glob(f"learned_embeds*-{name}.safetensors"):
            old.unlink(missing_ok=True)
    files = [
        save_concept(concept, folder / f"learned_embeds-{label}.safetensors", "diffusers")
        for label, concept in others.items()
    ]
    return tuple(file for written in files for file in written)


def write_image_words(run: RunFolder, token: str, words: Sequence[LearnedConcept]) -> tuple[Path, ...]:
    """Write the words of a concept's single pictures: ``per_image/corgi-1/learned_embeds.safetensors`` and so on.

    Args:
        run: The run's folder.
        token: The concept's placeholder token.
        words: One for each picture.

    Returns:
        The files written, for diffusers.

    Raises:
        StorageError: The files cannot be written.
    """
    home = run.concept_folder(token) / PER_IMAGE
    files = [save_concept(word, home / word.name / DIFFUSERS_FILE, "diffusers") for word in words]
    return tuple(file for written in files for file in written)


def write_picture(picture: Image.Image, file: Path) -> None:
    """Write a picture as PNG.

    Args:
        picture: The picture.
        file: Where it goes.

    Raises:
        StorageError: The file cannot be written.
    """
    data = io.BytesIO()
    picture.save(data, "PNG")
    atomic_write(file, data.getvalue())
