"""The door to training: check everything, prepare, run the loop."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers import DiffusionPipeline

from textual_inversion_ext.concept import ConceptSpec, check_distinct
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources import SkippedImage
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.records import TrainingResult
from textual_inversion_ext.training.callbacks import Callback
from textual_inversion_ext.training.loop import Loop
from textual_inversion_ext.training.outputs import RunFolder
from textual_inversion_ext.training.setup import IN_MEMORY, build_workshop, collect_all, open_model
from textual_inversion_ext.training.state import find_checkpoint
from textual_inversion_ext.training.trackers import tracker_names

logger = logging.getLogger(__name__)


class TextualInversionTrainer:
    """Learns new words for a frozen text-to-image model.

    Args:
        config: How to train.
        concepts: What to learn; one or several.
        pipeline: A loaded pipeline to train on instead of loading the one that the config names. It is used in place:
            moved to the training device and frozen; its weights and its tokenizer do not change.
        callbacks: Further watchers of the run, beside progress bar, step log, trackers and previews.

    Raises:
        ConfigError: There is nothing to learn.
        ConceptError: Two concepts would be mixed up.
    """

    def __init__(
        self,
        config: TextualInversionConfig,
        concepts: Sequence[ConceptSpec],
        *,
        pipeline: DiffusionPipeline | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if not concepts:
            raise ConfigError("There is no concept to learn; give at least one ConceptSpec.")
        check_distinct(concepts)
        self.config = config if pipeline is None else _named_after(config, pipeline)
        self.concepts = tuple(concepts)
        self.skipped_images: tuple[SkippedImage, ...] = ()
        self._pipeline = pipeline
        self._callbacks = tuple(callbacks)

    def train(self) -> TrainingResult:
        """Run the training, or the rest of it when it is resumed.

        Returns:
            The learned concepts and how they came about.

        Raises:
            TextualInversionError: Something is wrong with the input or the machine; see the classes in ``errors``.
            TrainingInterrupted: Ctrl-C; a checkpoint was written.
            TrainingDiverged: A loss was not finite; the last good rows were saved.
        """
        config = self.config
        checkpoint = find_checkpoint(config.resume_from_checkpoint, config.output_dir)
        folder = RunFolder(config.output_dir, self.concepts)
        folder.check(config, checkpoint)
        trackers = tracker_names(config.report_to)
        samples, skipped = collect_all(config, self.concepts)
        self.skipped_images = tuple(skipped)
        places = ProjectConfiguration(project_dir=str(folder.path), logging_dir=str(folder.path / config.logging_dir))
        accelerator = Accelerator(log_with=trackers or None, project_config=places)
        adapter = open_model(config, self._pipeline, accelerator.device)
        workshop = build_workshop(config, self.concepts, samples, adapter, accelerator)
        loop = Loop(config, self.concepts, workshop, folder, accelerator, self._callbacks)
        loop.begin(checkpoint)
        try:
            loop.run()
        finally:
            self._mention_skipped()
        return loop.result()

    def _mention_skipped(self) -> None:
        if self.skipped_images:
            names = "\n".join(f"  {skipped.reason}" for skipped in self.skipped_images)
            logger.warning("Left out %d picture(s) that could not be used:\n%s", len(self.skipped_images), names)


def _named_after(config: TextualInversionConfig, pipeline: Any) -> TextualInversionConfig:
    """Record where a given pipeline came from, unless the user has said so."""
    if config.pretrained_model_name_or_path != TextualInversionConfig.pretrained_model_name_or_path:
        return config
    name = getattr(pipeline, "config", {}).get("_name_or_path")
    return dataclasses.replace(config, pretrained_model_name_or_path=name or IN_MEMORY)
