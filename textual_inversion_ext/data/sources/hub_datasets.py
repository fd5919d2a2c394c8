"""Data sets of the Hugging Face Hub, and folders that `datasets` reads in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual_inversion_ext.concept import HubDataset
from textual_inversion_ext.data.sources.paths import expand_home
from textual_inversion_ext.errors import DataError, ImageError

__all__ = ["load_hub_dataset"]

_SAVED_TO_DISK = ("state.json", "dataset_dict.json")  # of a data set, of one with splits


def load_hub_dataset(source: HubDataset) -> Any:
    """Downloads a data set, or opens it in a folder.

    Args:
        source: Which one.

    Returns:
        A ``datasets.Dataset``.

    Raises:
        DataError: There is none of this name, configuration, split or revision, no access, or no connection.
    """
    folder = expand_home(source.dataset_name)
    try:
        if folder.is_dir():
            return _open_folder(source, folder)
        return _choose_split(_load(source), source)
    except (DataError, ImageError):
        raise
    # Raised are the errors of datasets, of the Hub's client, of its HTTP library and of the readers of each format; all
    # of them mean that there are no pictures.
    except Exception as error:
        raise DataError(_explained(source, error)) from error


def _open_folder(source: HubDataset, folder: Path) -> Any:
    import datasets

    if source.revision is not None:
        raise DataError(f"{_where(source)} is a folder, which has no revisions; leave --dataset_revision out.")
    if any((folder / name).is_file() for name in _SAVED_TO_DISK):
        return _choose_split(datasets.load_from_disk(str(folder)), source)
    return _choose_split(_load(source, str(folder)), source)


def _load(source: HubDataset, folder: str | None = None, split: str | None = None) -> Any:
    import datasets

    # No token is handed on: datasets finds the one of the login or of HF_TOKEN by itself.
    return datasets.load_dataset(
        folder or source.dataset_name, source.config_name, split=split, revision=source.revision
    )


def _choose_split(data: Any, source: HubDataset) -> Any:
    wanted = source.split
    if not isinstance(data, dict):  # saved to disk without splits
        if wanted is not None:
            raise DataError(f"{_where(source)} was saved without splits; leave --dataset_split out.")
        return data
    if wanted is None:
        wanted = "train" if "train" in data or len(data) != 1 else next(iter(data))
    if wanted in data:
        return data[wanted]
    if any(character in wanted for character in "[+"):
        return _slice(data, wanted)
    hint = "" if source.split else " Choose one with --dataset_split."
    raise DataError(f"{_where(source)} has no split {wanted!r}; it has: {', '.join(sorted(data))}.{hint}")


def _slice(data: Any, wanted: str) -> Any:
    """Cut out a part as `datasets` writes it: ``train[:10]``, ``train[50%:]``, ``train+test``.

    Args:
        data: A ``datasets.DatasetDict``.
        wanted: The part.

    Returns:
        A ``datasets.Dataset``.
    """
    import datasets

    instruction = datasets.ReadInstruction.from_spec(wanted)
    parts = [
        data[part.splitname].select(range(part.from_, part.to))
        for part in instruction.to_absolute({name: rows.num_rows for name, rows in data.items()})
    ]
    return datasets.concatenate_datasets(parts)


def _where(source: HubDataset) -> str:
    return f"the data set {source.dataset_name!r}"


def _explained(source: HubDataset, error: BaseException) -> str:
    """Say what an error of `datasets` or of the Hub means for the user.

    Args:
        source: What was to be loaded.
        error: What was raised.

    Returns:
        The message.
    """
    from datasets.exceptions import DatasetNotFoundError

    cause = " ".join(str(error).split())[:300] or type(error).__name__
    where = f"{_where(source)} cannot be read"
    chain = _types_of(error)
    if "RevisionNotFoundError" in chain:
        return f"{where}: it has no revision {source.revision!r} (--dataset_revision)."
    if "GatedRepoError" in chain or "is a gated dataset" in cause:  # datasets cuts the chain of causes off
        return f"{where}: it is gated; accept its terms on its page, then log in with `hf auth login` or set HF_TOKEN."
    if isinstance(error, DatasetNotFoundError):
        return (
            f"{where}: there is none of this name on the Hub and no such folder, or it is private; check the name, or "
            f"log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, ConnectionError) or "OfflineModeIsEnabled" in chain:
        return f"{where}: it is no folder here, and the Hub cannot be reached ({cause})."
    if "BuilderConfig" in cause or "Config name is missing" in cause:
        return f"{where}: choose a configuration with --dataset_config_name ({cause})."
    return f"{where} ({cause})."


def _types_of(error: BaseException | None) -> set[str]:
    found: set[str] = set()
    while error is not None:
        found.update(kind.__name__ for kind in type(error).__mro__)
        error = error.__cause__ or error.__context__
    return found
