"""Pictures of an evaluation on disk: what was made once is not made again, and a killed run goes on where it was.

A picture is known by what decides how it turns out: the rows of the words in its prompt, the prompt, its seed, the
settings and the model (see `fingerprint`). All of it is in the file's text chunks, and a file counts only if they say
what is asked for and the picture decodes to its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image
from tqdm.auto import tqdm

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.evaluation.fingerprint import (
    fingerprint_of,
    model_fingerprint,
    rows_fingerprint,
    settings_facts,
)
from textual_inversion_ext.evaluation.picture_files import read_picture, seems_there, slug, write_picture
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.pipelines.sampling import SampleSettings, sample_attached, stack_rows, word_encoders
from textual_inversion_ext.pipelines.words.pooling import recorded_pooling

__all__ = ["Gallery", "Wanted", "progress_bar"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Pictures that are asked for: one of each prompt per seed.

    Attributes:
        concepts: Learned words that the prompts may use.
        prompts: The prompts; what is given twice is made once.
        seeds: One picture of each prompt per seed.
        settings: Steps, guidance, ...
        key: Whatever else a picture depends on and neither the pipeline nor the settings know.
    """

    concepts: Sequence[LearnedConcept]
    prompts: Sequence[str]
    seeds: Sequence[int]
    settings: SampleSettings
    key: str = ""


@dataclass(frozen=True, slots=True)
class _Job:
    """A prompt whose pictures of some seeds are missing."""

    prompt: str
    identity: str
    seeds: tuple[int, ...]


