"""Which files of a run are published, and what they hold; whatever is not named here stays on this machine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_cards.contents import EmbeddingFile, Picture
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import PublishError
from textual_inversion_ext.evaluation.report import REPORT_FILE
from textual_inversion_ext.files import TARGETS, lay_out
from textual_inversion_ext.files.containers import safetensors_bytes
from textual_inversion_ext.publishing.cleaning import (
    clean_json,
    clean_metadata,
    clean_picture,
    clean_safetensors,
    clean_text,
)
from textual_inversion_ext.publishing.run import LORA, FinishedRun

__all__ = ["RepositoryFiles", "files_of_concept", "files_of_run"]

PICTURES = "pictures"
"""Folder of the pictures in a repository."""
MOST_PICTURES = 8
"""As many pictures are published, unless more are asked for."""

# Where the pipelines into which diffusers loads words have their encoders: SD, SDXL's second alone, SDXL, Flux. Stable
# Diffusion 3, PixArt and HiDream are none of them, and rows for T5 alone do not say whose T5 it is.
_PLACES: dict[frozenset[str], dict[str, str]] = {
    frozenset(places): places
    for places in (
        {"clip_l": "text_encoder"},
        {"clip_g": "text_encoder_2"},
        {"clip_l": "text_encoder", "clip_g": "text_encoder_2"},
        {"clip_l": "text_encoder", "t5": "text_encoder_2"},
    )
}


@dataclass(frozen=True, slots=True)
class RepositoryFiles:
    """The files of a repository, all but the card.

    Attributes:
        files: Path in the repository -> content, or the file that holds it.
        embeddings: Those among them that diffusers can load; none where it has no pipeline for all of them.
        ui_file: The one for other interfaces.
        lora: The LoRA's.
        pictures: The pictures among them, with their prompts.
        report: The published report as JSON; None without one.
    """

    files: Mapping[str, bytes | Path]
    embeddings: tuple[EmbeddingFile, ...]
    ui_file: str | None = None
    lora: str | None = None
    pictures: tuple[Picture, ...] = ()
    report: Mapping[str, Any] | None = field(default=None)


def files_of_concept(concept: LearnedConcept) -> RepositoryFiles:
    """Lay out the files of a word alone.

    Args:
        concept: The word.

    Returns:
        Embedding files, that of other interfaces if they have a place for the word, and the small texts of the concepts
        library.
    """
    clean = dataclasses.replace(concept, metadata=clean_metadata(concept.metadata))
    files: dict[str, bytes | Path] = {}
    embeddings = []
    places = _PLACES.get(frozenset(concept.vectors))
    for number, (tensors, metadata) in enumerate(lay_out(clean, "diffusers")[1]):
        name = "learned_embeds.safetensors" if number == 0 else f"learned_embeds_{number + 1}.safetensors"
        files[name] = safetensors_bytes(tensors, metadata)
        if places is not None:
            embeddings.append(EmbeddingFile(name, places[metadata["encoder"]]))
    ui_file = None
    if TARGETS["webui"].takes(concept):
        ui_file = f"{concept.name}.safetensors"
        (tensors, metadata), *_ = lay_out(clean, "webui")[1]
        files[ui_file] = safetensors_bytes(tensors, metadata)
    kind = concept.metadata.get("learnable_property", "object")
    # Source: the layout of https://huggingface.co/sd-concepts-library, which several tools read.
    files["token_identifier.txt"] = concept.token.encode()
    files["type_of_concept.txt"] = kind.encode()
    return RepositoryFiles(files, tuple(embeddings), ui_file)


def files_of_run(run: FinishedRun, pictures: Sequence[Path] = (), dataset: str | None = None) -> RepositoryFiles:
    """Choose what of a run is published.

    Args:
        run: The run.
        pictures: Pictures to publish instead of those that the run made itself.
        dataset: The data set that its pictures are published as, if they are.

    Returns:
        Embedding files, LoRA, settings, report and pictures; nothing else of the folder.

    Raises:
        PublishError: One of them cannot be read.
    """
    base = files_of_concept(run.concept)
    files = dict(base.files)
    lora = LORA if (run.folder / LORA).is_file() else None
    if lora is not None:
        files[lora] = clean_safetensors(run.folder / lora)
    if run.config is not None:
        files["config.json"] = _as_json(_settings(run, dataset))
    found = _given(pictures) if pictures else _made(run)
    chosen: list[Picture] = []
    for number, (file, prompt, seed) in enumerate(found, start=1):
        content, ending = clean_picture(file)
        path = f"{PICTURES}/{number:02d}{ending}"
        files[path] = content
        chosen.append(Picture(path, clean_text(prompt), seed))
    report = None
    if run.report is not None:
        report = clean_json(run.report)
        files["evaluation/report.json"] = _as_json(report)
    return RepositoryFiles(files, base.embeddings, base.ui_file, lora, tuple(chosen), report)


def _settings(run: FinishedRun, dataset: str | None) -> dict[str, Any]:
    """The run's settings as they may be known: without the places of this machine and its pictures."""
    recorded = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
    concept = {name: value for name, value in run.fields.items() if name != "images"}
    images = run.fields.get("images")
    if dataset is not None:
        concept["images"] = {"dataset_name": dataset}
    elif isinstance(images, dict) and not _lies_here(images):
        concept["images"] = images
    plain = {
        **recorded.get("config", {}),
        "output_dir": TextualInversionConfig.output_dir,
        "logging_dir": TextualInversionConfig.logging_dir,
        "resume_from_checkpoint": None,
    }
    return clean_json({**recorded, "config": plain, "concepts": [concept]})


