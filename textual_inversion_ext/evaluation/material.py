"""What an evaluation is about: a learned word, real pictures of the thing, and what its run tells of it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from textual_inversion_ext.concept import ConceptSpec, ImageSource, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import Sample, collect_samples, learned_samples
from textual_inversion_ext.data.sources.texts import read_text
from textual_inversion_ext.errors import ConceptError, ConfigError, DataError, TextualInversionError
from textual_inversion_ext.files import load_concept
from textual_inversion_ext.pocket import CONCEPTS, render_concept
from textual_inversion_ext.pocket.specs import SubjectSpec
from textual_inversion_ext.run_file import load_run
from textual_inversion_ext.tokens import whole_word

__all__ = ["Material", "Trained", "load_material", "read_captions"]

_RUN_FILE = "config.json"
_LONGEST_SIDE = 2048  # networks look at some hundred pixels; a hundred camera files would fill gigabytes
_MOST_CAPTIONS = 8


@dataclass(frozen=True, slots=True)
class Trained:
    """What the run of a concept recorded.

    Attributes:
        folder: Folder of the run, or of the concept in it.
        config: Its settings.
        spec: What was to be learned.
    """

    folder: Path
    config: TextualInversionConfig
    spec: ConceptSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What an evaluation is about.

    Attributes:
        concept: The learned word.
        references: Real pictures of the thing, RGB.
        class_word: Coarse word for it, if one is known.
        learnable_property: "object" or "style".
        captions: Descriptions without the word, best unknown.
        truth: What it really looks like: objects of the pocket world.
        trained: What its run recorded; None for a concept that came without its run.
        own_references: Whether the references are the pictures that its run learned from.
    """

    concept: LearnedConcept
    references: tuple[Image.Image, ...]
    class_word: str | None = None
    learnable_property: str = "object"
    captions: tuple[str, ...] = ()
    truth: SubjectSpec | None = None
    trained: Trained | None = None
    own_references: bool = False

    def __post_init__(self) -> None:
        if not self.references:
            raise DataError(
                f"{self.concept.token}: there are no references, the real pictures that scores compare with; give the"
                " folder with its training pictures."
            )

    @classmethod
    def of(
        cls, concept: LearnedConcept, references: Sequence[Image.Image], class_word: str | None = None, **facts: Any
    ) -> Material:
        """Put together what is in memory; what is not given is taken from the concept's metadata.

        Args:
            concept: The learned word.
            references: Real pictures of the thing.
            class_word: Coarse word for it.
            **facts: Further fields of the record.

        Returns:
            The material.

        Raises:
            DataError: There are no references.
        """
        told = concept.metadata
        known = {"learnable_property": told.get("learnable_property", "object"), **facts}
        plain = tuple(picture.convert("RGB") for picture in references)
        known.setdefault("truth", _pocket_truth(concept, plain))
        return cls(concept=concept, references=plain, class_word=class_word or _class_word(told), **known)


def load_material(
    place: str | os.PathLike[str],
    *,
    token: str | None = None,
    references: ImageSource | None = None,
    class_word: str | None = None,
    captions: Sequence[str] = (),
) -> Material:
    """Read a concept and what is known of it from its run.

    Args:
        place: Folder of a run, an embedding file, or a repository of the Hub.
        token: Which concept, where there are several.
        references: The real pictures: a folder, a data set, ...; None for those of the run.
        class_word: Coarse word; None for the run's.
        captions: Descriptions without the word; none for the captions of the pictures.

    Returns:
        The material.

    Raises:
        EmbeddingFileError: There is no such file, or it is no concept.
        ConceptError: The place holds no concept of that name, several and none was named, or it in several runs.
        DataError: There are no real pictures.
        ConfigError: The run's file is damaged.
    """
    concept, folder = _find_concept(place, token)
    trained = None if folder is None else _trained(folder, concept)
    source = references if references is not None else _recorded_source(concept, trained)
    samples = _samples(concept, source, trained)
    told = tuple(dict.fromkeys(caption for sample in samples for caption in sample.captions))
    # A caption that holds the word, or {} in its place, is a sentence to learn in, not a description.
    word = re.compile(whole_word(concept.token), re.IGNORECASE)
    usable = [text for text in told if "{}" not in text and not word.search(text)]
    own = trained is not None and _learned_from(source, concept, trained)
    if trained is not None and source is trained.spec.images and not own:
        # Other pictures lie where its own lay: first rows that are made from pictures cannot be made again.
        trained = replace(trained, spec=replace(trained.spec, images=None))
    facts: dict[str, Any] = {} if trained is None else {"learnable_property": trained.spec.learnable_property}
    return Material.of(
        concept,
        [_opened(sample) for sample in samples],
        class_word or (None if trained is None else trained.spec.class_name),
        captions=tuple(captions) or tuple(usable[:_MOST_CAPTIONS]),
        trained=trained,
        own_references=own,
        **facts,
    )


