"""What a card says of a run is what the run recorded, and nothing that only might be so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hub_cards.card import Card
from hub_cards.contents import License
from tests.publishing_runs import SECRET, write_run
from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import PublishError
from textual_inversion_ext.files import load_concept, save_concept
from textual_inversion_ext.publishing import PublishSettings, prepare_collection, prepare_run
from textual_inversion_ext.recipes import RECIPES
from textual_inversion_ext.training.trainer import TextualInversionTrainer


def card_text(folder: Path, **settings: Any) -> str:
    (publication,) = prepare_run(folder, PublishSettings("ann/corgi", **settings), online=False)
    content = publication.files["README.md"]
    assert isinstance(content, bytes)
    return content.decode()


def record(folder: Path, **facts: str) -> None:
    """Change what the embedding file of a run says."""
    concept = load_concept(folder / "learned_embeds.safetensors")
    changed = dataclasses.replace(concept, metadata={**concept.metadata, **facts})
    save_concept(changed, folder / "learned_embeds.safetensors")


def change_report(folder: Path, **parts: Any) -> None:
    file = folder / "evaluation" / "report.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **parts}))


def test_a_report_of_other_rows_is_refused(tmp_path: Path) -> None:
    """After a second training in the same folder, the scores are another word's."""
    folder = write_run(tmp_path / "run", report=True)
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    change_report(folder, concept={**report["concept"], "rows_hash": "0" * 16})
    with pytest.raises(PublishError, match=r"report.json was measured on other rows .*evaluate again, or remove it"):
        card_text(folder)