class Gallery:
    """Makes pictures in a folder, and reuses those that are there.

    Files are ``PROMPT_HASH/seed-3.png``: the prompt readable, the hash of everything else that decides the picture.

    Args:
        folder: Where the pictures lie; made when it is needed.

    Attributes:
        folder: The same, as a path.
        made: How many pictures this gallery has made.
        reused: How many it found.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.made = 0
        self.reused = 0

    def pictures(
        self, pipeline: DiffusionPipeline, wanted: Wanted, *, bar: tqdm[Any] | None = None
    ) -> list[list[Image.Image]]:
        """Make pictures, or read them where they are there.

        Every picture is written as soon as it is made, whole or not at all. Interrupted by Ctrl-C or killed, the next
        call makes only what is missing.

        Args:
            pipeline: A loaded pipeline of a supported family, on its device.
            wanted: What is asked for.
            bar: Moves on by one for each picture that is made; None for a bar of this call's own.

        Returns:
            A list per prompt with an RGB picture per seed.

        Raises:
            StorageError: A picture cannot be written.
            ConceptError: Two concepts have the same token.
            EmbeddingFileError: A concept was learned for another kind of model.
        """
        identities = self._identities(pipeline, wanted)
        found: dict[tuple[str, int], Image.Image] = {}
        jobs = []
        for prompt in dict.fromkeys(wanted.prompts):
            missing = []
            for seed in dict.fromkeys(wanted.seeds):
                file = self._file(prompt, identities[prompt], seed)
                picture = read_picture(file, _signature(identities[prompt], seed))
                if picture is None:
                    missing.append(seed)
                else:
                    found[prompt, seed] = picture
            if missing:
                jobs.append(_Job(prompt, identities[prompt], tuple(missing)))
        self.reused += len(found)
        if jobs:
            found |= self._make(pipeline, wanted, jobs, bar)
        return [[found[prompt, seed] for seed in wanted.seeds] for prompt in wanted.prompts]

    def files(self, pipeline: DiffusionPipeline, wanted: Wanted) -> list[list[Path]]:
        """Where pictures lie or would lie.

        Args:
            pipeline: As for `pictures`.
            wanted: What is asked for.

        Returns:
            A list per prompt with a path per seed, whether the files exist or not.
        """
        identities = self._identities(pipeline, wanted)
        return [[self._file(prompt, identities[prompt], seed) for seed in wanted.seeds] for prompt in wanted.prompts]

    def missing(self, pipeline: DiffusionPipeline, wanted: Wanted) -> int:
        """How many pictures `pictures` would make.

        Args:
            pipeline: As for `pictures`.
            wanted: What is asked for.

        Returns:
            Their number, but for files that are damaged behind their head.
        """
        identities = self._identities(pipeline, wanted)
        return sum(
            not seems_there(self._file(prompt, identities[prompt], seed), _signature(identities[prompt], seed))
            for prompt in dict.fromkeys(wanted.prompts)
            for seed in dict.fromkeys(wanted.seeds)
        )

    def _identities(self, pipeline: DiffusionPipeline, wanted: Wanted) -> dict[str, str]:
        """Prompt -> fingerprint of all that its pictures depend on, but for the seed."""
        model, settings = model_fingerprint(pipeline), wanted.settings
        # Each asked by itself: of several that differ, one warning at the making is enough.
        pooling = {recorded_pooling([concept]) for concept in wanted.concepts}
        pooled = ["pooled by diffusers"] if pooling == {"diffusers"} else []  # so that other pictures keep their names
        identities = {}
        for prompt in wanted.prompts:
            # Words that a prompt does not use cannot change its pictures; pictures of class words outlive a training.
            text = f"{prompt}\n{settings.negative_prompt}".casefold()
            used = [concept for concept in wanted.concepts if concept.token.casefold() in text]
            facts = [prompt, rows_fingerprint(used), settings_facts(settings), model, wanted.key, *pooled]
            identities[prompt] = fingerprint_of(facts)
        return identities

    def _file(self, prompt: str, identity: str, seed: int) -> Path:
        return self.folder / f"{slug(prompt)}_{identity[:8]}" / f"seed-{seed}.png"

    def _make(
        self,
        pipeline: DiffusionPipeline,
        wanted: Wanted,
        jobs: Sequence[_Job],
        bar: tqdm[Any] | None,
    ) -> dict[tuple[str, int], Image.Image]:
        adapter, concepts, settings = adapter_for(pipeline), wanted.concepts, wanted.settings
        adapter.pooling = recorded_pooling(concepts)
        rows, encoders = stack_rows(adapter, concepts), word_encoders(adapter, concepts)
        made: dict[tuple[str, int], Image.Image] = {}
        own = progress_bar(sum(len(job.seeds) for job in jobs)) if bar is None else None
        shown = bar if own is None else own
        with adapter.attached(), own or nullcontext():
            for group, seeds in _batches(jobs, settings.batch_size):
                prompts = [job.prompt for job in group]
                pictures = sample_attached(adapter, encoders, rows, prompts, seeds, settings)
                for job, row in zip(group, pictures, strict=True):
                    for seed, picture in zip(seeds, row, strict=True):
                        facts = {"prompt": job.prompt, "seed": seed, **settings_facts(settings)}
                        file = self._file(job.prompt, job.identity, seed)
                        made[job.prompt, seed] = write_picture(file, picture, _signature(job.identity, seed), facts)
                        self.made += 1
                        if shown is not None:
                            shown.update()
        return made


def progress_bar(total: int) -> tqdm[Any]:
    """A bar for making pictures, with the time that is left.

    Args:
        total: How many will be made.

    Returns:
        The bar; it is not shown where nobody is looking (output into a file).
    """
    return tqdm(total=total, desc="pictures", delay=2, leave=False, disable=None, unit="picture")


def _batches(jobs: Sequence[_Job], batch_size: int) -> Iterator[tuple[list[_Job], tuple[int, ...]]]:
    """Divide the work into grids of prompts and seeds, each at most a batch, so that little is lost when it ends."""
    position = 0
    while position < len(jobs):
        seeds = jobs[position].seeds
        group = [jobs[position]]
        while (
            (len(group) + 1) * len(seeds) <= batch_size
            and position + len(group) < len(jobs)
            and jobs[position + len(group)].seeds == seeds
        ):
            group.append(jobs[position + len(group)])
        for first in range(0, len(seeds), batch_size):
            yield group, seeds[first : first + batch_size]
        position += len(group)


def _signature(identity: str, seed: int) -> str:
    return f"{identity} {seed}"
