"""Which embedding files a folder stands for, by their names alone; the same rules serve a listing of the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ...errors import EmbeddingFileError

__all__ = ["choose", "companions", "embedding_files", "files_of", "is_snapshot", "listed", "part_path"]

# Tried in this order; pickles only where there is nothing better, and pictures never: they may be mere previews.
_ENDINGS = ((".safetensors", ".pti"), (".bin", ".pt", ".pth", ".ckpt"))
_PREFERRED = ("learned_embeds.safetensors", "embeddings.pti", "learned_embeds.bin")
_DIFFUSERS_STEM = "learned_embeds"
_FURTHER = range(1, 8)  # no model has more text encoders
_LISTED = 8
_LEFT_OUT = re.compile(r"\.|checkpoint-\d+$|pytorch_lora_weights")
_SNAPSHOT = re.compile(rf"{_DIFFUSERS_STEM}(_\d)?-")


def part_path(path: Path, part: int) -> Path:
    """Names the file of a further text encoder as diffusers' SDXL script does.

    Args:
        path: The first file.
        part: 0 for itself, 1 for the second encoder's, ...

    Returns:
        ``learned_embeds_2.safetensors`` beside ``learned_embeds.safetensors``, ``learned_embeds_2-steps-500`` beside
        ``learned_embeds-steps-500``, ``corgi_2`` beside ``corgi``.
    """
    if part == 0:
        return path
    stem = path.stem
    rest = stem.removeprefix(_DIFFUSERS_STEM)
    numbered = f"{_DIFFUSERS_STEM}_{part + 1}{rest}" if _is_diffusers(stem) else f"{stem}_{part + 1}"
    return path.with_name(f"{numbered}{path.suffix}")


def companions(path: Path) -> list[Path]:
    """Finds the files that may hold a concept's further text encoders.

    Args:
        path: A file.

    Returns:
        Existing files named as `part_path` names them.
    """
    named = (part_path(path, part) for part in _FURTHER)
    return [file for file in named if file.is_file()]


def choose(names: Iterable[str]) -> list[str]:
    """Decides which files of one folder are its embeddings.

    Args:
        names: All file names.

    Returns:
        diffusers' or cog-sdxl's file if there is one, else all embedding files of the safest kind; a LoRA only where
        there is no other. diffusers' files of further text encoders are left to `companions`.
    """
    found = {name for name in names if not name.startswith(".")}
    for preferred in _PREFERRED:
        if preferred in found:
            return [preferred]
    return _of_safest_kind({name for name in found if not _LEFT_OUT.match(name)}) or _of_safest_kind(found)


def is_snapshot(file: Path) -> bool:
    """Tells the rows of other steps of a training from its final ones.

    Args:
        file: A file.

    Returns:
        True for ``learned_embeds-steps-500.safetensors``, ``learned_embeds-best.safetensors`` and the like beside
        ``learned_embeds.safetensors``.
    """
    return bool(_SNAPSHOT.match(file.name)) and file.with_name(_PREFERRED[0]).is_file()


def files_of(place: Path) -> list[Path]:
    """Finds the embedding files that a folder stands for.

    Args:
        place: The folder.

    Returns:
        The folder's embeddings; or, when it has none, those of its sub-folders that are concepts of one run. At least
        one.

    Raises:
        EmbeddingFileError: If a folder has none; the message lists what it holds.
    """
    try:
        entries = sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise EmbeddingFileError(f"folder {place} cannot be read: {error.strerror}.") from error
    chosen = choose(entry.name for entry in entries if entry.is_file())
    if chosen:
        return [place / name for name in chosen]
    inside = [entry / name for entry in entries for name in _PREFERRED if (entry / name).is_file()]
    if inside:
        return inside
    names = listed([f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]) or "nothing"
    raise EmbeddingFileError(f"folder {place} has no embedding file; it holds: {names}.")


def embedding_files(folder: Path, endings: Iterable[str]) -> list[Path]:
    """Finds every file in a folder and below that may be an embedding.

    Args:
        folder: The folder.
        endings: Endings of embedding files.

    Returns:
        Sorted paths, but diffusers' files of further text encoders last: they may belong to one before them. Hidden
        ones, and checkpoints and LoRAs of a training are left out.
    """
    wanted = tuple(endings)
    found = [path for path in folder.rglob("*") if path.name.lower().endswith(wanted) and path.is_file()]
    visible = [path for path in found if not any(map(_LEFT_OUT.match, path.relative_to(folder).parts))]
    further = {part_path(path, part) for path in visible if _is_diffusers(path.name) for part in _FURTHER}
    return sorted(visible, key=lambda path: (path in further, path))


def listed(names: Sequence[str]) -> str:
    """Joins names for a message.

    Args:
        names: Any number of names.

    Returns:
        The first few, and how many there are in all.
    """
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def folder_of(name: str) -> str:
    """Returns the folder part of a repository's file name, empty for its root."""
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else parent


def _of_safest_kind(names: Iterable[str]) -> list[str]:
    """Picks safe files, else pickles, without diffusers' files of further text encoders."""
    for endings in _ENDINGS:
        kind = sorted(name for name in names if name.lower().endswith(endings))
        further = {str(part_path(Path(name), part)) for name in kind if _is_diffusers(name) for part in _FURTHER}
        if kind:
            return [name for name in kind if name not in further]
    return []


def _is_diffusers(name: str) -> bool:
    return name.startswith(_DIFFUSERS_STEM)
