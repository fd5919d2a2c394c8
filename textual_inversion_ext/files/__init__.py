"""Embedding files: what other programs wrote is read, what is written here is read by them.

`FORMATS` is the only list of layouts, `TARGETS` the only list of tools that are written for; `ADDING.md` says how to
add one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..atomic import atomic_write
from ..concept import LearnedConcept
from ..errors import ConceptError, ConfigError, EmbeddingFileError
from .a1111 import A1111Format
from .base import Content, Format
from .bundle import BundleFormat
from .cloneofsimo import CloneofsimoFormat
from .cog import CogFormat
from .containers import ENDINGS, open_content, safetensors_bytes
from .diffusers import DiffusersFormat
from .emb_params import EmbParamsFormat
from .emp_params import EmpParamsFormat
from .encoders import EncodersFormat
from .metadata import Reading, concept_of, file_metadata, joined
from .places import companions, embedding_files, fetch, files_of, listed, parse_hub, part_path
from .targets import TARGETS, Target
from .tensors import BareFormat, ListFormat
from .tools import tools_for
from .xti import XTIFormat

__all__ = [
    "ENDINGS",
    "FORMATS",
    "TARGETS",
    "lay_out",
    "load_concept",
    "load_concepts",
    "save_concept",
    "scan",
    "tools_for",
]

logger = logging.getLogger(__name__)

# A file is read by the first format that recognises it. diffusers' stays last: there, any name can be a token.
FORMATS: dict[str, Format] = {
    "xti": XTIFormat(),
    "bundle": BundleFormat(),
    "a1111": A1111Format(),
    "cog": CogFormat(),
    "emb_params": EmbParamsFormat(),
    "emp_params": EmpParamsFormat(),
    "encoders": EncodersFormat(),
    "list": ListFormat(),
    "bare": BareFormat(),
    "cloneofsimo": CloneofsimoFormat(),
    "diffusers": DiffusersFormat(),
}

_ENDING = ".safetensors"
_MOST_NAME = 60


def load_concept(
    path: str | os.PathLike[str],
    *,
    token: str | None = None,
    revision: str | None = None,
    hf_token: str | None = None,
) -> LearnedConcept:
    """Reads a learned concept.

    Args:
        path: An embedding file of any known format; a folder that holds one; or, where no such path exists, a
            repository of the Hugging Face Hub (``"user/repo"``, ``"user/repo/file.safetensors"``, a page's address).
        token: Used instead of the token that the file names. Where there are several concepts: the one to take.
        revision: Branch, tag or commit of a repository.
        hf_token: Access token for the Hub; default: the one of ``hf auth login``.

    Returns:
        The concept; its rows are float32 on the CPU. Its metadata says what the file told, see
        `textual_inversion_ext.files.metadata`.

    Raises:
        EmbeddingFileError: If there is no such file, or it is damaged, dangerous, of no known format, or holds several
            concepts; the message says what was tried and what the file holds.
    """
    readings = _readings(path, revision, hf_token)
    if len(readings) == 1:
        return _checked(readings[0], token)
    chosen = [reading for reading in readings if reading.found.token == token]
    if len(chosen) == 1:
        return _checked(chosen[0], token)
    names = listed([f"{reading.found.token!r} in {reading.file.name}" for reading in readings])
    question = f"several are called {token!r}; give one file" if chosen else "choose one with token=, or give one file"
    raise EmbeddingFileError(
        f"{os.fspath(path)} holds {len(readings)} concepts: {names}; {question}. load_concepts() reads them all."
    )


def load_concepts(
    path: str | os.PathLike[str], *, revision: str | None = None, hf_token: str | None = None
) -> list[LearnedConcept]:
    """Reads all concepts of a file, folder or repository.

    Args:
        path: As for `load_concept`.
        revision: Branch, tag or commit of a repository.
        hf_token: Access token for the Hub; default: the one of ``hf auth login``.

    Returns:
        The concepts, at least one. Files that are halves of one concept (diffusers' SDXL script) count as one.

    Raises:
        EmbeddingFileError: As `load_concept`.
    """
    return [_checked(reading, None) for reading in _readings(path, revision, hf_token)]


def scan(
    path: str | os.PathLike[str], *, revision: str | None = None, hf_token: str | None = None
) -> Iterator[tuple[Path, list[LearnedConcept] | EmbeddingFileError]]:
    """Reads everything that a place holds, whatever of it can be read.

    Args:
        path: As for `load_concept`; of a folder every embedding file in it and below is read.
        revision: Branch, tag or commit of a repository.
        hf_token: Access token for the Hub; default: the one of ``hf auth login``.

    Yields:
        Each file, and its concepts or why it cannot be read. Pictures in a folder count only with an embedding inside.

    Raises:
        EmbeddingFileError: If the place holds no file at all, or only pictures without an embedding.
    """
    place, kind = _located(path)
    below = embedding_files(place, ENDINGS) if kind == "folder" else []
    used: set[Path] = set()
    told = False
    for file in below or _files(path, revision, hf_token):
        if file in used:
            continue
        try:
            readings, others = _whole(file)
            used.update(others)
            result: list[LearnedConcept] | EmbeddingFileError = [_checked(reading, None) for reading in readings]
        except EmbeddingFileError as error:
            if below and ENDINGS.get(file.suffix.lower()) == "picture":
                continue
            result = error
        told = True
        yield file, result
    if not told:
        raise EmbeddingFileError(
            f"folder {place} holds no embedding, only pictures without one inside: "
            f"{listed([str(file.relative_to(place)) for file in below])}."
        )


def save_concept(concept: LearnedConcept, path: str | os.PathLike[str], format: str = "diffusers") -> tuple[Path, ...]:
    """Writes a learned concept, each file atomically; missing folders are made.

    Args:
        concept: The concept.
        path: A ``.safetensors`` file, or a folder in which the tool's usual file name is used.
        format: A tool, a key of `TARGETS`, or a layout, a key of `FORMATS`.

    Returns:
        The files that were written: one, or for diffusers one per text encoder.

    Raises:
        ConfigError: If the format is unknown.
        EmbeddingFileError: If the file's ending is another, or the tool has no place for the concept.
    """
    stem, parts = lay_out(concept, format)
    file = Path(path).expanduser()
    if file.is_dir() or not file.suffix:
        file = file / f"{stem}{_ENDING}"
    elif file.suffix.lower() != _ENDING:
        raise EmbeddingFileError(f"{file} ends in {file.suffix!r}; embeddings are written as {_ENDING} files.")
    contents = [safetensors_bytes(tensors, metadata) for tensors, metadata in parts]
    files = tuple(part_path(file, number) for number in range(len(contents)))
    for target, content in zip(files, contents, strict=True):
        atomic_write(target, content)
    return files


def lay_out(concept: LearnedConcept, format: str) -> tuple[str, list[tuple[dict[str, Tensor], dict[str, str]]]]:
    """Lays a concept out for a tool without writing anything.

    Args:
        concept: The concept.
        format: A key of `TARGETS` or `FORMATS`.

    Returns:
        The usual file name without ending, and tensors and metadata of each file.

    Raises:
        ConfigError: If the format is unknown.
        EmbeddingFileError: If the tool has no place for the concept.
    """
    if format not in TARGETS and format not in FORMATS:
        raise ConfigError(f"file format is {format!r}; allowed: {', '.join(TARGETS)}.")
    target = TARGETS.get(format) or Target(format, FORMATS[format].description, {frozenset(concept.vectors): format})
    parts = [target.renamed(part) for part in FORMATS[target.layout_for(concept)].write(concept)]
    return target.stem_for(concept), [(part.tensors, file_metadata(concept, part.encoders)) for part in parts]


def _files(path: str | os.PathLike[str], revision: str | None, hf_token: str | None) -> Sequence[Path]:
    """Find the files of a path, or of a repository if there is no such path and it may be one."""
    place, kind = _located(path)
    hub = parse_hub(path) if isinstance(path, str) and not kind else None
    if hub is None:
        return files_of(place) if kind == "folder" else [place]
    return fetch(hub if revision is None else type(hub)(hub.repo_id, hub.path, revision), hf_token=hf_token)


def _located(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """The path, and whether a "folder" or a "file" (or anything else) is there, or nothing ("")."""
    if not os.fspath(path):
        raise EmbeddingFileError("the path of the embedding is empty; give a file, a folder or a repository.")
    place = Path(path)
    try:
        place = place.expanduser()
        return place, "folder" if place.is_dir() else "file" if place.exists() else ""
    except (OSError, ValueError, RuntimeError):  # a name too long, or with a NUL, or of no user's home
        return place, "file"


def _readings(path: str | os.PathLike[str], revision: str | None, hf_token: str | None) -> list[Reading]:
    """Find every concept of a place."""
    readings: list[Reading] = []
    used: set[Path] = set()
    for file in _files(path, revision, hf_token):
        if file not in used:
            found, others = _whole(file)
            readings += found
            used.update(others)
    return readings


def _whole(file: Path) -> tuple[list[Reading], list[Path]]:
    """Find the concepts of a file, and the files beside it that hold the other encoders of its only one."""
    found, used = _read(file), []
    if len(found) == 1 and found[0].format == "diffusers":
        for other in companions(file):
            halves = _read(other)
            whole = joined(found[0], halves[0]) if len(halves) == 1 else None
            if whole is not None:
                found = [whole]
                used.append(other)
    return found, used


def _read(file: Path) -> list[Reading]:
    """Find the concepts of one file, unchecked."""
    content = open_content(file)
    for kind in FORMATS.values():
        if kind.recognises(content):
            try:
                return [Reading(file, kind.name, content, found) for found in kind.read(content)]
            except EmbeddingFileError as error:
                raise _refusal(file, kind.name, content, error) from error
    known = "; ".join(f"{kind.name} ({kind.description})" for kind in FORMATS.values())
    optimizer = any("optimizer" in key for key in (*content.tensors, *content.metadata))
    hint = " It is the state of an optimizer, not an embedding." if optimizer else ""
    raise EmbeddingFileError(
        f"{file} ({content.container}) is of no known format. It holds {_described(content.tensors)}.{hint} "
        f"Tried: {known}."
    )


def _checked(reading: Reading, token: str | None) -> LearnedConcept:
    try:
        concept = concept_of(reading, token)
    except (ConceptError, EmbeddingFileError) as error:
        raise _refusal(reading.file, reading.format, reading.content, error) from error
    if "not_read" in concept.metadata:
        logger.warning("%s: left out: %s", reading.file, concept.metadata["not_read"])
    return concept


def _refusal(file: Path, kind: str, content: Content, error: Exception) -> EmbeddingFileError:
    about_token = isinstance(error, ConceptError) and "placeholder token" in str(error)
    advice = " Give another: load_concept(path, token='<name>')." if about_token else ""
    return EmbeddingFileError(f"{file}, read as format {kind!r}, holds {_described(content.tensors)}: {error}{advice}")


def _described(tensors: Mapping[str, Tensor]) -> str:
    shapes = [f"{_short(key)!r} {tuple(tensor.shape)}" for key, tensor in tensors.items()]
    return f"{len(shapes)} tensor{'' if len(shapes) == 1 else 's'}: {listed(shapes)}" if shapes else "no tensors"


def _short(name: str) -> str:
    return name if len(name) <= _MOST_NAME else f"{name[:_MOST_NAME]}..."
