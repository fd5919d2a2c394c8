"""A card's data and text: what is told is what was given, and nothing is invented."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData

from hub_cards.card import Card
from hub_cards.contents import BaseModel, CardContents, EmbeddingFile, License, Picture, Word
from hub_cards.dataset import DatasetContents
from hub_cards.errors import CardError, CardFileError
from hub_cards.facts import Score, Training
from hub_cards.metadata import eval_results, inherited_license
from tests.golden.cards.examples import CLIP_IMAGE, CLIP_TEXT, DINO, EXAMPLES, FOLDER, bare, corgi, sdxl, several


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden_cards(name: str) -> None:
    """After a wanted change: python -m tests.golden.cards.examples, and read the difference."""
    card = Card.of(EXAMPLES[name])
    assert card.markdown() == (FOLDER / f"{name}.md").read_bytes().decode("utf-8")


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    card = Card.of(EXAMPLES[name])
    file = card.save(tmp_path / "deep" / "README.md")
    is_dataset = isinstance(EXAMPLES[name], DatasetContents)
    again = Card.load(file, dataset=is_dataset)
    assert again.markdown() == card.markdown() == file.read_bytes().decode("utf-8")
    hub = (DatasetCard if is_dataset else ModelCard).load(file)
    assert hub.data.to_dict() == card.data.to_dict()
    assert hub.text == card.text
    assert list((tmp_path / "deep").iterdir()) == [file]


def test_scores_are_in_the_model_index(tmp_path: Path) -> None:
    hub = ModelCard.load(Card.of(corgi()).save(tmp_path / "README.md"))
    assert isinstance(hub.data, ModelCardData) and hub.data.eval_results is not None
    found = {result.metric_type: result for result in hub.data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {
        CLIP_IMAGE: 0.7805,
        DINO: 0.569,
        CLIP_TEXT: 0.2552,
    }
    result = found[CLIP_IMAGE]
    assert result.metric_name == "likeness: CLIP, ViT-B/32"
    assert result.metric_args == {"standard_error": 0.0111, "pictures": 80}
    assert (result.dataset_type, result.dataset_config) == ("user/corgi-pictures", "gal2023")
    assert result.dataset_args is not None and result.dataset_args["prompts"] == 20
    assert hub.data.model_name == "corgi"


def test_other_references_than_the_training_pictures_are_no_data_set_of_the_hub() -> None:
    assert corgi().protocol is not None
    (result, *_) = eval_results(replace(corgi(), protocol=replace(corgi().protocol, dataset=None)))
    assert result.dataset_type == "imagefolder"


def test_baselines_and_single_prompts_are_no_results_of_the_word() -> None:
    others = tuple(score for score in corgi().scores if score.subject != "word" or score.prompt is not None)
    contents = replace(corgi(), scores=others)
    assert eval_results(contents) == []
    assert "model-index" not in Card.of(contents).data.to_dict()


def test_each_word_has_results_of_its_own() -> None:
    card = Card.of(several())
    index = card.data.to_dict()["model-index"]
    assert [(r["dataset"]["name"], r["metrics"][0]["value"]) for r in index[0]["results"]] == [
        ("Reference pictures of <cat>", 0.75),
        ("Reference pictures of <dog>", 0.5),
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_no_result(value: float) -> None:
    contents = replace(bare(), scores=(Score("clip", "word", value, math.nan),))
    card = Card.of(contents)
    assert "model-index" not in card.data.to_dict()
    assert "not a number" in card.text and "nan" not in card.text and "±  " not in card.text


def test_without_an_evaluation_nothing_is_claimed() -> None:
    card = Card.of(sdxl())
    data = card.data.to_dict()
    assert not {"model-index", "model_name", "eval_results", "datasets"} & set(data)
    assert "No scores were measured for this word." in card.text
    assert "±" not in card.text and "Protocol" not in card.text and "similarities" not in card.text


def test_what_is_unknown_is_left_out() -> None:
    card = Card.of(bare())
    assert not {"license", "base_model", "base_model_relation", "widget", "datasets"} & set(card.data.to_dict())
    assert "No licence was given" in card.text
    assert "![" not in card.text and "None" not in card.text
    assert "There is no file for AUTOMATIC1111, ComfyUI or InvokeAI" in card.text


def test_metadata() -> None:
    data = Card.of(sdxl()).data.to_dict()
    expected = {
        "base_model": "stabilityai/stable-diffusion-xl-base-1.0",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "instance_prompt": "<duotone>",
        "license": "other",
        "license_name": "Duotone License",
        "widget": [{"text": "a harbour in the style of <duotone>", "output": {"url": "pictures/1.png"}}],
    }
    assert {name: data[name] for name in expected} == expected
    assert {"textual_inversion", "lora", "stable-diffusion-xl"} <= set(data["tags"])


def test_a_stranger_sees_first_what_it_is_and_how_to_use_it() -> None:
    first = Card.of(corgi()).text.split("## Scores")[0]
    places = [first.index(part) for part in ("# `<corgi>`", "![", "Type `<corgi>`", "```python", "| ComfyUI |")]
    assert places == sorted(places)
    assert first.count("![") == 3, "one picture a prompt"
    assert len(first.splitlines()) < 40


def test_one_picture_a_prompt_is_shown_first_and_all_of_them_later() -> None:
    contents = corgi()
    assert [picture.seed for picture in contents.opening_pictures] == [0, 0, 0]
    text = Card.of(contents).text
    assert all(text.count(f"]({picture.path})") >= 1 for picture in contents.pictures)


def test_there_is_no_gallery_that_only_repeats_the_first_screen() -> None:
    text = Card.of(replace(corgi(), pictures=corgi().opening_pictures, scores=())).text
    assert "## Pictures by prompt" not in text and text.count("![") == 3


def test_scores_of_one_prompt_stand_with_its_pictures() -> None:
    gallery = Card.of(corgi()).text.split("## Pictures by prompt")[1]
    first, second = gallery.split("### ")[1:3]
    assert "obedience: CLIP, ViT-B/32 ↑ 0.300 ± 0.010" in first and "↑" not in second


@pytest.mark.parametrize(("seconds", "told"), [(47, "47 s"), (212.4, "4 min"), (9000, "2.5 h")])
def test_durations(seconds: float, told: str) -> None:
    assert (
        f"| time of the training loop | {told} |" in Card.of(replace(bare(), training=Training(seconds=seconds))).text
    )


def test_every_citation_is_there_once() -> None:
    assert Card.of(corgi()).text.count("@inproceedings{gal2023textual") == 1
    assert "## Citation" not in Card.of(bare()).text


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"license": "apache-2.0"}, License("apache-2.0", inherited_from="a/b")),
        ({"license": ["mit"]}, License("mit", inherited_from="a/b")),
        (
            {"license": "other", "license_name": "theirs", "license_link": "LICENSE.md"},
            License("other", "theirs", "https://huggingface.co/a/b/blob/main/LICENSE.md", "a/b"),
        ),
        (
            {"license": "other", "license_name": "x", "license_link": "https://example.org/x"},
            License("other", "x", "https://example.org/x", "a/b"),
        ),
        ({"license": ["mit", "gpl"]}, None),
        ({"license": "no identifier at all"}, None),
        ({"license": None}, None),
        ({}, None),
    ],
)
def test_a_licence_is_inherited_or_unknown(stated: dict[str, Any], expected: License | None) -> None:
    assert inherited_license("a/b", stated) == expected
    assert inherited_license("a/b", ModelCardData(**stated)) == expected


def test_the_card_says_whose_licence_it_is() -> None:
    contents = replace(bare(), license=License("mit", inherited_from="a/b"))
    assert "mit, taken over from the base model `a/b`." in Card.of(contents).text
    assert Card.of(contents).data["license"] == "mit"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Word(" "),
        lambda: replace(bare(), words=()),
        lambda: Picture("../outside.png"),
        lambda: Picture("/etc/passwd"),
        lambda: Picture(""),
        lambda: Picture("a\\b.png"),
        lambda: EmbeddingFile("x.safetensors", "unet"),
        lambda: BaseModel("x", hub_id="/home/somebody/model"),
        lambda: replace(corgi(), repo_id="corgi"),
        lambda: replace(corgi(), datasets=("x\ny/z",)),
        lambda: License("my own licence"),
        lambda: License("other"),
        lambda: DatasetContents("x", 0),
    ],
)
def test_contents_that_cannot_be_told_are_refused(make: Any) -> None:
    with pytest.raises(CardError):
        make()


def test_a_template_of_ones_own() -> None:
    template = "# {{ description }}\n{{ words[0].token | code }}\n{{ own('mine') }}\n{{ usage | fenced('py') }}\n"
    contents: CardContents = replace(corgi(), description="*not* <b>bold</b>")
    lines = Card.of(contents, template=template).text.splitlines()
    assert lines[0] == r"# \*not\* &lt;b&gt;bold&lt;/b&gt;"
    assert lines[1] == "`<corgi>`"
    assert lines[2].startswith("<!-- own section: mine")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ tokn }}", "tokn.*names it may use are .*base_model"),
        ("\n{% if %}", "line 2"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ own('Not A Name!') }}", "small letters"),
        ("{{ words | nothing }}", "nothing"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ range(10 ** 9) | length }}", "Range too big"),
    ],
)
def test_a_faulty_template_is_explained(template: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        Card.of(bare(), template=template)


def test_a_card_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CardFileError, match="cannot write the card"):
        Card.of(bare()).save(tmp_path / "file" / "README.md")
    with pytest.raises(CardFileError, match="cannot read the card"):
        Card.load(tmp_path / "missing.md")
    (tmp_path / "broken.md").write_text("---\na: [\n---\n")
    with pytest.raises(CardError, match="metadata"):
        Card.load(tmp_path / "broken.md")


def test_a_folder_gets_a_readme(tmp_path: Path) -> None:
    assert Card.of(bare()).save(tmp_path) == tmp_path / "README.md"


def test_results_are_the_clients_own_records() -> None:
    assert all(isinstance(result, EvalResult) for result in eval_results(corgi()))
