"""The file that repeats a run: ``config.json`` of its output folder."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textual_inversion_ext import __version__
from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.concept import ConceptSpec, HubDataset
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.options import json_object

# Settings that name a model: one of the Hub, or a folder of this machine.
_MODELS = ("pretrained_model_name_or_path", "tokenizer_name", "mask_model", "clip_model")
_BUILT_IN = TextualInversionConfig.pretrained_model_name_or_path


def full_path(name: str) -> str:
    """Name a folder so that the name means it wherever it is read: ``models/sd15`` could as well be on the Hub.

    Args:
        name: Hub id, "pocket", or a folder.

    Returns:
        The full path of a folder that is here; any other name as it is.
    """
    return os.path.abspath(name) if name != _BUILT_IN and os.path.isdir(name) else name


def located(config: TextualInversionConfig) -> TextualInversionConfig:
    """Name the models of a run as they are recorded.

    Args:
        config: The run's settings.

    Returns:
        The settings with the full paths of models that lie here.
    """
    names = {name: full_path(value) for name in _MODELS if (value := getattr(config, name)) is not None}
    return TextualInversionConfig.from_dict({**config.to_dict(), **names})


def located_concept(concept: ConceptSpec) -> ConceptSpec:
    """Name what a concept starts from, and its pictures, as they are recorded.

    Args:
        concept: What is learned.

    Returns:
        The concept with the full paths of an embedding file, of pictures and of a data set's folder that lie here.
    """
    initializer, images = concept.initializer, concept.images
    if ("/" in initializer or os.sep in initializer) and os.path.exists(initializer):
        initializer = os.path.abspath(initializer)
    if isinstance(images, HubDataset):
        images = dataclasses.replace(images, dataset_name=full_path(images.dataset_name))
    elif isinstance(images, str | os.PathLike):
        images = _full_place(images)
    elif isinstance(images, list | tuple):
        images = [_full_place(image) if isinstance(image, str | os.PathLike) else image for image in images]
    return dataclasses.replace(concept, initializer=initializer, images=images)


def _full_place(path: str | os.PathLike[str]) -> str:
    """The full path of a file or folder that is here; ``~`` is the home folder, as where pictures are read."""
    place = os.path.expanduser(path)
    return os.path.abspath(place) if os.path.exists(place) else os.fspath(path)


def save_run(path: str | Path, config: TextualInversionConfig, concepts: Sequence[ConceptSpec]) -> None:
    """Write the file that repeats a run (``--config FILE``).

    How this one invocation dealt with an existing folder (overwriting, resuming) is left out; it is not part of it.
    What lies here is written with its full path, so that the file means the same in every folder.

    Args:
        path: The file, usually ``config.json`` in the output folder.
        config: The run's settings.
        concepts: What the run learned.

    Raises:
        StorageError: The file cannot be written.
    """
    plain = dataclasses.replace(located(config), overwrite_output_dir=False, resume_from_checkpoint=None)
    run = {
        "library_version": __version__,
        "config": plain.to_dict(),
        "concepts": [located_concept(concept).to_dict() for concept in concepts],
    }
    atomic_write(Path(path), json.dumps(run, indent=2, ensure_ascii=False) + "\n")


def load_run(path: str | Path) -> tuple[TextualInversionConfig, tuple[dict[str, Any], ...]]:
    """Read what ``save_run`` wrote, or a file that a person wrote in the same form.

    Args:
        path: The file.

    Returns:
        The settings, and one dict of ``ConceptSpec`` fields per concept (dicts, because a run on pictures in memory
        records no images and the caller may still add them).

    Raises:
        ConfigError: The file is missing, is no JSON object, or holds settings that are not allowed.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the run file {path}: {error}. Give the config.json of a run.") from error
    run = json_object(text, str(path))
    unknown = sorted(set(run) - {"library_version", "config", "concepts"})
    if unknown:
        raise ConfigError(f'{path} has unknown keys {unknown}; it may hold "config" and "concepts".')
    settings, concepts = run.get("config", {}), run.get("concepts", [])
    if not isinstance(settings, dict) or not isinstance(concepts, list):
        raise ConfigError(f'{path}: "config" must be an object and "concepts" a list.')
    if not all(isinstance(concept, dict) for concept in concepts):
        raise ConfigError(f'{path}: each entry of "concepts" must be an object with the fields of a ConceptSpec.')
    return TextualInversionConfig.from_dict(settings), tuple(concepts)
