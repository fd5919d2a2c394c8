"""What an evaluation is about, read from the folder of a run: the word, its pictures, its baselines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation_parts import FEW, RED, colour_metrics, concept
from tests.runs import rows_of, save_images, train_flags
from tests.tiny import tiny_images
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConceptError, ConfigError, DataError, EmbeddingFileError
from textual_inversion_ext.evaluation.baselines import SELF_PAIRS, caption_subjects, class_subject, initial_subject
from textual_inversion_ext.evaluation.evaluator import Evaluator
from textual_inversion_ext.evaluation.material import Material, load_material, read_captions
from textual_inversion_ext.evaluation.report import (
    CAPTION,
    CLASS_WORD,
    INITIAL_ROWS,
    REAL_PICTURES,
    WORD,
    EvaluationReport,
)
from textual_inversion_ext.pipelines.loading import load_pipeline
from textual_inversion_ext.pipelines.words.pooling import recorded_pooling
from textual_inversion_ext.pocket import render_concept

# From the folder of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    flags = train_flags(folder, num_vectors=2, initializer_noise=0.1, class_name="cat", seed=3)
    (folder / "images" / "0.txt").write_text("a red teapot", encoding="utf-8")
    (folder / "images" / "1.txt").write_text("<tok> on a beach", encoding="utf-8")
    assert main(flags) == 0
    return folder


def test_a_run_says_what_it_learned_from(run: Path) -> None:
    material = load_material(run / "out")
    assert torch.equal(material.concept.vectors["clip_l"], rows_of(run / "out"))
    assert [np.asarray(picture).tolist() for picture in material.references] == [
        np.asarray(Image.open(file)).tolist() for file in sorted((run / "images").glob("*.png"))
    ]
    assert (material.class_word, material.learnable_property) == ("cat", "object")
    assert material.captions == ("a red teapot",), "a caption with the word itself is no baseline"
    assert load_material(run / "out" / "learned_embeds.safetensors").class_word == "cat"


def test_the_first_rows_are_those_that_training_started_from(run: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(run / "model")
    initial = initial_subject(pipeline, load_material(run / "out"))
    flags = train_flags(
        run,
        num_vectors=2,
        initializer_noise=0.1,
        class_name="cat",
        seed=3,
        learning_rate=1e-20,
        output_dir=tmp_path / "still",
    )
    assert main(flags) == 0
    assert initial is not None
    torch.testing.assert_close(initial.concepts[0].vectors["clip_l"], rows_of(tmp_path / "still"))
    assert initial_subject(pipeline, Material.of(concept(), tiny_images(1))) is None


def test_the_first_rows_are_pooled_as_the_word(tmp_path: Path) -> None:
    assert main(train_flags(tmp_path, pooling="diffusers", max_train_steps=1)) == 0
    initial = initial_subject(load_pipeline(tmp_path / "model"), load_material(tmp_path / "out"))
    assert initial is not None and recorded_pooling(initial.concepts) == "diffusers"


def test_an_evaluation_of_a_run_has_all_baselines(run: Path) -> None:
    pipeline = load_pipeline(run / "model")
    evaluator = Evaluator(RED, colour_metrics(), folder=run / "out" / "evaluation", settings=FEW, seeds=2)
    report = evaluator.evaluate(pipeline, load_material(run / "out"))
    assert report.subjects == (WORD, CLASS_WORD, CAPTION, INITIAL_ROWS, REAL_PICTURES, SELF_PAIRS)
    assert report.phrases[CAPTION] == "a red teapot"
    assert report.concept.base_model == str(run / "model")
    assert (report.concept.train_steps, report.concept.references) == (4, 3)
    assert report.losses and report.rows[0].encoder == "clip_l"
    texts = {pictures.subject: pictures.text for pictures in report.pictures}
    assert texts[CAPTION] == "a red red teapot on green", "a description needs no second article"
    report.save(run / "out" / "evaluation" / "report.json")
    assert EvaluationReport.load(run / "out") == report


def test_a_moved_run_finds_its_pictures_beside_it(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run / "out", moved)
    content = json.loads((moved / "config.json").read_text(encoding="utf-8"))
    content["concepts"][0]["images"] = "pictures"
    (moved / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"pictures.*Give the folder with the real pictures"):
        load_material(moved)
    shutil.copytree(run / "images", moved / "pictures")
    assert len(load_material(moved).references) == 3 and load_material(moved).own_references
    others = load_material(moved, references=tiny_images(2))
    assert len(others.references) == 2 and not others.own_references


def test_other_pictures_under_the_recorded_name_are_not_the_runs_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run / "out", tmp_path / "run")
    content = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    content["concepts"][0]["images"] = "images"
    content["concepts"][0]["initialization"] = "images"
    (tmp_path / "run" / "config.json").write_text(json.dumps(content), encoding="utf-8")
    save_images(tmp_path / "elsewhere" / "images", seed=7)
    told, pipeline = "not known to be those that the word was learned from", load_pipeline(run / "model")
    evaluator = Evaluator(RED, colour_metrics(), settings=FEW, seeds=1, baselines=[])
    for folder, own in ((run, True), (tmp_path / "elsewhere", False)):
        monkeypatch.chdir(folder)
        material = load_material(tmp_path / "run")
        report = evaluator.evaluate(pipeline, material)
        assert (material.own_references, report.concept.own_references) == (own, own)
        assert any(told in note for note in report.notes) != own
        assert (initial_subject(pipeline, material) is not None) == own, "the first rows come from the pictures"
    assert load_material(tmp_path / "run", references=str(run / "images")).own_references


def test_pictures_of_a_data_set_are_read_from_it(run: Path, tmp_path: Path) -> None:
    import datasets

    table = {"photo": tiny_images(2, seed=5), "words": ["a teapot", "a clock"]}
    features = datasets.Features({"photo": datasets.Image(), "words": datasets.Value("string")})
    datasets.Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "table")
    shutil.copytree(run / "out", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    content["concepts"][0]["images"] = {"dataset_name": str(tmp_path / "table")}
    content["config"] |= {"image_column": "photo", "caption_column": "words"}
    (tmp_path / "out" / "config.json").write_text(json.dumps(content), encoding="utf-8")
    material = load_material(tmp_path / "out")
    expected = [np.asarray(picture).tolist() for picture in tiny_images(2, seed=5)]
    assert [np.asarray(picture).tolist() for picture in material.references] == expected
    assert material.captions == ("a teapot", "a clock")


def test_a_run_of_several_concepts_has_to_be_asked_for_one(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        concept(f"<{name}>").save(tmp_path / name / "learned_embeds.safetensors")
    with pytest.raises(ConceptError, match="holds the concepts <a>, <b>; say which one"):
        load_material(tmp_path, references=tiny_images(1))
    with pytest.raises(ConceptError, match="none of them is <c>"):
        load_material(tmp_path, token="<c>", references=tiny_images(1))
    assert load_material(tmp_path, token="<b>", references=tiny_images(1)).concept.token == "<b>"


def test_a_folder_of_several_runs_of_a_word_is_refused(tmp_path: Path) -> None:
    for name in ("seed-1", "seed-2"):
        concept("<a>").save(tmp_path / name / "learned_embeds.safetensors")
    for token in (None, "<a>"):
        with pytest.raises(ConceptError, match=r"is no run: several folders in it are about <a>.*seed-1 .*seed-2"):
            load_material(tmp_path, token=token, references=tiny_images(1))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match="there is no concept at"):
        load_material(tmp_path / "nothing")
    concept().save(tmp_path / "alone" / "learned_embeds.safetensors")
    with pytest.raises(DataError, match="no file says which pictures it was learned from"):
        load_material(tmp_path / "alone")
    (tmp_path / "no concept").mkdir()
    with pytest.raises(EmbeddingFileError):
        load_material(tmp_path / "no concept")
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no caption"):
        read_captions(tmp_path / "empty.txt")
    with pytest.raises(ConfigError, match="Cannot read the captions"):
        read_captions(tmp_path / "none.txt")


def test_a_description_stands_where_the_word_stands() -> None:
    captions = ("A photo of a red dog.", "a red dog", "a painting of a dog", "close-up photo of the dog")
    material = Material.of(concept(), tiny_images(1), captions=captions)
    phrases = [subject.phrase for subject in caption_subjects(material)]
    assert phrases == ["a red dog", "a painting of a dog", "the dog"]


def test_sentences_to_learn_in_are_no_descriptions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Captions that say where the word goes, beside pictures with masks, as a training has them."""
    flags = train_flags(tmp_path, masks="files", captions="captions", max_train_steps=1)
    for number, text in enumerate(("{} on a beach", "a red teapot", "a photo of {}")):
        (tmp_path / "images" / f"{number}.txt").write_text(text, encoding="utf-8")
        size = Image.open(tmp_path / "images" / f"{number}.png").size
        Image.new("L", size, 255).save(tmp_path / "images" / f"{number}_mask.png")
    assert main(flags) == 0
    caplog.clear()
    with caplog.at_level("INFO", logger="textual_inversion_ext"):
        material = load_material(tmp_path / "out")
    assert material.captions == ("a red teapot",) and len(material.references) == 3
    assert "mask" not in caplog.text
    (tmp_path / "captions.txt").write_text("a red dog\na {} on a beach\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'a \{\} on a beach' has a place for the word"):
        read_captions(tmp_path / "captions.txt")