@pytest.mark.parametrize(
    "parts",
    [
        {"concept": "x"},
        {"scores": [{}]},
        {"scores": [{"metric": "dino", "subject": "word", "mean": None}]},
        {"notes": None},
        {"settings": []},
        {"pictures": [{"subject": "word", "prompt": "{}", "text": "", "files": [1]}]},
        {"schema_version": 99},
        {"schema": "something else"},
    ],
)
def test_a_damaged_report_is_refused(parts: dict[str, Any], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", report=True)
    change_report(folder, **parts)
    with pytest.raises(PublishError, match=r"(?s)report.json.*evaluate again, or remove that file"):
        card_text(folder)


@pytest.mark.parametrize("name", ["../training/0.png", "{folder}/training/0.png", "gallery/link.png", "gallery/\0.png"])
def test_a_report_does_not_choose_files_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    """It may come from somebody else, and whatever it names would be published."""
    folder = write_run(tmp_path / "run", report=True)
    (folder / "evaluation" / "gallery" / "link.png").symlink_to(folder / "training" / "0.png")
    shown = {"subject": "word", "prompt": "{}", "text": "<corgi>", "files": [name.format(folder=folder)]}
    change_report(folder, pictures=[shown])
    with pytest.raises(PublishError, match=r"report.json names a picture that is not in its folder .*--image"):
        card_text(folder)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (b'{"step": 41, "loss": null, "seconds": 600}', "12 s"),
        (b'{"step": 41, "loss": {"<corgi>": 0.1}, "seconds": "?"}', "12 s"),
        (b'["loss"]', "12 s"),
        (b"\xff\xfe", "12 s"),
        (b'{"step": 41, "loss": {"<corgi>": 0.1, "\xff": 1}, "seconds": 600}', "10 min"),
    ],
)
def test_what_is_damaged_in_a_step_log_is_passed_over(last: bytes, told: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with open(folder / "steps.jsonl", "ab") as log:
        log.write(last + b"\n")
    assert f"| time of the training loop | {told} |" in card_text(folder)


@pytest.mark.parametrize("model", ["models/sd15", "models/acme-secret/sd15"])
def test_a_model_that_was_a_folder_is_none_of_the_hub(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does where it lies get out, wherever its word is published from."""
    (tmp_path / model).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    config = TextualInversionConfig(
        pretrained_model_name_or_path=model, output_dir="run", max_train_steps=1, train_batch_size=1
    )
    concept = ConceptSpec("<corgi>", tiny_images(1), "cat")
    TextualInversionTrainer(config, [concept], pipeline=tiny_pipeline()).train()
    monkeypatch.chdir("elsewhere")
    (publication,) = prepare_run(Path("../run"), PublishSettings("ann/corgi"), online=False)
    for name, content in publication.files.items():
        assert isinstance(content, bytes)
        assert b"/sd15" not in content, name
        assert b"acme-secret" not in content, name
    assert "base_model" not in Card.parse(card_text(Path("../run"))).data.to_dict()
    # What reads the word on this machine finds its model.
    assert load_concept("../run").metadata["base_model"] == str(tmp_path / model)


def test_the_scores_of_a_prompt_stand_with_its_picture(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", report=True)
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    of_prompt = {**report["scores"][0], "prompt": "{} on the moon", "mean": 0.123}
    change_report(folder, scores=[*report["scores"], of_prompt])
    gallery = card_text(folder).split("## Pictures by prompt")[1].split("## Training")[0]
    assert "0.123" in gallery.split("### `<corgi> on the moon`")[1]


def test_what_measured_is_not_what_trained(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", report=True)
    change_report(folder, versions={"torch": "9.8.7"})
    before, training = card_text(folder).split("## Training\n")
    assert "Measured with torch 9.8.7." in before
    assert "9.8.7" not in training
    assert "textual-inversion-ext 0.1.0" in training
    record(folder, versions=json.dumps({"torch": "1.2.3"}))
    assert "torch 1.2.3" in card_text(folder).split("## Training\n")[1]
    record(folder, versions="no JSON")
    assert "textual-inversion-ext 0.1.0" in card_text(folder).split("## Training\n")[1]


@pytest.mark.parametrize("own, data_set", [(True, "ann/corgi-images"), (False, "imagefolder")])
def test_scores_name_the_data_set_only_if_they_were_measured_on_it(own: bool, data_set: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", report=True)
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    change_report(folder, concept={**report["concept"], "own_references": own})
    (*_, publication) = prepare_run(folder, PublishSettings("ann/corgi", with_dataset=True), online=False)
    content = publication.files["README.md"]
    assert isinstance(content, bytes)
    (model,) = Card.parse(content.decode()).data.to_dict()["model-index"]
    assert {result["dataset"]["type"] for result in model["results"]} == {data_set}


def test_what_ended_the_training_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert "ended by" not in card_text(folder)
    record(folder, stopped="plateau: loss has not fallen by 1 % in 6 evaluations")
    assert "| ended by | plateau: loss has not fallen by 1 % in 6 evaluations |" in card_text(folder)


def test_pictures_are_counted_only_if_they_are_those_that_were_learned_from(tmp_path: Path) -> None:
    """An evaluation may have compared with others."""
    folder = write_run(tmp_path / "run", report=True)
    assert "learned from 3 pictures by textual inversion" in card_text(folder)
    (folder / "training" / "0.png").unlink()
    assert "pictures by textual inversion" not in card_text(folder)


@pytest.mark.parametrize("name", ["gal-1-word", "fast"])
def test_a_recipe_is_named_if_all_of_it_was_used(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run")
    used = TextualInversionConfig.from_dict({**RECIPES[name].settings, "seed": 7, "mixed_precision": "bf16"}).to_dict()
    record(folder, recipe=json.dumps(used))
    assert f"| recipe | `{name}` |" in card_text(folder)
    for other in ({**used, "max_train_steps": 3}, {**used, "snr_gamma": 5.0}):
        record(folder, recipe=json.dumps(other))
        assert "| recipe |" not in card_text(folder)


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ("from {here}/photos of mine", "a path of this machine"),
        ("gone since: {here}/no/such/file", "a path of this machine"),
        ("see ~jane/photos/corgi", "a path of this machine"),
        (r"a \\server\share\jane\x", "a path of this machine"),
        (f"my {SECRET}", "access token"),
    ],
)
def test_a_description_is_not_changed_but_looked_at(tmp_path: Path, description: str, says: str) -> None:
    with pytest.raises(PublishError, match=f"--description holds .*{says}") as error:
        PublishSettings("ann/corgi", description=description.format(here=tmp_path))
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "description",
    [
        "~50/50 mix of corgi and husky",
        "in the style of /r/aww/ and /r/dogs/",
        "/r/corgi/ in a few words",
        "cats and/or",
    ],
)
def test_a_description_without_secrets_is_published_as_it_is(tmp_path: Path, description: str) -> None:
    assert description in card_text(write_run(tmp_path / "run"), description=description)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"license_name": "Mine", "license_link": "https://example.org"}, "--license_name and --license_link without"),
        ({"dataset_repo_id": "ann/pictures"}, "--dataset_repo_id ann/pictures .*add --with_dataset"),
    ],
)
def test_what_would_have_no_effect_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(PublishError, match=says):
        PublishSettings("ann/corgi", **settings)


def test_many_words_do_not_share_one_data_set(tmp_path: Path) -> None:
    for name in ("corgi", "teapot"):
        write_run(tmp_path / "runs" / name, f"<{name}>")
    settings = PublishSettings("ann/library", with_dataset=True, dataset_repo_id="ann/pictures")
    with pytest.raises(
        PublishError, match=r"do not go into one data set \(ann/pictures\).*Leave --dataset_repo_id out"
    ):
        list(prepare_collection(tmp_path / "runs", settings))
    own = dataclasses.replace(settings, dataset_repo_id=None)
    places = [(found.repo_type, found.repo_id) for found in prepare_collection(tmp_path / "runs", own)]
    assert ("dataset", "ann/corgi-images") in places
    assert ("dataset", "ann/teapot-images") in places


def test_a_licence_that_was_chosen_is_kept_before_that_of_the_base_model(tmp_path: Path) -> None:
    """But not one that may have been taken over from another base model."""
    from tests.golden.cards.examples import corgi

    contents = corgi()
    inherited = contents.license
    assert inherited is not None
    assert inherited.inherited_from == contents.base_model.hub_id
    asked = Card.of(dataclasses.replace(contents, license=License("mit")))
    assert Card.of(contents, previous=asked).data["license"] == "mit"
    assert Card.of(contents, previous=Card.of(contents)).data["license"] == inherited.id
    other = dataclasses.replace(contents.base_model, hub_id="user/other")
    before = Card.of(dataclasses.replace(contents, license=License("mit"), base_model=other))
    assert Card.of(contents, previous=before).data["license"] == inherited.id
    again = Card.of(dataclasses.replace(contents, license=License("cc0-1.0")), previous=asked)
    assert again.data["license"] == "cc0-1.0"
