"""Teach a frozen text-to-image diffusion model a new word from 3-100 pictures.

Public names are resolved on first use (PEP 562), so that importing the package imports neither torch nor diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The one list of public names. The TYPE_CHECKING block below repeats it for type checkers; a test holds them equal.
_MODULE_OF_NAME = {
    "CheckpointError": "errors",
    "ConceptError": "errors",
    "ConceptLoaderMixin": "pipelines.words.loader",
    "ConceptSpec": "concept",
    "ConceptStableDiffusionImg2ImgPipeline": "pipelines.words.ready",
    "ConceptStableDiffusionInpaintPipeline": "pipelines.words.ready",
    "ConceptStableDiffusionPipeline": "pipelines.words.ready",
    "ConceptStableDiffusionXLImg2ImgPipeline": "pipelines.words.ready",
    "ConceptStableDiffusionXLInpaintPipeline": "pipelines.words.ready",
    "ConceptStableDiffusionXLPipeline": "pipelines.words.ready",
    "ConfigError": "errors",
    "DataError": "errors",
    "DistributedError": "errors",
    "EmbeddingFileError": "errors",
    "EvaluationReport": "evaluation.report",
    "Evaluator": "evaluation.evaluator",
    "HubDataset": "concept",
    "ImageError": "errors",
    "LearnedConcept": "concept",
    "MissingDependencyError": "errors",
    "ModelError": "errors",
    "OutputFolderError": "errors",
    "PublishError": "errors",
    "RECIPES": "recipes",
    "ReportError": "errors",
    "StorageError": "errors",
    "TextualInversionConfig": "config",
    "TextualInversionError": "errors",
    "TextualInversionTrainer": "training.trainer",
    "TrainingDiverged": "errors",
    "TrainingInterrupted": "errors",
    "TrainingResult": "records",
    "add_concept_loading": "pipelines.words.loader",
    "blend_concepts": "pipelines.words.blending",
    "contact_sheet": "pipelines.sheets",
    "load_concept": "files",
    "load_pipeline": "pipelines.loading",
    "sample": "pipelines.sampling",
    "save_concept": "files",
}

if TYPE_CHECKING:
    from .concept import ConceptSpec as ConceptSpec
    from .concept import HubDataset as HubDataset
    from .concept import LearnedConcept as LearnedConcept
    from .config import TextualInversionConfig as TextualInversionConfig
    from .errors import CheckpointError as CheckpointError
    from .errors import ConceptError as ConceptError
    from .errors import ConfigError as ConfigError
    from .errors import DataError as DataError
    from .errors import DistributedError as DistributedError
    from .errors import EmbeddingFileError as EmbeddingFileError
    from .errors import ImageError as ImageError
    from .errors import MissingDependencyError as MissingDependencyError
    from .errors import ModelError as ModelError
    from .errors import OutputFolderError as OutputFolderError
    from .errors import PublishError as PublishError
    from .errors import ReportError as ReportError
    from .errors import StorageError as StorageError
    from .errors import TextualInversionError as TextualInversionError
    from .errors import TrainingDiverged as TrainingDiverged
    from .errors import TrainingInterrupted as TrainingInterrupted
    from .evaluation.evaluator import Evaluator as Evaluator
    from .evaluation.report import EvaluationReport as EvaluationReport
    from .files import load_concept as load_concept
    from .files import save_concept as save_concept
    from .pipelines.loading import load_pipeline as load_pipeline
    from .pipelines.sampling import sample as sample
    from .pipelines.sheets import contact_sheet as contact_sheet
    from .pipelines.words.blending import blend_concepts as blend_concepts
    from .pipelines.words.loader import ConceptLoaderMixin as ConceptLoaderMixin
    from .pipelines.words.loader import add_concept_loading as add_concept_loading
    from .pipelines.words.ready import (
        ConceptStableDiffusionImg2ImgPipeline as ConceptStableDiffusionImg2ImgPipeline,
    )
    from .pipelines.words.ready import (
        ConceptStableDiffusionInpaintPipeline as ConceptStableDiffusionInpaintPipeline,
    )
    from .pipelines.words.ready import (
        ConceptStableDiffusionPipeline as ConceptStableDiffusionPipeline,
    )
    from .pipelines.words.ready import (
        ConceptStableDiffusionXLImg2ImgPipeline as ConceptStableDiffusionXLImg2ImgPipeline,
    )
    from .pipelines.words.ready import (
        ConceptStableDiffusionXLInpaintPipeline as ConceptStableDiffusionXLInpaintPipeline,
    )
    from .pipelines.words.ready import (
        ConceptStableDiffusionXLPipeline as ConceptStableDiffusionXLPipeline,
    )
    from .recipes import RECIPES as RECIPES
    from .records import TrainingResult as TrainingResult
    from .training.trainer import TextualInversionTrainer as TextualInversionTrainer

__all__ = ["__version__", *_MODULE_OF_NAME]


def __getattr__(name: str) -> Any:
    """Import the module that defines a public name, the first time the name is used.

    Args:
        name: Attribute that Python did not find in this module.

    Returns:
        The object of that name; kept in this module, so that the next access is a plain one.

    Raises:
        AttributeError: If the package has no public name like this.
    """
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF_NAME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the module's attributes, the ones not imported yet included."""
    return sorted({*globals(), *_MODULE_OF_NAME})