def _lies_here(images: Mapping[str, Any]) -> bool:
    name = str(images.get("dataset_name", ""))
    return name.startswith(("/", "~", ".")) or "\\" in name or Path(name).exists() or name.count("/") != 1


def _given(pictures: Sequence[Path]) -> list[tuple[Path, str, int | None]]:
    missing = [file for file in pictures if not file.is_file()]
    if missing:
        raise PublishError(f"there is no picture {missing[0]}; --image takes picture files of this machine.")
    return [(file, _prompt_in(file), None) for file in pictures]


def _made(run: FinishedRun) -> list[tuple[Path, str, int | None]]:
    """Pictures of the evaluation, one of every prompt; without one, the last preview."""
    found: list[tuple[Path, str, int | None]] = []
    home = run.folder / "evaluation"
    for group in run.report.get("pictures", []) if run.report else []:
        if group["subject"] == "word" and group["prompt"] and group["files"]:
            file = _inside(home, group["files"][0])
            seeds = group.get("seeds") or [None]
            found += [] if file is None else [(file, group["text"] or group["prompt"], seeds[0])]
    previews = sorted((run.folder / "previews").glob("*.png"))
    if not found and previews:
        prompt = run.config.validation_prompt if run.config else None
        found.append((previews[-1], prompt or "", None))
    return found[:MOST_PICTURES]


def _inside(home: Path, name: str) -> Path | None:
    """A picture that a report names, if it is there; the report may come from somebody else, and name any file."""
    file = home / name
    try:
        if file.resolve().is_relative_to(home.resolve()):
            return file if file.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long, with a NUL, or links that lead to each other
        pass
    raise PublishError(
        f"{home / REPORT_FILE} names a picture that is not in its folder ({name}); evaluate again, remove the report,"
        " or choose pictures with --image."
    )


def _prompt_in(file: Path) -> str:
    """The prompt that ``textual-inversion generate`` wrote into a picture; empty where there is none.

    Other programs write whole workflows under the same name, with whatever keys and places are in them.
    """
    from PIL import Image

    try:
        with Image.open(file) as picture:
            ours = str(picture.info.get("Software", "")).startswith("textual-inversion-ext")
            return str(picture.info.get("prompt", "")) if ours else ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # said when its pixels are read
        return ""


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
