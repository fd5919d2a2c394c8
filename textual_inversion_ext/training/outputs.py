"""What the folder of a run contains, and which of it may be replaced."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept, file_stem
from textual_inversion_ext.config import TextualInversionConfig, load_run, save_run
from textual_inversion_ext.errors import ConfigError, OutputFolderError, StorageError
from textual_inversion_ext.files import save_concept
from textual_inversion_ext.training.state import checkpoints_in, trajectory

DIFFUSERS_FILE = "learned_embeds.safetensors"
"""File name that diffusers' ``load_textual_inversion(folder)`` looks for."""


class RunFolder:
    """The output folder of one run.

    With one concept the embedding files lie in the folder itself; with several, each concept has a sub-folder::

        config.json  steps.jsonl  previews/  checkpoint-500/  logs/
        learned_embeds.safetensors   (diffusers)
        corgi.safetensors            (other interfaces: the file's name is the word to type)

    Args:
        path: The folder; it need not exist yet.
        concepts: What the run learns.
    """

    def __init__(self, path: str | Path, concepts: Sequence[ConceptSpec]) -> None:
        self.path = Path(path)
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
        return self.path / "steps.jsonl"

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
        return self.path / f"checkpoint-{step}"

    def checkpoints(self) -> list[Path]:
        """The checkpoints that exist, oldest first."""
        return checkpoints_in(self.path)

    def embedding_file(self, token: str) -> Path:
        """Where the final diffusers file of a concept lies.

        Args:
            token: The concept's placeholder token.

        Returns:
            The file's path.
        """
        return self._folder_of[token] / DIFFUSERS_FILE

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
        if config.overwrite_output_dir or not self.holds_run():
            return
        if config.resume_from_checkpoint == "latest" or (checkpoint is not None and self.continues(checkpoint, config)):
            return
        raise OutputFolderError(
            f"output_dir {self.path} already holds a run ({', '.join(self._found()[:4])}). Choose another --output_dir,"
            " continue that run with --resume_from_checkpoint latest, or replace it with --overwrite_output_dir."
        )

    def continues(self, checkpoint: Path, config: TextualInversionConfig) -> bool:
        """Whether a checkpoint belongs to the run that this folder holds, wherever the checkpoint lies.

        Args:
            checkpoint: The checkpoint's folder.
            config: The settings of the run that continues.

        Returns:
            True when it lies here, or when what is recorded here would train the same rows.
        """
        if checkpoint.resolve().parent == self.path.resolve():
            return True
        try:
            recorded, concepts = load_run(self.config_file)
        except ConfigError:
            return False
        tokens = {concept.get("placeholder_token") for concept in concepts}
        return tokens == set(self._folder_of) and trajectory(recorded, (), 1) == trajectory(config, (), 1)

    def holds_run(self) -> bool:
        """Whether some run has written here."""
        return bool(self._found())

    def start(self, config: TextualInversionConfig, concepts: Sequence[ConceptSpec], *, keep: bool) -> None:
        """Make the folder ready: remove what an overwritten run left, write ``config.json``.

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

    def write_concept(self, concept: LearnedConcept, step: int | None = None) -> tuple[Path, ...]:
        """Write a concept's embedding files.

        Args:
            concept: The concept.
            step: Optimizer step of a snapshot, or None for the final files.

        Returns:
            The files written: for diffusers, and for the final files also the one for other interfaces.

        Raises:
            StorageError: The files cannot be written.
        """
        folder = self._folder_of[concept.token]
        if step is not None:
            snapshot = folder / f"learned_embeds-steps-{step}.safetensors"
            save_concept(concept, snapshot, "diffusers")
            return (snapshot,)
        files = (folder / DIFFUSERS_FILE, folder / f"{concept.name}.safetensors")
        for file, kind in zip(files, ("diffusers", "webui"), strict=True):
            save_concept(concept, file, kind)
        return files

    def write_picture(self, picture: Image.Image, file: Path) -> None:
        """Write a picture as PNG.

        Args:
            picture: The picture.
            file: Where it goes.

        Raises:
            StorageError: The file cannot be written.
        """
        data = io.BytesIO()
        picture.save(data, "PNG")
        atomic_write(file, data.getvalue())

    def prune_checkpoints(self, limit: int | None) -> None:
        """Remove the oldest checkpoints.

        Args:
            limit: How many to keep, or None for all.
        """
        for old in self.checkpoints()[: -limit or None] if limit else ():
            shutil.rmtree(old, ignore_errors=True)

    def _found(self) -> list[str]:
        """Names of the files that only a run writes."""
        names = [file.name for file in (self.config_file, self.step_log) if file.exists()]
        names += sorted(file.name for file in self.path.glob("learned_embeds*.safetensors"))
        return names + [folder.name for folder in self.checkpoints()]

    def _clear(self) -> None:
        """Remove the files of an older run, and nothing that it did not write."""
        folders = [self.path]
        names: list[str] = []
        if self.config_file.exists():
            try:
                names = [file_stem(concept["placeholder_token"]) for concept in load_run(self.config_file)[1]]
            except (ConfigError, KeyError, AttributeError):
                names = []  # Not ours or damaged: then only files with our fixed names are replaced.
            folders += [self.path / name for name in names if (self.path / name).is_dir()]
        for folder in folders:
            files = [*folder.glob("learned_embeds*.safetensors"), *(folder / f"{name}.safetensors" for name in names)]
            for file in files:
                file.unlink(missing_ok=True)
        for folder in folders[1:]:
            if not any(folder.iterdir()):
                folder.rmdir()
        for file in (self.step_log, self.config_file, *self.previews.glob("*.png")):
            file.unlink(missing_ok=True)
        for checkpoint in self.checkpoints():
            shutil.rmtree(checkpoint)
