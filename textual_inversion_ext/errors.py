"""Every error this library raises on purpose.

All of them derive from `TextualInversionError`, so that one `except` catches what the library says about a caller's
input. Each leaf is also the builtin that a caller who does not know this library would catch.

A message says what was got, what is allowed, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CheckpointError",
    "ConceptError",
    "ConfigError",
    "DataError",
    "DistributedError",
    "EmbeddingFileError",
    "ImageError",
    "MissingDependencyError",
    "ModelError",
    "OutputFolderError",
    "PublishError",
    "ReportError",
    "StorageError",
    "TextualInversionError",
    "TrainingDiverged",
    "TrainingInterrupted",
]


class TextualInversionError(Exception):
    """Base of all errors of this library; never raised itself."""


# What the caller asked for


class ConfigError(TextualInversionError, ValueError):
    """A setting is out of its range, or two settings contradict each other."""


class ConceptError(TextualInversionError, ValueError):
    """A concept cannot be learned or used as described: its token, its initializer, its number of vectors."""


class OutputFolderError(TextualInversionError, FileExistsError):
    """The output folder holds another run and nothing said that it may be overwritten or continued."""


# What was read


class ImageError(TextualInversionError, ValueError):
    """One picture cannot be used; the message names its file."""


class DataError(TextualInversionError, ValueError):
    """A source of pictures is missing, empty, or not of a kind that is understood."""


class EmbeddingFileError(TextualInversionError, ValueError):
    """A file of learned vectors is damaged, of an unknown format, or does not fit the model."""


class CheckpointError(TextualInversionError, ValueError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class ReportError(TextualInversionError, ValueError):
    """An evaluation report is missing, damaged, of another schema version, or about another model."""


class ModelError(TextualInversionError, OSError):
    """A model cannot be loaded, or is of a kind that cannot be trained here."""


# What happened on the way


class StorageError(TextualInversionError, OSError):
    """Writing failed: disk full, no permission, quota used up. Whatever stood at the target still stands there.

    `errno` holds the operating system's number where it is known.
    """


class PublishError(TextualInversionError, OSError):
    """A concept cannot be published, or the Hub refused it; the message says why, and the command to try again."""


class TrainingDiverged(TextualInversionError, RuntimeError):
    """The loss became NaN or infinite; the last good vectors were kept.

    Attributes:
        result: The `TrainingResult` of a run of several concepts, whose others were learned to the end; else None.
    """

    result: Any = None


class TrainingInterrupted(TextualInversionError, KeyboardInterrupt):
    """Ctrl-C during training; the step was finished and a checkpoint written. The message says how to resume."""


class DistributedError(TextualInversionError, RuntimeError):
    """Another process of the same run has ended, so that this one cannot go on."""


class MissingDependencyError(TextualInversionError, ImportError):
    """An optional package is not installed; the message says which command installs it."""
