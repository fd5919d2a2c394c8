"""The file that repeats a run: ``config.json`` of its output folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textual_inversion_ext import __version__
from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.options import json_object


def save_run(path: str | Path, config: TextualInversionConfig, concepts: Sequence[ConceptSpec]) -> None:
    """Write the file that repeats a run (``--config FILE``).

    How this one invocation dealt with an existing folder (overwriting, resuming) is left out; it is not part of it.

    Args:
        path: The file, usually ``config.json`` in the output folder.
        config: The run's settings.
        concepts: What the run learned.

    Raises:
        StorageError: The file cannot be written.
    """
    plain = dataclasses.replace(config, overwrite_output_dir=False, resume_from_checkpoint=None)
    run = {
        "library_version": __version__,
        "config": plain.to_dict(),
        "concepts": [concept.to_dict() for concept in concepts],
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
