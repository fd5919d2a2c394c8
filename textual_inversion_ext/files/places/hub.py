"""Embeddings on the Hugging Face Hub: what a user may type, and the files that it stands for."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ...errors import EmbeddingFileError
from ..containers import ENDINGS
from ..containers.limits import MOST_BYTES
from .folder import choose, folder_of, listed, part_path

__all__ = ["HubPlace", "fetch", "parse_hub"]

logger = logging.getLogger(__name__)

_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_WORD}/{_WORD}")
_PUBLIC_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
# Read beside an embedding, where they are.
_BESIDE = ("token_identifier.txt", "type_of_concept.txt", "special_params.json")


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A repository of the Hub, or a file or folder in it.

    Attributes:
        repo_id: ``user/name``.
        path: File or folder in the repository, empty for its root.
        revision: Branch, tag or commit, None for the main branch.
    """

    repo_id: str
    path: str = ""
    revision: str | None = None


def parse_hub(text: str) -> HubPlace | None:
    """Reads what a user typed where no such path exists.

    Args:
        text: ``user/repo``, ``user/repo/file.safetensors``, or the address of a repository or file page.

    Returns:
        What it names on the Hub, or None when it can only be a path.

    Raises:
        EmbeddingFileError: If it is an address of another site, or of no model repository.
    """
    if re.match(r"https?://", text, re.IGNORECASE):
        return _parse_address(text)
    parts = text.split("/")
    if len(parts) < 2 or not _REPOSITORY.fullmatch("/".join(parts[:2])) or ".." in text or "--" in parts[1]:
        return None
    # "embeddings/cat.pt" is a mistyped path: no repository is called like an embedding file.
    if len(parts) == 2 and parts[1].lower().endswith(tuple(ENDINGS)):
        return None
    return HubPlace("/".join(parts[:2]), "/".join(part for part in parts[2:] if part))


def _parse_address(text: str) -> HubPlace:
    from huggingface_hub import constants

    try:
        address = urlsplit(text)
        own = urlsplit(constants.ENDPOINT)
        host = address.hostname
    except ValueError as error:
        raise EmbeddingFileError(f"{text!r} is no address ({error}).") from error
    if address.netloc != own.netloc and host not in _PUBLIC_HOSTS:
        raise EmbeddingFileError(
            f"{text} is not on the Hugging Face Hub ({constants.ENDPOINT}); download the file and give its path."
        )
    parts = [unquote(part) for part in address.path.split("/") if part]
    if len(parts) < 2 or parts[0] in ("datasets", "spaces") or not _REPOSITORY.fullmatch("/".join(parts[:2])):
        raise EmbeddingFileError(
            f"{text} is no page of a model; expected .../user/repo or .../user/repo/blob/main/file.safetensors."
        )
    repo_id = "/".join(parts[:2])
    if len(parts) > 3 and parts[2] in ("blob", "resolve", "tree", "raw"):
        return HubPlace(repo_id, "/".join(parts[4:]), parts[3])
    return HubPlace(repo_id, "/".join(parts[2:]))


def fetch(place: HubPlace, *, hf_token: str | None = None, endpoint: str | None = None) -> list[Path]:
    """Downloads the embedding files of a repository into the Hub's cache.

    Args:
        place: Repository, file or folder.
        hf_token: Access token; None for the one of `hf auth login`.
        endpoint: Address of the Hub; None for the one that ``HF_ENDPOINT`` names.

    Returns:
        The files, chosen as in a local folder; their companions and small texts lie beside them. Without a connection,
        those that an earlier call has left in the cache.

    Raises:
        EmbeddingFileError: If there is no such repository or file, or no access, or neither connection nor cached file.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=hf_token)
    try:
        info = api.model_info(place.repo_id, revision=place.revision, files_metadata=True)
        sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or []}
        chosen = _chosen(place, sizes)
        wanted = [name for name in chosen for name in _with_companions(name, sizes)]
        large = [name for name in wanted if sizes[name] > MOST_BYTES]
        if large:
            raise EmbeddingFileError(
                f"{large[0]} in {place.repo_id} has {sizes[large[0]] / 1024**2:.0f} MiB; an embedding file has "
                "kilobytes. This looks like a model or a LoRA; nothing was downloaded."
            )
        # By the branch's name once: only this notes in the cache which commit the branch is at, for offline use.
        api.hf_hub_download(place.repo_id, chosen[0], revision=place.revision)
        local = {name: Path(api.hf_hub_download(place.repo_id, name, revision=info.sha)) for name in wanted}
    except EmbeddingFileError:
        raise
    # Raised for a missing repository are the Hub's errors, for a lost connection those of its HTTP library, which it
    # has exchanged before; all of them mean that there is no file.
    except Exception as error:
        # An answer, even a refusal, is newer than the cache.
        cached = _cached(place) if getattr(error, "response", None) is None else []
        if not cached:
            raise EmbeddingFileError(_explained(place, error)) from error
        logger.warning(
            "notice: %s comes from the cache; the Hub cannot be asked whether it has changed.", place.repo_id
        )
        return cached
    return [local[name] for name in chosen]


def _cached(place: HubPlace) -> list[Path]:
    """The embedding files of a repository that an earlier call has downloaded; empty where there are none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(place.repo_id, revision=place.revision, local_files_only=True))
        names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        return [folder / name for name in _chosen(place, dict.fromkeys(names, 0))]
    except (LocalEntryNotFoundError, EmbeddingFileError):
        return []


def _chosen(place: HubPlace, sizes: dict[str, int]) -> list[str]:
    """Pick the embedding files by the repository's listing."""
    if place.path in sizes:
        return [place.path]
    here = {PurePosixPath(name).name: name for name in sizes if folder_of(name) == place.path}
    chosen = choose(here)
    if chosen:
        return [here[name] for name in chosen]
    inside = [name for name in sizes if PurePosixPath(name).name in choose([PurePosixPath(name).name])]
    hint = f" Other folders do, for example {place.repo_id}/{inside[0]}." if inside else ""
    where = f"{place.repo_id}/{place.path}".rstrip("/")
    shown = sorted(name for name in here if not name.startswith("."))  # .gitattributes is in every repository
    raise EmbeddingFileError(f"{where} on the Hub has no embedding file; it holds: {listed(shown) or 'nothing'}.{hint}")


def _with_companions(name: str, sizes: dict[str, int]) -> list[str]:
    folder = PurePosixPath(name).parent
    further = [part_path(Path(name), part).as_posix() for part in range(1, 8)]
    beside = [(folder / text).as_posix() for text in _BESIDE]
    return [name, *(other for other in [*further, *beside] if other in sizes)]


def _explained(place: HubPlace, error: Any) -> str:
    """Say what an error of the Hub means for the user."""
    from huggingface_hub import errors

    where = f"{place.repo_id!r} is no existing path, and as a repository of the Hugging Face Hub it cannot be read"
    if isinstance(error, errors.GatedRepoError):
        return f"{where}: it is gated; accept its terms on its page, then log in with `hf auth login`."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{where}: there is none of this name, or it is private; check the name, or log in with `hf auth login`."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where}: it has no revision {place.revision!r}."
    if isinstance(error, errors.EntryNotFoundError):
        return f"{where}: it has no file {place.path!r}."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{where}: offline mode is on (HF_HUB_OFFLINE=1)."
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{where} ({cause}); check the connection, or give a file that you have."
