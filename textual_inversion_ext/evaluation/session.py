"""One evaluation: which pictures have to be made, for whom, and what the metrics say of them."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image

from textual_inversion_ext.data.sources.folders import is_noise
from textual_inversion_ext.errors import OutputFolderError
from textual_inversion_ext.evaluation.attributes import attribute_scores, even_scores
from textual_inversion_ext.evaluation.baselines import (
    Subject,
    caption_seeds,
    caption_subjects,
    choose_caption,
    class_subject,
    initial_subject,
    real_picture_scores,
    word_subject,
)
from textual_inversion_ext.evaluation.gallery import Gallery, Wanted, progress_bar
from textual_inversion_ext.evaluation.material import Material
from textual_inversion_ext.evaluation.metrics import LikenessMetric, Metric, Scored
from textual_inversion_ext.evaluation.pairs import pair_scores
from textual_inversion_ext.evaluation.picture_files import seems_there, write_picture
from textual_inversion_ext.evaluation.protocols import ProtocolPrompt
from textual_inversion_ext.evaluation.report import (
    CAPTION,
    CLASS_WORD,
    INITIAL_ROWS,
    REAL_PICTURES,
    PictureSet,
    Score,
)
from textual_inversion_ext.evaluation.rules import Rules
from textual_inversion_ext.evaluation.texts import scored_text

PICTURES = "pictures"
"""Folder of the pictures in that of the report."""
REFERENCES = "references"
"""Folder of copies of the real pictures, for pages that show them."""
_REFERENCE_SIDE = 512
_COPY = ""  # what copies are signed with
_NEEDED = {
    "prompts": "prompts",
    "references": "real pictures",
    "samples": "at least two pictures of each prompt",
    "truth": "an object of the pocket world whose true looks are known",
}


def check_place_of_copies(folder: Path, material: Material) -> None:
    """Refuse to put copies of the real pictures among files of somebody's own, the real pictures themselves even.

    Args:
        folder: Folder of the report.
        material: A concept that is to be evaluated.

    Raises:
        OutputFolderError: There are other files than copies where the copies go.
    """
    place = _place_of_copies(folder, material)
    files = sorted(place.iterdir()) if place.is_dir() else []
    strange = next((file for file in files if not is_noise(file) and not seems_there(file, _COPY)), None)
    if strange is not None:
        raise OutputFolderError(
            f"{strange} is no copy that an evaluation made, and {place} is where the report keeps its copies of the"
            " real pictures. Choose another --output_dir, or move such files to another folder."
        )


class Session:
    """Makes the pictures of an evaluation and scores them.

    Args:
        pipeline: The model, with the sampler of the rules.
        rules: What is made and measured.
        folder: Folder of the report.
        materials: The concepts, one for each place of a prompt.

    Raises:
        OutputFolderError: Files of somebody's own lie where copies of the real pictures go.

    Attributes:
        subjects: Whose pictures were made; filled by `scores`.
        notes: What a reader has to know beside the protocol's notes; filled by `scores`.
    """

    def __init__(self, pipeline: DiffusionPipeline, rules: Rules, folder: Path, materials: Sequence[Material]) -> None:
        self.pipeline, self.rules, self.folder = pipeline, rules, folder
        self.materials = tuple(materials)
        for material in self.materials:
            check_place_of_copies(folder, material)
        self.gallery = Gallery(folder / PICTURES)
        self.subjects: tuple[Subject, ...] = ()
        self.notes: tuple[str, ...] = ()

    def scores(self) -> tuple[Score, ...]:
        """Make all pictures and score them.

        Returns:
            The scores, subject after subject.
        """
        self.subjects = tuple(self._choose_subjects())
        made = self._make_all()
        rules, first = self.rules, self.materials[0]
        pair = len(self.materials) > 1
        metrics = [metric for metric in rules.metrics if not (pair and isinstance(metric, LikenessMetric))]
        found = []
        for subject in self.subjects:
            for metric in metrics:
                found += self._scores_of(metric, subject, made[subject.name])
            for attribute in rules.protocol.attributes:
                pictures = [picture for row in made[subject.name] for picture in row]
                network = rules.parts.images_and_texts()
                found += attribute_scores(attribute, network, subject.name, pictures, first.class_word)
        for attribute in rules.protocol.attributes:
            count = len(rules.prompts) * len(rules.seeds)
            found += even_scores(attribute, rules.parts.images_and_texts().name, count)
        if pair:
            for metric in rules.metrics:
                if isinstance(metric, LikenessMetric):
                    found += self._pair_scores(metric, made)
        elif REAL_PICTURES in rules.baselines:
            found += real_picture_scores(metrics, first)
        self.notes += self._without_scores(metrics, made[self.subjects[0].name][0])
        return tuple(found)

    def picture_sets(self) -> tuple[PictureSet, ...]:
        """Say where the pictures lie, and put copies of the real ones beside them.

        Returns:
            One record for each subject and prompt, and one for the real pictures of each concept.

        Raises:
            StorageError: A copy cannot be written.
        """
        sets = []
        for subject in self.subjects:
            wanted = self._wanted(subject)
            files = self.gallery.files(self.pipeline, wanted)
            for prompt, text, row in zip(self.rules.prompts, wanted.prompts, files, strict=True):
                names = tuple(self._relative(file) for file in row)
                sets.append(
                    PictureSet(subject=subject.name, prompt=prompt.text, text=text, files=names, seeds=self.rules.seeds)
                )
        for material in self.materials:
            sets.append(PictureSet(subject=REAL_PICTURES, prompt=None, text="", files=self._copies(material)))
        return tuple(sets)

    def _choose_subjects(self) -> list[Subject]:
        """The word, and those baselines that are asked for and known."""
        chosen: list[Subject | None] = [word_subject(*self.materials)]
        asked, first = self.rules.baselines, self.materials[0]
        if CLASS_WORD in asked:
            chosen.append(class_subject(*self.materials))
            if chosen[-1] is None:
                self.notes += ("No class word is known, so the word is not measured against it.",)
        if len(self.materials) == 1 and CAPTION in asked:
            chosen.append(self._caption(first))
        if len(self.materials) == 1 and INITIAL_ROWS in asked:
            chosen.append(initial_subject(self.pipeline, first))
            if chosen[-1] is None:
                self.notes += (
                    "The rows that training started from cannot be made again without the run, so they are missing.",
                )
        return [subject for subject in chosen if subject is not None]

    def _caption(self, material: Material) -> Subject | None:
        candidates = caption_subjects(material)
        if not candidates:
            self.notes += ("No caption is known; give a file of them to measure the word against the best.",)
            return None
        metric = next((metric for metric in self.rules.metrics if isinstance(metric, LikenessMetric)), None)
        if len(candidates) == 1 or metric is None:
            return candidates[0]
        fitting = [prompt for prompt in self.rules.prompts if prompt.aim != "obedience"]
        prompt = (fitting or self.rules.prompts)[0]
        texts = [candidate.text(prompt) for candidate in candidates]
        seeds = caption_seeds(self.rules.seeds)
        made = self.gallery.pictures(self.pipeline, Wanted((), texts, seeds, self.rules.settings))
        self.notes += (
            f"The caption is the best of {len(candidates)}, chosen by {metric.name} on {len(seeds)} other"
            f" seeds of {prompt.text!r}.",
        )
        return choose_caption(candidates, made, metric, material.references)

    def _make_all(self) -> dict[str, list[list[Image.Image]]]:
        """Subject -> pictures by prompt and seed, under one bar."""
        wanted = {subject.name: self._wanted(subject) for subject in self.subjects}
        with progress_bar(sum(self.gallery.missing(self.pipeline, each) for each in wanted.values())) as bar:
            return {name: self.gallery.pictures(self.pipeline, each, bar=bar) for name, each in wanted.items()}

    def _wanted(self, subject: Subject) -> Wanted:
        texts = [subject.text(prompt) for prompt in self.rules.prompts]
        return Wanted(subject.concepts, texts, self.rules.seeds, self.rules.settings)

    def _scored_text(self, prompt: ProtocolPrompt) -> str:
        if self.rules.text_mode == "omit":
            return scored_text(prompt.text)
        return prompt.described(*(material.class_word or "" for material in self.materials))

    def _scores_of(self, metric: Metric, subject: Subject, made: Sequence[Sequence[Image.Image]]) -> list[Score]:
        """Scores by prompt, and over those prompts whose aim is the metric's."""
        first, found, overall, counted = self.materials[0], [], [], set()
        for prompt, pictures in zip(self.rules.prompts, made, strict=True):
            scored = Scored(
                tuple(pictures), (self._scored_text(prompt),) * len(pictures), first.references, first.truth
            )
            if metric.lacks(scored):
                continue
            values = [value for value in metric(scored).tolist() if value == value]
            if not values:
                continue
            found.append(_score(metric, subject.name, values, prompt.text))
            if metric.aspect == "diversity" or prompt.aim in ("both", metric.aspect):
                overall += values
                counted.add(prompt.text)
        if not overall:
            return found
        whole = _score(metric, subject.name, overall, None)
        if metric.samples_matter and len(found) > 1:
            means = [score.mean for score in found if score.prompt in counted]
            error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
            whole = replace(whole, standard_error=None if error is None else round(error, 6))
        return [whole, *found]

    def _without_scores(self, metrics: Sequence[Metric], pictures: Sequence[Image.Image]) -> tuple[str, ...]:
        """Name the metrics that have nothing to say here, rather than leave a reader to look for them."""
        first = self.materials[0]
        scored = Scored(tuple(pictures), ("",) * len(pictures), first.references, first.truth)
        lacking = {metric.name: metric.lacks(scored) for metric in metrics}
        return tuple(
            f"{name} is missing; it needs {' and '.join(_NEEDED[need] for need in needs)}."
            for name, needs in lacking.items()
            if needs
        )

    def _pair_scores(self, metric: LikenessMetric, made: dict[str, list[list[Image.Image]]]) -> list[Score]:
        by_prompt = {
            name: {prompt.text: row for prompt, row in zip(self.rules.prompts, rows, strict=True)}
            for name, rows in made.items()
        }
        return pair_scores(metric, by_prompt, *self.materials)

    def _relative(self, file: Path) -> str:
        return Path(os.path.relpath(file, self.folder)).as_posix()

    def _copies(self, material: Material) -> tuple[str, ...]:
        names = []
        for number, picture in enumerate(material.references):
            small = picture.copy()
            small.thumbnail((_REFERENCE_SIDE, _REFERENCE_SIDE), Image.Resampling.LANCZOS)
            file = _place_of_copies(self.folder, material) / f"{number:03d}.png"
            write_picture(file, small, _COPY, {})
            names.append(self._relative(file))
        return tuple(names)


def _place_of_copies(folder: Path, material: Material) -> Path:
    return folder / REFERENCES / material.concept.name


def _score(metric: Metric, subject: str, values: Sequence[float], prompt: str | None) -> Score:
    return Score.of(
        metric.name,
        subject,
        values,
        prompt=prompt,
        backbone=metric.backbone,
        higher_is_better=metric.higher_is_better,
        independent=not metric.samples_matter,
    )
