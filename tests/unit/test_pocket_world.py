"""The pocket world: pictures, captions, and what is kept out of training."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.runs import ROOT
from textual_inversion_ext.data.prompts.templates import PHOTO_TEMPLATES
from textual_inversion_ext.pocket import CONCEPTS, OBJECTS, STYLES, render_concept
from textual_inversion_ext.pocket import vocabulary as words
from textual_inversion_ext.pocket.captions import caption, describe, full_caption, noun_phrase
from textual_inversion_ext.pocket.characters import CHARACTERS
from textual_inversion_ext.pocket.renderer import SIDE, coverage, render
from textual_inversion_ext.pocket.sampler import place, random_picture
from textual_inversion_ext.pocket.specs import Naming, PictureSpec, SubjectSpec
from textual_inversion_ext.pocket.styles import HELD_OUT_STYLES, NAMED_STYLES
from textual_inversion_ext.pocket.subjects import DRAWERS, HEAD_TOPS


def _picture(subject: SubjectSpec, scene: str = "studio", style: str = "photo", seed: int = 3) -> PictureSpec:
    return PictureSpec((subject,), place("large", 1, np.random.default_rng(seed)), scene, style, "large", 1.0, seed)


def _pixels(picture: PictureSpec) -> np.ndarray:
    return np.asarray(render(picture), dtype=np.float32)


def test_vocabulary_has_what_the_world_promises() -> None:
    assert len(words.SUBJECTS) >= 12
    assert len(words.COLOURS) == 12
    assert len(words.PATTERNS) == 4
    assert len(words.SCENES) == 8
    assert len(words.STYLES) == 4
    assert set(DRAWERS) == set(HEAD_TOPS) == set(words.SUBJECTS) == set(words.FEATURES)
    assert set(NAMED_STYLES) == set(words.STYLES)
    assert not set(HELD_OUT_STYLES) & set(words.STYLES)


@pytest.mark.parametrize("kind", words.SUBJECTS)
def test_every_attribute_changes_the_picture(kind: str) -> None:
    base = SubjectSpec(kind, (200, 40, 40), (40, 80, 200))
    others = {
        "main": SubjectSpec(kind, (40, 200, 40), (40, 80, 200)),
        "accent": SubjectSpec(kind, (200, 40, 40), (240, 220, 40)),
        "aspect": SubjectSpec(kind, (200, 40, 40), (40, 80, 200), aspect=0.8),
        "feature": SubjectSpec(kind, (200, 40, 40), (40, 80, 200), feature=0.8),
        "pattern": SubjectSpec(kind, (200, 40, 40), (40, 80, 200), pattern="striped"),
        "accessory": SubjectSpec(kind, (200, 40, 40), (40, 80, 200), accessory="hat"),
    }
    reference = _pixels(_picture(base))
    assert reference.shape == (SIDE, SIDE, 3)
    for name, other in others.items():
        assert np.abs(_pixels(_picture(other)) - reference).max() > 30, name


def _cells_that_differ(first: PictureSpec, second: PictureSpec) -> np.ndarray:
    changed = (_pixels(first) != _pixels(second)).any(-1)
    return changed.reshape(16, 4, 16, 4).any(axis=(1, 3))


@pytest.mark.parametrize("pattern", words.PATTERNS)
@pytest.mark.parametrize("kind", words.SUBJECTS)
def test_coverage_is_where_details_change_the_picture(kind: str, pattern: str) -> None:
    base = SubjectSpec(kind, (200, 40, 40), (40, 80, 200), pattern, accessory="hat", accessory_colour=(20, 160, 60))
    other = replace(base, accent=(250, 220, 90), accessory_colour=(250, 120, 200))
    subjects, details = coverage(_picture(base), 16)
    assert subjects.dtype == np.float32 and subjects.shape == (16, 16)
    assert (details <= subjects).all() and 0 < details.sum() < subjects.sum() < 256
    # Less than a hundredth of a cell need not reach a pixel.
    differ = _cells_that_differ(_picture(base), _picture(other))
    assert differ[details > 0.01].all() and not differ[details == 0].any()


def test_coverage_of_what_stands_behind_is_hidden() -> None:
    first, second = SubjectSpec("bear", (200, 40, 40), (1, 2, 3)), SubjectSpec("mug", (40, 200, 40), (1, 2, 3))
    alone = _picture(second)
    behind = replace(alone, subjects=(first, second), placements=alone.placements * 2)
    in_front = coverage(alone, 16)
    assert (coverage(behind, 16)[0] >= in_front[0]).all()
    inside = in_front[0] == 1
    assert inside.any() and np.array_equal(coverage(behind, 16)[1][inside], in_front[1][inside])


def test_full_captions_leave_nothing_out() -> None:
    cat = SubjectSpec("cat", words.COLOURS["red"], words.COLOURS["blue"], "striped", 0.9, accessory="hat")
    picture = _picture(cat, scene="beach", style="painting")
    said = full_caption(picture, (Naming(),))
    assert said == f"a painting of a wide red and blue striped cat with a red hat {words.SCENES['beach']}"
    assert full_caption(picture, (Naming(colours=False),)) == said.replace("red and blue ", "").replace("red ", "")
    assert full_caption(picture, (Naming(False, "bachun"),)) == f"a painting of a bachun {words.SCENES['beach']}"
    assert "a teal bachun" in full_caption(picture, (Naming(False, "bachun", "teal"),))


def test_same_spec_gives_same_pixels_and_styles_differ() -> None:
    subject = SubjectSpec("teapot", (200, 40, 40), (40, 80, 200))
    styles = [*NAMED_STYLES, *HELD_OUT_STYLES]
    pictures = {style: _pixels(_picture(subject, "beach", style)) for style in styles}
    for style in styles:
        assert np.array_equal(pictures[style], _pixels(_picture(subject, "beach", style)))
    for first, second in itertools.combinations(styles, 2):
        assert np.abs(pictures[first] - pictures[second]).mean() > 8, (first, second)


def test_scenes_differ_and_are_not_flat() -> None:
    subject = SubjectSpec("mug", (200, 40, 40), (40, 80, 200))
    pictures = {scene: _pixels(_picture(subject, scene)) for scene in words.SCENES}
    for first, second in itertools.combinations(pictures, 2):
        assert np.abs(pictures[first] - pictures[second]).mean() > 10, (first, second)
    for scene, pixels in pictures.items():
        assert pixels[:16].reshape(-1, 3).std(axis=0).max() > 3, scene


def test_training_pictures_never_show_a_held_out_combination() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        picture = random_picture(rng)[0]
        for subject in picture.subjects:
            assert not words.is_held_out(subject.kind, words.nearest_colour(subject.main), picture.scene)
        held = random_picture(rng, held_out=True)[0]
        assert any(words.is_held_out(s.kind, words.nearest_colour(s.main), held.scene) for s in held.subjects)
    every = [words.is_held_out(*c) for c in itertools.product(words.SUBJECTS, words.COLOURS, words.SCENES)]
    assert 0.05 < np.mean(every) < 0.3


def test_captions_name_only_what_the_picture_shows() -> None:
    rng = np.random.default_rng(1)
    for _ in range(400):
        picture, text, naming = random_picture(rng)
        shown = set()
        for subject, said in zip(picture.subjects, naming, strict=True):
            shown |= {subject.kind, subject.pattern, subject.accessory, said.name, said.changed_colour}
            if said.colours:
                shown |= {words.nearest_colour(c) for c in (subject.main, subject.accent, subject.accessory_colour)}
        for vocabulary in (words.COLOURS, words.PATTERNS, CHARACTERS):
            assert {w for w in text.split() if w in vocabulary} <= shown, text
        for scene, phrase in words.SCENES.items():
            assert phrase not in text or scene == picture.scene, text
        for size in ("small", "large"):
            assert f"{size} " not in text.split("with")[0] or picture.size == size, text


def test_a_character_always_looks_the_same_and_its_caption_says_little_but_its_name() -> None:
    rng = np.random.default_rng(5)
    alone = 0
    for _ in range(400):
        picture, text, naming = random_picture(rng)
        for subject, said in zip(picture.subjects, naming, strict=True):
            if said.name is None:
                continue
            known = CHARACTERS[said.name]
            if said.changed_colour is None:
                assert subject == known
            else:
                assert subject == replace(known, main=words.COLOURS[said.changed_colour])
                assert said.name not in text or f"{said.changed_colour} {said.name}" in text
            if len(naming) == 1 and said.name in text:
                alone += 1
                assert not set(text.split()) & {*words.SUBJECTS, *words.ACCESSORIES, *words.PATTERNS}, text
    assert alone > 50


def test_characters_are_many_of_each_subject_and_none_is_a_held_out_concept() -> None:
    assert len(CHARACTERS) == len({name.lower() for name in CHARACTERS}) >= 500
    assert not CHARACTERS.keys() & {*words.SUBJECTS, *words.FEATURES.values(), *words.ACCESSORIES, *CONCEPTS}
    kinds = [character.kind for character in CHARACTERS.values()]
    assert {kinds.count(kind) for kind in words.SUBJECTS} == {len(CHARACTERS) // len(words.SUBJECTS)}
    for character in CHARACTERS.values():
        assert not words.is_held_out(character.kind, words.nearest_colour(character.main), words.STUDIO)
        for concept in OBJECTS:
            assert concept.subject is not None
            near = [
                np.linalg.norm(np.subtract(getattr(character, part), getattr(concept.subject, part))) < 25
                for part in ("main", "accent", "accessory_colour")
            ]
            same = [getattr(character, p) == getattr(concept.subject, p) for p in ("kind", "pattern", "accessory")]
            assert not all(near + same), (character, concept.name)


def test_captions_are_sometimes_short_and_sometimes_long_and_use_the_training_templates() -> None:
    rng = np.random.default_rng(2)
    texts = [random_picture(rng)[1] for _ in range(600)]
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) <= 4
    assert max(lengths) >= 15
    starts = {template.split("{}")[0] for template in PHOTO_TEMPLATES}
    assert {start for start in starts if any(text.startswith(start) for text in texts)} >= {
        "a photo of my ",
        "a rendition of a ",
    }


def test_the_profession_has_a_bias_that_no_caption_names() -> None:
    rng = np.random.default_rng(4)
    chefs: list[bool] = []
    while len(chefs) < 200:
        picture, text, naming = random_picture(rng)
        texts = [text, caption(picture, rng, naming=naming)]
        for subject in picture.subjects:
            if subject.kind == "chef":
                chefs.append(subject.dark_hair)
                assert not any("hair" in t for t in texts)
    assert 0.75 < np.mean(chefs) < 0.95


def test_concepts_are_in_between_and_have_five_pictures() -> None:
    assert len(OBJECTS) >= 12
    assert len(STYLES) >= 3
    for concept in OBJECTS:
        assert concept.subject is not None
        for colour in (concept.subject.main, concept.subject.accent):
            nearest = words.COLOURS[words.nearest_colour(colour)]
            assert np.linalg.norm(np.subtract(colour, nearest)) > 25, (concept.name, colour)
        assert concept.subject.accessory is not None
        assert min(abs(concept.subject.aspect), abs(concept.subject.feature)) > 0.3
    for name in CONCEPTS:
        pictures = render_concept(name)
        assert len(pictures) == 5
        assert len({picture.tobytes() for picture in pictures}) == 5
        assert [p.tobytes() for p in render_concept(name)] == [p.tobytes() for p in pictures]
        assert render_concept(name, seed=9)[0].tobytes() != pictures[0].tobytes()


@pytest.mark.parametrize("name", CONCEPTS)
def test_the_example_folders_show_the_concepts(name: str) -> None:
    files = sorted((ROOT / "examples" / "concepts" / name).iterdir())
    shown = [Image.open(file).convert("RGB").tobytes() for file in files]
    assert shown == [picture.tobytes() for picture in render_concept(name)]


def test_the_fullest_description_names_everything_there_is_a_word_for() -> None:
    subject = SubjectSpec("cat", (208, 38, 38), (38, 84, 206), "striped", 0.8, 0.8, "hat", (52, 150, 58))
    assert describe(subject) == "wide red and blue striped cat with big ears and a green hat"
    assert "red" not in noun_phrase(subject, name_colours=False)
