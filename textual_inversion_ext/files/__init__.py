"""Embedding files: what other programs wrote is read, what is written here is read by them.

`FORMATS` is the only list of formats; `ADDING.md` says how to add one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..atomic import atomic_write
from ..concept import LearnedConcept
from ..errors import ConceptError, ConfigError, EmbeddingFileError
from .base import Format
from .container import read_safetensors, safetensors_bytes
from .diffusers import DiffusersFormat
from .webui import WebuiFormat

__all__ = ["FORMATS", "load_concept", "save_concept"]

# A file is read by the first format that recognises it. diffusers' stays last: there, any name can be a token.
FORMATS: dict[str, Format] = {
    "webui": WebuiFormat(),
    "diffusers": DiffusersFormat(),
}

_ENDING = ".safetensors"
_PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")
_PREFERRED = "learned_embeds.safetensors"
_LISTED = 8


def load_concept(path: str | os.PathLike[str], *, token: str | None = None) -> LearnedConcept:
    """Reads a learned concept.

    Args:
        path: An embedding file, or a folder: its ``learned_embeds.safetensors``, else its only ``.safetensors`` file.
        token: Used instead of the token that the file names.

    Returns:
        The concept; its rows are float32 on the CPU.

    Raises:
        EmbeddingFileError: If there is no such file, or it is damaged or of no known format; the message says what was
            tried and what the file holds.
    """
    place = Path(path).expanduser()
    file = _file_in(place) if place.is_dir() else place
    _check_ending(file)
    tensors, metadata = read_safetensors(file)
    kind = next((candidate for candidate in FORMATS.values() if candidate.recognises(tensors, metadata)), None)
    if kind is None:
        known = "; ".join(f"{candidate.name} ({candidate.description})" for candidate in FORMATS.values())
        raise EmbeddingFileError(f"{file} is of no known format. It holds {_described(tensors)}. Known: {known}.")
    try:
        return kind.read(tensors, metadata, file.stem, token)
    except (ConceptError, EmbeddingFileError) as error:
        advice = "" if token else " If only its token is wrong, give another: load_concept(path, token='<name>')."
        raise EmbeddingFileError(
            f"{file}, read as format {kind.name!r}, holds {_described(tensors)}: {error}{advice}"
        ) from error


def save_concept(concept: LearnedConcept, path: str | os.PathLike[str], format: str = "diffusers") -> Path:
    """Writes a learned concept, atomically; missing folders are made.

    Args:
        concept: The concept.
        path: A ``.safetensors`` file, or a folder in which the format's usual file name is used.
        format: A key of `FORMATS`.

    Returns:
        The file that was written.

    Raises:
        ConfigError: If the format is unknown.
        EmbeddingFileError: If the file's ending is another, or the format cannot hold the concept.
    """
    if format not in FORMATS:
        raise ConfigError(f"file format is {format!r}; allowed: {', '.join(FORMATS)}.")
    kind = FORMATS[format]
    file = Path(path).expanduser()
    if file.is_dir() or not file.suffix:
        file = file / kind.file_name(concept)
    elif file.suffix.lower() != _ENDING:
        raise EmbeddingFileError(f"{file} ends in {file.suffix!r}; embeddings are written as {_ENDING} files.")
    atomic_write(file, safetensors_bytes(*kind.write(concept)))
    return file


def _file_in(folder: Path) -> Path:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise EmbeddingFileError(f"folder {folder} cannot be read: {error.strerror}.") from error
    found = [entry for entry in entries if entry.suffix.lower() == _ENDING and entry.is_file()]
    preferred = [entry for entry in found if entry.name == _PREFERRED]
    if preferred or len(found) == 1:
        return (preferred or found)[0]
    if found:
        raise EmbeddingFileError(
            f"folder {folder} has no {_PREFERRED} but {len(found)} other embedding files; give one of them: "
            f"{_listed([entry.name for entry in found])}."
        )
    pickles = [entry for entry in entries if entry.suffix.lower() in _PICKLE_ENDINGS]
    if pickles:
        _check_ending(pickles[0])
    inside = [entry for entry in entries if (entry / _PREFERRED).is_file()]
    hint = f" Its sub-folders do: give {inside[0]}." if inside else ""
    names = _listed([f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]) or "nothing"
    raise EmbeddingFileError(f"folder {folder} has no {_ENDING} file; it holds: {names}.{hint}")


def _check_ending(file: Path) -> None:
    if not file.is_file():
        raise EmbeddingFileError(f"no embedding file or folder at {file} (looked for {file.absolute()}).")
    ending = file.suffix.lower()
    if ending in _PICKLE_ENDINGS:
        raise EmbeddingFileError(
            f"{file} is a pickle, which can run foreign code when opened, and is not read. If it holds a plain dict of "
            f"tensors, convert it: safetensors.torch.save_file(torch.load({file.name!r}, weights_only=True), "
            f"{file.stem + _ENDING!r})."
        )
    if ending != _ENDING:
        raise EmbeddingFileError(f"{file} ends in {file.suffix!r}; embedding files that are read end in {_ENDING}.")


def _described(tensors: Mapping[str, Tensor]) -> str:
    shapes = [f"{key!r} {tuple(tensor.shape)}" for key, tensor in tensors.items()]
    return f"{len(shapes)} tensor{'' if len(shapes) == 1 else 's'}: {_listed(shapes)}" if shapes else "no tensors"


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
