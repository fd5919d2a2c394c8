from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from textual_inversion_ext import ConceptSpec, ConfigError, HubDataset, TextualInversionConfig
from textual_inversion_ext.run_file import load_run, save_run

FIELDS = dataclasses.fields(TextualInversionConfig)


def test_defaults_are_allowed_and_frozen() -> None:
    config = TextualInversionConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_explains_itself(field: dataclasses.Field[Any]) -> None:
    assert field.metadata["help"].endswith(".")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in (
            "train_batch_size",
            "gradient_accumulation_steps",
            "max_train_steps",
            "num_train_epochs",
            "max_concurrent_concepts",
            "logging_steps",
            "validation_steps",
            "num_validation_images",
            "save_steps",
            "checkpointing_steps",
            "checkpoints_total_limit",
            "lr_num_cycles",
            "resolution",
        )
        for value in (0, -3)
    ]
    + [
        ("learning_rate", 0.0),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        pytest.param("learning_rate", 10**400, id="learning_rate-huge"),
        pytest.param("max_grad_norm", -(10**400), id="max_grad_norm-huge"),
        ("adam_beta1", 1.0),
        ("adam_beta2", -0.1),
        ("adam_epsilon", 0.0),
        ("adam_weight_decay", -0.01),
        ("flip_p", 1.01),
        ("seed", -1),
        ("seed", 2**63),
        ("lr_warmup_steps", -1),
        ("lr_scheduler", "warp"),
        ("mixed_precision", "fp8"),
        ("output_dir", " "),
        ("pretrained_model_name_or_path", ""),
    ],
)
def test_values_outside_their_limits_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        TextualInversionConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "1e-3"),
        ("seed", 1.0),
        ("seed", True),
        ("max_train_steps", "5"),
        ("scale_lr", 1),
        ("output_dir", None),
    ],
)
def test_values_of_another_type_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value!r}"):
        TextualInversionConfig(**{name: value})


def test_a_number_in_quotes_is_explained() -> None:
    with pytest.raises(ConfigError, match="without quotes"):
        TextualInversionConfig.from_json('{"learning_rate": "5e-3"}')


def test_whole_numbers_serve_as_fractions_and_paths_as_text() -> None:
    config = TextualInversionConfig(learning_rate=1, output_dir=Path("a", "b"))  # type: ignore[arg-type]
    assert (config.learning_rate, type(config.learning_rate), config.output_dir) == (1.0, float, str(Path("a", "b")))


def test_json_round_trip() -> None:
    config = TextualInversionConfig(learning_rate=1e-7, max_train_steps=3, validation_prompt='ein "<ключ>"', flip_p=0)
    assert TextualInversionConfig.from_json(config.to_json()) == config


def test_a_mistyped_setting_names_the_right_one() -> None:
    with pytest.raises(ConfigError, match="'max_train_step'.*'max_train_steps'"):
        TextualInversionConfig.from_dict({"max_train_step": 3})


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"seed": 1'])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="JSON"):
        TextualInversionConfig.from_json(text)


def test_run_file_round_trip(tmp_path: Path) -> None:
    config = TextualInversionConfig(max_train_steps=3, output_dir="out")
    concepts = (
        ConceptSpec("<a>", "pictures/a", initializer="cat", num_vectors=2),
        ConceptSpec("<b>", ["b/1.png", "b/2.png"], learnable_property="style", class_name="painting"),
    )
    save_run(tmp_path / "config.json", config, concepts)
    read, stored = load_run(tmp_path / "config.json")
    assert read == config
    assert tuple(ConceptSpec.from_dict(values) for values in stored) == concepts
    assert [values["images"] for values in stored] == ["pictures/a", ["b/1.png", "b/2.png"]]
    assert load_run(tmp_path)[0] == config, "the folder of a run stands for its config.json"


def test_run_file_says_where_models_are_that_lie_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in another folder, ``models/sd15`` would be one of the Hub."""
    monkeypatch.chdir(tmp_path)
    for name in ("models/sd15", "pocket", "dog", "data/set"):
        Path(name).mkdir(parents=True)
    Path("models/start.safetensors").touch()
    config = TextualInversionConfig(pretrained_model_name_or_path="models/sd15/", clip_model="user/clip")
    data = HubDataset("data/set")
    concepts = [ConceptSpec("<a>", data, initializer="models/start.safetensors"), ConceptSpec("<b>", "b", "dog")]
    save_run("config.json", config, concepts)
    read, (first, second) = load_run("config.json")
    assert (read.pretrained_model_name_or_path, read.clip_model) == (str(tmp_path / "models" / "sd15"), "user/clip")
    assert first["initializer"] == str(tmp_path / "models" / "start.safetensors")
    assert first["images"]["dataset_name"] == str(tmp_path / "data" / "set")
    assert second["initializer"] == "dog", "a word, as for the training"
    save_run("config.json", TextualInversionConfig(), concepts)
    assert load_run("config.json")[0].pretrained_model_name_or_path == "pocket", "the one that is built in"


def test_run_file_says_where_pictures_are_that_lie_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in another folder, a typed name would be no folder, or one with other pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("photos", "home/mine"):
        Path(name).mkdir(parents=True)
    Path("photos/a.png").touch()
    listed = ["photos/a.png", Path("photos/gone.png")]
    given: dict[str, Any] = {"<a>": "photos/", "<b>": listed, "<c>": "~/mine", "<d>": Path("photos"), "<e>": "gone"}
    save_run("config.json", TextualInversionConfig(), [ConceptSpec(*concept) for concept in given.items()])
    assert [concept["images"] for concept in load_run("config.json")[1]] == [
        str(tmp_path / "photos"),
        [str(tmp_path / "photos" / "a.png"), "photos/gone.png"],
        str(tmp_path / "home" / "mine"),
        str(tmp_path / "photos"),
        "gone",
    ]


def test_run_file_does_not_repeat_overwriting_and_resuming(tmp_path: Path) -> None:
    config = TextualInversionConfig(overwrite_output_dir=True, resume_from_checkpoint="latest")
    save_run(tmp_path / "config.json", config, [ConceptSpec("<a>", "a")])
    assert load_run(tmp_path / "config.json")[0] == TextualInversionConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"confg": {}}, "unknown keys"),
        ({"config": []}, "must be an object"),
        ({"concepts": {}}, "a list"),
        ({"concepts": ["<a>"]}, "fields of a ConceptSpec"),
        ({"config": {"seed": -1}}, "seed is -1"),
        ("not json", "JSON"),
    ],
)
def test_damaged_run_files_are_refused(content: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        load_run(file)


def test_a_missing_run_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.json"):
        load_run(tmp_path / "nowhere.json")