def read_captions(path: str | Path) -> tuple[str, ...]:
    """Read descriptions of a concept, written by people, one on each line.

    Args:
        path: A text file; ``a photo of`` and the like are not needed: a description stands where the word stands.

    Returns:
        The descriptions.

    Raises:
        ConfigError: The file cannot be read, is empty, or a line has a place for the word.
    """
    try:
        lines = [line.strip() for line in read_text(Path(path)).splitlines()]
    except DataError as error:
        raise ConfigError(f"Cannot read the captions {path}: {error}") from error
    captions = tuple(dict.fromkeys(line for line in lines if line))
    if with_place := [caption for caption in captions if "{}" in caption]:
        raise ConfigError(
            f"{path}: the caption {with_place[0]!r} has a place for the word; a caption stands where the word stands,"
            " so write only what describes it, for example: a small red dog with a hat"
        )
    if not captions:
        raise ConfigError(f"{path} holds no caption; write one on each line, for example: a small red dog with a hat")
    return captions


def _find_concept(place: str | os.PathLike[str], token: str | None) -> tuple[LearnedConcept, Path | None]:
    path = Path(place).expanduser()
    if not path.exists():
        if isinstance(place, Path):
            raise ConceptError(f"there is no concept at {place}; give the folder of a run or an embedding file.")
        return load_concept(place, token=token), None
    if path.is_file():
        return load_concept(path, token=token), path.parent
    file = path / "learned_embeds.safetensors"
    if file.is_file():
        return load_concept(file, token=token), path
    inside: dict[str, list[Path]] = {}
    for found in sorted(path.glob("*/learned_embeds.safetensors")):
        inside.setdefault(load_concept(found).token, []).append(found)
    if not inside:
        return load_concept(path, token=token), path
    if token is None and len(inside) == 1:
        token = next(iter(inside))
    if token not in inside:
        asked = f"none of them is {token}" if token is not None else "say which one"
        raise ConceptError(f"{place} holds the concepts {', '.join(inside)}; {asked}. Or give the folder of one.")
    if len(inside[token]) > 1:
        folders = " ".join(str(found.parent) for found in inside[token])
        raise ConceptError(f"{place} is no run: several folders in it are about {token}. Give one of them: {folders}")
    (file,) = inside[token]
    return load_concept(file), file.parent


def _trained(folder: Path, concept: LearnedConcept) -> Trained | None:
    for place in (folder, folder.parent):
        if (place / _RUN_FILE).is_file():
            config, concepts = load_run(place / _RUN_FILE)
            for fields in concepts:
                if fields.get("placeholder_token") == concept.token:
                    return Trained(folder, config, _with_found_pictures(ConceptSpec.from_dict(fields), folder))
    return None


def _with_found_pictures(spec: ConceptSpec, folder: Path) -> ConceptSpec:
    """Find the pictures of a run that was moved together with them."""
    source = spec.images
    if isinstance(source, str) and not Path(source).exists() and (folder / source).exists():
        return replace(spec, images=str(folder / source))
    return spec


def _recorded_source(concept: LearnedConcept, trained: Trained | None) -> Any:
    if trained is None or trained.spec.images is None:
        raise DataError(
            f"{concept.token}: no file says which pictures it was learned from; give the folder with the real pictures"
            " that scores compare with."
        )
    return trained.spec.images


def _samples(concept: LearnedConcept, source: Any, trained: Trained | None) -> list[Sample]:
    # Captions are looked for whether or not training used them: a description is a baseline.
    config = TextualInversionConfig(skip_bad_images=True, captions="both")
    if trained is not None and source is trained.spec.images:
        run = trained.config
        # With the run's own masks nobody is told that there are some; a model would have to make them anew.
        config = replace(config, image_column=run.image_column, caption_column=run.caption_column)
        config = replace(config, masks="none" if run.masks == "model" else run.masks, mask_column=run.mask_column)
    try:
        return collect_samples(ConceptSpec(concept.token, source), config)[0]
    except DataError as error:
        raise DataError(f"{error} Give the folder with the real pictures that scores compare with.") from error


def _learned_from(source: Any, concept: LearnedConcept, trained: Trained) -> bool:
    """Whether a run learned from these pictures: by their name, other ones may lie there by now."""
    try:
        digest = concept.metadata.get("training_data_digest")
        samples = learned_samples(replace(trained.spec, images=source), trained.config, digest)
    except TextualInversionError:
        return False
    return source is trained.spec.images if samples is None else bool(samples)


def _opened(sample: Sample) -> Image.Image:
    picture = sample.open()
    if max(picture.size) > _LONGEST_SIDE:
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def _class_word(told: Any) -> str | None:
    """The class word that a file of ours names; else what training started from, if that is plain words and no file."""
    if name := str(told.get("class_name") or "").strip():
        return name
    word = str(told.get("initializer") or "").strip()
    plain = bool(word) and not Path(word).suffix and all(part.isalpha() for part in word.replace("-", " ").split())
    return word if plain else None


def _pocket_truth(concept: LearnedConcept, references: Sequence[Image.Image]) -> SubjectSpec | None:
    """The true attributes of a shipped concept, if these are its pictures."""
    known = CONCEPTS.get(concept.name)
    if known is None or known.subject is None or any(picture.size != (64, 64) for picture in references):
        return None
    shipped = {picture.tobytes() for picture in render_concept(concept.name)}
    return known.subject if {picture.tobytes() for picture in references} <= shipped else None
