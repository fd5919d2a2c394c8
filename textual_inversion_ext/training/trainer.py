"""The door to training: check everything, prepare, run the loop."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.state import is_initialized
from accelerate.utils import ProjectConfiguration
from diffusers import DiffusionPipeline

from textual_inversion_ext.concept import ConceptSpec, check_distinct
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import SkippedImage
from textual_inversion_ext.errors import CheckpointError, ConfigError
from textual_inversion_ext.initializers import initializer_of
from textual_inversion_ext.pipelines.loading import save_full_pipeline
from textual_inversion_ext.records import TrainingResult
from textual_inversion_ext.training.activation import check_progressive
from textual_inversion_ext.training.callbacks import Callback, trim_step_log
from textual_inversion_ext.training.divergence import divergence_error
from textual_inversion_ext.training.loop import Loop
from textual_inversion_ext.training.methods import check_methods
from textual_inversion_ext.training.outputs import RunFolder
from textual_inversion_ext.training.parts import tokens_with_rows
from textual_inversion_ext.training.pivotal.settings import check_pivotal, wants_lora
from textual_inversion_ext.training.processes.division import launch_notices
from textual_inversion_ext.training.processes.gathering import gathered, join_step_logs
from textual_inversion_ext.training.processes.group import Processes
from textual_inversion_ext.training.setup import IN_MEMORY, build_workshop, collect_all, open_model
from textual_inversion_ext.training.state import find_checkpoint
from textual_inversion_ext.training.trackers import tracker_names
from textual_inversion_ext.training.unused_settings import mention_unused

logger = logging.getLogger(__name__)


class TextualInversionTrainer:
    """Learns new words for a frozen text-to-image model.

    Args:
        config: How to train.
        concepts: What to learn; one or several.
        pipeline: A loaded pipeline to train on instead of loading the one that the config names. It is used in place:
            moved to the training device, in the number format of ``mixed_precision``, and frozen. Its tokenizer does
            not change, nor do its weights but for that.
        callbacks: Further watchers of the run, beside progress bar, step log, trackers and previews.

    Raises:
        ConfigError: There is nothing to learn, or the settings cannot work together.
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
        check_methods(config)
        for concept in concepts:
            initializer_of(concept, config)
        check_progressive(config, concepts)
        check_pivotal(config, concepts)
        mention_unused(config)
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
            TrainingDiverged: A loss was not finite; the last good rows were saved. Of several concepts, the others were
                learned to the end and are in the error's ``result``.
        """
        config = self.config
        checkpoint = find_checkpoint(config.resume_from_checkpoint, config.output_dir)
        whole = RunFolder(config.output_dir, self.concepts)
        whole.check(config, checkpoint)
        processes = Processes(
            _accelerator(config, whole), config.distribute, self.concepts, config.validation_prompt or ""
        )
        if processes.is_main:
            self._announce(processes)
        samples, skipped = collect_all(config, processes.own)
        self.skipped_images = tuple(processes.joined(skipped))
        adapter = open_model(config, self._pipeline, processes.accelerator.device)
        try:
            continued = tokens_with_rows(checkpoint, config) if checkpoint is not None else ()
            workshop = build_workshop(config, processes.own, samples, adapter, processes, continued)
            folder = RunFolder(config.output_dir, self.concepts, processes.part)
            loop = Loop(config, processes.own, workshop, folder, processes, self._callbacks)
            loop.begin(checkpoint)
            self._start_folder(whole, folder, processes, checkpoint, loop.progress.step)
            loop.run()
        finally:
            self._mention_skipped()
            if self._pipeline is not None:  # its owner may go on with it
                adapter.give_back()
        result = gathered(processes, loop.result(), whole)
        if config.save_as_full_pipeline and processes.is_main:
            files = [whole.embedding_file(concept.token) for concept in result.concepts]
            save_full_pipeline(adapter, files, whole.path, whole.lora_file() if wants_lora(config) else None)
        processes.wait()  # Nobody leaves, and ends the group, while another still writes.
        if result.diverged:
            error = divergence_error(config, whole.path, result.diverged, len(self.concepts))
            error.result = result
            raise error
        return result

    def push_to_hub(
        self,
        repo_id: str | None = None,
        *,
        private: bool = False,
        create_pr: bool = False,
        license: str | None = None,
        token: str | None = None,
    ) -> str:
        """Publish what `train` has written, with a model card; of several concepts each in a repository of its own.

        Args:
            repo_id: ``user/name``, or ``name`` for the account's own; None for the name of ``output_dir``. With several
                concepts, the repository of the card that lists them.
            private: Make new repositories private.
            create_pr: Send a pull request instead of a commit.
            license: The Hub's identifier of the licence; None to take over the one that the base model's card states.
            token: Access token; None for the one of `hf auth login`. It is neither stored nor shown.

        Returns:
            Address of the repository or pull request; empty in all processes but the main one.

        Raises:
            PublishError: It did not succeed; the message holds the command to try again.
        """
        from textual_inversion_ext.publishing import PublishSettings, publish_collection, publish_run

        if not PartialState().is_main_process:
            return ""
        folder = Path(self.config.output_dir)
        settings = PublishSettings(
            repo_id or folder.resolve().name, private=private, create_pr=create_pr, license=license
        )
        publish = publish_collection if len(self.concepts) > 1 else publish_run
        return publish(folder, settings, token=token)[-1].url

    def _announce(self, processes: Processes) -> None:
        """Say who does what, and where accelerate's own configuration is not followed."""
        if sentence := processes.description(self.config):
            logger.info("%s", sentence)
        for notice in launch_notices(self.config, os.environ):
            logger.warning("notice: %s", notice)

    def _start_folder(
        self, whole: RunFolder, folder: RunFolder, processes: Processes, checkpoint: Path | None, step: int
    ) -> None:
        """Make the output folder ready, after every process has read what it needs from it."""
        steps = processes.gather(step)
        if not processes.split and len(set(steps)) > 1:
            raise CheckpointError(
                f"The processes would start at different steps ({', '.join(map(str, steps))}): not all of them see the"
                f" same checkpoint. Put output_dir {self.config.output_dir} on a disk that all machines share."
            )
        keep = checkpoint is not None and whole.continues(checkpoint, self.config)
        if keep and processes.writes:
            folder.drop_later(step, [concept.placeholder_token for concept in processes.own])
        if processes.is_main:
            if keep and checkpoint is not None and (log := whole.drop_after(checkpoint)) is not None:
                trim_step_log(*log)
            whole.start(self.config, self.concepts, keep=keep)
            if keep and not processes.split:
                join_step_logs(whole)
                whole.drop_process_step_logs()
        processes.wait()

    def _mention_skipped(self) -> None:
        if self.skipped_images:
            names = "\n".join(f"  {skipped.reason}" for skipped in self.skipped_images)
            logger.warning("Left out %d picture(s) that could not be used:\n%s", len(self.skipped_images), names)


def _accelerator(config: TextualInversionConfig, whole: RunFolder) -> Accelerator:
    """Device, processes and trackers. Number formats are ours, whatever accelerate is configured for."""
    trackers = tracker_names(config.report_to)
    places = ProjectConfiguration(project_dir=str(whole.path), logging_dir=str(whole.path / config.logging_dir))
    # A caller who has made an Accelerator of another precision keeps it; a second one may not differ.
    precision = None if is_initialized() else "no"
    return Accelerator(mixed_precision=precision, log_with=trackers or None, project_config=places)


def _named_after(config: TextualInversionConfig, pipeline: Any) -> TextualInversionConfig:
    """Record where a given pipeline came from, unless the user has said so."""
    if config.pretrained_model_name_or_path != TextualInversionConfig.pretrained_model_name_or_path:
        return config
    name = getattr(pipeline, "config", {}).get("_name_or_path")
    return dataclasses.replace(config, pretrained_model_name_or_path=name or IN_MEMORY)