def test_a_word_without_brackets_is_not_found_inside_captions(tmp_path: Path) -> None:
    concept("art").save(tmp_path / "art.safetensors")
    images = save_images(tmp_path / "images")
    for number, text in enumerate(("a cartoon dog", "an ART dog", "a party dog")):
        (images / f"{number}.txt").write_text(text, encoding="utf-8")
    material = load_material(tmp_path / "art.safetensors", references=str(images))
    assert material.captions == ("a cartoon dog", "a party dog")


def test_captions_of_a_file(run: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red dog\n\na blue cat\na red dog\n", encoding="utf-8")
    captions = read_captions(tmp_path / "captions.txt")
    assert load_material(run / "out", captions=captions).captions == ("a red dog", "a blue cat")


def test_the_truth_is_known_only_for_a_shipped_concept_and_its_own_pictures() -> None:
    shipped = LearnedConcept("<bruno>", {"clip_l": torch.ones(1, 16)})
    assert Material.of(shipped, render_concept("bruno")).truth is not None
    assert Material.of(shipped, render_concept("mochi")).truth is None
    assert Material.of(concept(), render_concept("bruno")).truth is None


def test_class_words_come_from_the_file_unless_given() -> None:
    assert Material.of(concept(class_name="dog"), tiny_images(1)).class_word == "dog"
    assert Material.of(concept(initializer="red dog"), tiny_images(1)).class_word == "red dog"
    assert Material.of(concept(initializer="old/cat.safetensors"), tiny_images(1)).class_word is None
    for name in ("St. Bernard", "R2D2 robot", "children's toy"):
        assert Material.of(concept(class_name=name), tiny_images(1)).class_word == name
    assert class_subject(Material.of(concept(), tiny_images(1))) is None
