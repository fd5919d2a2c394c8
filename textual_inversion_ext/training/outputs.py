"""What the folder of a run contains, and which of it may be replaced."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from diffusers import DiffusionPipeline

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError, OutputFolderError, StorageError
from textual_inversion_ext.pipelines.lora import LORA_FILE
from textual_inversion_ext.placeholders import file_stem
from textual_inversion_ext.run_file import load_run, located, save_run
from textual_inversion_ext.training.clearing import (
    EMBEDDINGS,
    PER_IMAGE,
    STEP_LOG,
    clear_embeddings,
    clear_lora,
    clear_pipeline,
    clear_progress,
    remove_empty,
)
from textual_inversion_ext.training.state import PART, checkpoints_in, is_checkpoint_name, trajectory

__all__ = ["DIFFUSERS_FILE", "PER_IMAGE", "STEP_LOG", "RunFolder"]

logger = logging.getLogger(__name__)

DIFFUSERS_FILE = "learned_embeds.safetensors"
"""File name that diffusers' ``load_textual_inversion(folder)`` looks for."""


class RunFolder:
    """The output folder of one run.

    With one concept the embedding files lie in the folder itself; with several, each concept has a sub-folder::

        config.json  steps.jsonl  previews/  checkpoint-500/  logs/
        learned_embeds.safetensors   (diffusers)
        corgi.safetensors            (other interfaces: the file's name is the word to type)
        pytorch_lora_weights.safetensors  (diffusers' LoRA, if one was trained beside the word)
        learned_embeds-best.safetensors  learned_embeds-best-of-160.safetensors  (rows of other steps, see KeptRows)

    Args:
        path: The folder; it need not exist yet.
        concepts: What the run learns.
        process: Number of the process whose checkpoints and step log are meant, where each trains concepts of its own:
            they lie in ``process-0/`` and so on.
    """

    def __init__(self, path: str | Path, concepts: Sequence[ConceptSpec], process: int | None = None) -> None:
        self.path = Path(path)
        self._home = self.path if process is None else self.path / PART.format(process)
        self._folder_of = {
            concept.placeholder_token: self.path / concept.name if len(concepts) > 1 else self.path
            for concept in concepts
        }

    @property
    def config_file(self) -> Path:
        """The file that repeats the run."""
        return self.path / "config.json"

    @property
    def step_log(self) -> Path:
        """One JSON object per line, one line per log."""
        return self._home / STEP_LOG

    @property
    def previews(self) -> Path:
        """Folder of the preview pictures."""
        return self.path / "previews"

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies.

        Args:
            step: Optimizer steps done.

        Returns:
            The checkpoint's folder, whether it exists or not.
        """
        return self._home / f"checkpoint-{step}"

    def checkpoints(self) -> list[Path]:
        """The checkpoints that exist, oldest first."""
        return checkpoints_in(self._home)

    def concept_folder(self, token: str) -> Path:
        """Where the files of a concept lie.

        Args:
            token: The concept's placeholder token.

        Returns:
            The folder of the run, or the concept's own one in it.
        """
        return self._folder_of[token]

    def embedding_file(self, token: str) -> Path:
        """Where the final diffusers file of a concept lies.

        Args:
            token: The concept's placeholder token.

        Returns:
            The file's path.
        """
        return self._folder_of[token] / DIFFUSERS_FILE

    def lora_file(self, step: int | None = None) -> Path:
        """Where the LoRA lies that was trained beside the only concept.

        Args:
            step: Optimizer step of a snapshot, or None for the final file.

        Returns:
            The file's path, whether it exists or not.
        """
        name = Path(LORA_FILE)
        return self.path / (LORA_FILE if step is None else f"{name.stem}-steps-{step}{name.suffix}")

    def check(self, config: TextualInversionConfig, checkpoint: Path | None) -> None:
        """Refuse a folder that a run must not write to. Changes nothing.

        Args:
            config: The run's settings.
            checkpoint: The checkpoint that the run continues from, if it continues one.

        Raises:
            OutputFolderError: The path is a file, or the folder holds another run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputFolderError(f"output_dir {self.path} is a file; give the name of a folder.")
        found = [] if config.overwrite_output_dir else self._found(config)
        if not found or (self._begins_again(config) if checkpoint is None else self.continues(checkpoint, config)):
            return
        raise OutputFolderError(
            f"output_dir {self.path} already holds a run, or files that this one would replace"
            f" ({', '.join(found[:4])}). Choose another --output_dir, continue that run with --resume_from_checkpoint"
            " latest, or replace it with --overwrite_output_dir."
        )

    def continues(self, checkpoint: Path, config: TextualInversionConfig) -> bool:
        """Whether a checkpoint belongs to the run that this folder holds, wherever the checkpoint lies.

        Args:
            checkpoint: The checkpoint's folder.
            config: The settings of the run that continues.

        Returns:
            True when it lies here, or when what is recorded here would train the same rows.
        """
        own = [folder.resolve() for folder in (self.path, *self._process_folders())]
        if checkpoint.resolve() == own[0] or checkpoint.resolve().parent in own:
            return True
        recorded, tokens = self._recorded()
        if recorded is None or set(tokens) != set(self._folder_of):
            return False
        return trajectory(located(recorded), (), 1) == trajectory(located(config), (), 1)

    def _begins_again(self, config: TextualInversionConfig) -> bool:
        """Whether "latest" found nothing because this same run was stopped before its first checkpoint."""
        if config.resume_from_checkpoint != "latest" or self._finished():
            return False
        return set(self._recorded()[1]) == set(self._folder_of)

    def _finished(self) -> bool:
        """Whether final embedding files are there, of one concept or of several."""
        return (self.path / DIFFUSERS_FILE).exists() or any(self.path.glob(f"*/{DIFFUSERS_FILE}"))

    def _recorded(self) -> tuple[TextualInversionConfig | None, list[str]]:
        """Settings and tokens of the run that the folder holds; none if they are not ours or damaged."""
        try:
            recorded, concepts = load_run(self.config_file)
            return recorded, [str(concept["placeholder_token"]) for concept in concepts]
        except (ConfigError, KeyError, TypeError):
            return None, []

    def start(self, config: TextualInversionConfig, concepts: Sequence[ConceptSpec], *, keep: bool) -> None:
        """Make the folder ready: remove what an overwritten run left, write ``config.json``.

        With several concepts, the folder of each gets a ``config.json`` of its own.

        Args:
            config: The run's settings.
            concepts: What the run learns.
            keep: Whether the run continues the one that the folder holds; then nothing is removed.

        Raises:
            StorageError: The folder cannot be made or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not keep:
                self._clear()
        except OSError as error:
            raise StorageError(
                f"cannot prepare the output folder {self.path}: {error.strerror or error}. Choose another --output_dir."
            ) from error
        save_run(self.config_file, config, concepts)
        for concept in concepts if len(concepts) > 1 else ():
            # Repeats this concept alone; elsewhere, so it names no output folder.
            own = dataclasses.replace(config, output_dir=TextualInversionConfig.output_dir)
            save_run(self._folder_of[concept.placeholder_token] / self.config_file.name, own, [concept])

    def prune_checkpoints(self, limit: int | None) -> None:
        """Remove the oldest checkpoints.

        Args:
            limit: How many to keep, or None for all.
        """
        for old in self.checkpoints()[: -limit or None] if limit else ():
            shutil.rmtree(old, ignore_errors=True)

    def drop_later(self, step: int, tokens: Sequence[str]) -> None:
        """Remove the checkpoints and snapshots of steps that a resumed run does anew; "latest" would find the old ones.

        Args:
            step: Optimizer steps done where the run goes on.
            tokens: The concepts whose steps these are: all of the run, or those of one process.
        """
        _drop_checkpoints(self._home, step)
        for token in tokens:
            for file in self._folder_of[token].glob("*-steps-*.safetensors"):
                if _step_in(file) > step:
                    file.unlink(missing_ok=True)

    def drop_after(self, checkpoint: Path) -> tuple[Path, int] | None:
        """Remove the checkpoints after the one that the run goes on from, where other processes than now wrote it.

        Args:
            checkpoint: The checkpoint's folder, or the folder of a run.

        Returns:
            The step log of those processes, and the step after which it no longer holds; None where there is no log,
            or the checkpoint lies elsewhere.
        """
        home, step = checkpoint.parent, _step_in(checkpoint)
        if home.resolve() not in [folder.resolve() for folder in (self.path, *self._process_folders())]:
            return None
        _drop_checkpoints(home, step)
        log = home / STEP_LOG
        return (log, step) if log.exists() else None

    def _found(self, config: TextualInversionConfig) -> list[str]:
        """Names of the files that a run has written here, and of others in the place of those that this one writes."""
        found = [self.config_file, self.step_log, self.path / LORA_FILE]
        for token, folder in self._folder_of.items():
            found += [folder / self.config_file.name, folder / STEP_LOG, folder / f"{file_stem(token)}.safetensors"]
            found += [*sorted(folder.glob(EMBEDDINGS)), *checkpoints_in(folder)]
        found += sorted(self.path.glob(EMBEDDINGS))
        found += [folder for folder in sorted(self.path.glob("*")) if is_checkpoint_name(folder.name)]
        if config.save_as_full_pipeline:
            found.append(self.path / DiffusionPipeline.config_name)
        existing = [place for place in (*found, *self._process_folders()) if place.exists()]
        return list(dict.fromkeys(place.relative_to(self.path).as_posix() for place in existing))

    def process_step_logs(self) -> list[Path]:
        """Step logs of processes that trained concepts of their own."""
        return [folder / STEP_LOG for folder in self._process_folders()]

    def drop_process_step_logs(self) -> None:
        """Remove the step logs of single processes, once they are part of the run's own."""
        for file in self.process_step_logs():
            file.unlink(missing_ok=True)

    def _process_folders(self) -> list[Path]:
        """Folders of processes that trained concepts of their own."""
        folders = sorted(self.path.glob(PART.format("*")))
        return [folder for folder in folders if checkpoints_in(folder) or (folder / STEP_LOG).exists()]

    def _clear(self) -> None:
        """Remove the files of an older run, and nothing that it did not write."""
        recorded, tokens = self._recorded()
        names = [file_stem(token) for token in tokens]
        clear_embeddings(self.path, names)
        if recorded is not None:
            clear_lora(self.path)
            for file in self.previews.glob("step-*.png"):
                file.unlink()
            if recorded.save_as_full_pipeline:
                clear_pipeline(self.path)
        own = [folder for folder in self._folder_of.values() if folder != self.path]
        for folder in dict.fromkeys([*(self.path / name for name in names), *own]):
            inside = RunFolder(folder, ())  # of one concept of the older run, or a run of that concept alone
            if inside._recorded()[0] is not None:
                inside._clear()
                remove_empty(folder)
        self.config_file.unlink(missing_ok=True)
        clear_progress(self.path)
        for home in self._process_folders():
            clear_progress(home)
            remove_empty(home)


def _drop_checkpoints(home: Path, step: int) -> None:
    """Remove the checkpoints after a step."""
    later = [folder for folder in checkpoints_in(home) if _step_in(folder) > step]
    if later:
        logger.warning(
            "notice: going on from step %d; %s, of later steps that are done anew, %s removed.",
            step,
            ", ".join(folder.name for folder in later),
            "is" if len(later) == 1 else "are",
        )
    for folder in later:
        shutil.rmtree(folder, ignore_errors=True)


def _step_in(path: Path) -> int:
    """The step that a checkpoint's or a snapshot's name ends in; -1 for other names."""
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1
