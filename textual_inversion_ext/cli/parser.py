"""Flags of the training command, made from the config's fields, and their way back into a config and concepts."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from textual_inversion_ext.concept import LEARNABLE_PROPERTIES, ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig, load_run
from textual_inversion_ext.errors import ConfigError

# Flags of diffusers' training scripts that have no meaning here, the number of values they take, and why.
IGNORED_FLAGS: dict[str, tuple[int, str]] = {
    "repeats": (1, "an epoch here shows each picture once; say --max_train_steps or --num_train_epochs"),
    "center_crop": (0, "pictures always keep their shape: short side resized, then centre crop"),
    "dataloader_num_workers": (1, "the pictures live on the training device, nothing is loaded during training"),
    "enable_xformers_memory_efficient_attention": (0, "PyTorch's own memory-efficient attention is used already"),
    "no_safe_serialization": (0, "embeddings are always safetensors, which every current tool reads"),
    "local_rank": (1, "accelerate takes the rank from the environment"),
    "validation_epochs": (1, "previews are counted in steps; say --validation_steps"),
    "use_auth_token": (0, "a login made with `hf auth login` is used by itself"),
    "hub_token": (1, "nothing is uploaded, so no token is needed; it was neither stored nor shown"),
    "hub_model_id": (1, "see --push_to_hub"),
    "push_to_hub": (0, "publishing with a model card comes in a later release"),
}

# Flags that describe concepts: the field of ConceptSpec each one fills, and its help.
CONCEPT_FLAGS: dict[str, tuple[str, str]] = {
    "train_data_dir": ("images", "Folder of 3-100 pictures."),
    "placeholder_token": ("placeholder_token", "The new word, for example '<corgi>'."),
    "initializer_token": ("initializer", "Word or phrase that the new word starts from, or an embedding file."),
    "learnable_property": ("learnable_property", "What the pictures share: object or style."),
    "num_vectors": ("num_vectors", "How many embedding rows the word stands for."),
    "class_name": ("class_name", "Coarse word for the thing, for example dog."),
}


@dataclass(frozen=True)
class TrainCommand:
    """What the user asked to train.

    Attributes:
        config: Settings of the run.
        concepts: What to learn.
        notices: One line for each flag that was accepted without effect.
    """

    config: TextualInversionConfig
    concepts: tuple[ConceptSpec, ...]
    notices: tuple[str, ...]


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag of the training command.

    No flag has a default here, so that the parsed names are those the user typed; the rest comes from ``--config`` or
    from the config's own defaults.

    Args:
        parser: The parser to fill.
    """
    parser.add_argument("--config", metavar="FILE", help="config.json of a run to repeat; explicit flags override it.")
    group = parser.add_argument_group("what to learn (several values make several concepts)")
    for flag, (field, text) in CONCEPT_FLAGS.items():
        group.add_argument(
            f"--{flag}",
            nargs="+",
            action="extend",
            default=argparse.SUPPRESS,
            type=int if field == "num_vectors" else str,
            choices=LEARNABLE_PROPERTIES if field == "learnable_property" else None,
            help=text,
        )
    group = parser.add_argument_group("settings")
    hints = get_type_hints(TextualInversionConfig)
    for setting in dataclasses.fields(TextualInversionConfig):
        _add_setting(group, setting, hints[setting.name])
    group = parser.add_argument_group("flags of diffusers' script that are accepted without effect")
    for flag, (values, why) in IGNORED_FLAGS.items():
        kind: dict[str, Any] = {"nargs": values, "metavar": "X"} if values else {"action": "store_true"}
        group.add_argument(f"--{flag}", default=argparse.SUPPRESS, help=f"Without effect: {why}.", **kind)


def read_train_flags(flags: argparse.Namespace) -> TrainCommand:
    """Turn parsed flags into a config and concepts.

    Args:
        flags: What a parser with ``add_train_flags`` parsed.

    Returns:
        The command.

    Raises:
        ConfigError: A flag is missing, contradicts another, or has a value that is not allowed.
    """
    given = vars(flags)
    file = given.get("config")
    stored, stored_concepts = load_run(file) if file else (TextualInversionConfig(), ())
    names = {field.name for field in dataclasses.fields(TextualInversionConfig)}
    settings = {**stored.to_dict(), **{name: value for name, value in given.items() if name in names}}
    if "num_train_epochs" in given and "max_train_steps" not in given:
        settings["max_train_steps"] = None  # What was typed wins over what the file says.
    config = TextualInversionConfig.from_dict(settings)
    asked = {CONCEPT_FLAGS[flag][0]: given[flag] for flag in CONCEPT_FLAGS if flag in given}
    return TrainCommand(config, _concepts(asked, stored_concepts), tuple(_notices(given, config)))


def _add_setting(group: argparse._ArgumentGroup, field: dataclasses.Field[Any], hint: Any) -> None:
    shown = "" if field.default is None else f" Default: {str(field.default).replace('%', '%%')}."
    common: dict[str, Any] = {"default": argparse.SUPPRESS, "help": field.metadata["help"].replace("%", "%%") + shown}
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] or [hint]
    if hint is bool:
        group.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, **common)
    elif get_origin(hint) is Literal:
        group.add_argument(f"--{field.name}", choices=get_args(hint), **common)
    else:
        group.add_argument(f"--{field.name}", type=kinds[0], metavar=kinds[0].__name__.upper(), **common)


def _concepts(asked: dict[str, list[Any]], stored: Sequence[dict[str, Any]]) -> tuple[ConceptSpec, ...]:
    """Zip the concept flags over the stored concepts; a single value serves all concepts."""
    tokens = asked.get("placeholder_token")
    if tokens and len(tokens) != len(stored):
        stored = [{} for _ in tokens]
    if not stored:
        raise ConfigError(
            "--placeholder_token is missing: the word to learn, for example --placeholder_token '<corgi>'."
        )
    specs = []
    for place, base in enumerate(stored):
        fields = dict(base)
        for field, values in asked.items():
            fields[field] = _pick(field, values, place, len(stored))
        if fields.get("images") is None:
            raise ConfigError(
                f"--train_data_dir is missing for {fields.get('placeholder_token')}: the folder with its pictures."
            )
        specs.append(ConceptSpec.from_dict(fields))
    return tuple(specs)


def _pick(field: str, values: list[Any], place: int, count: int) -> Any:
    shared = len(values) == 1 and field not in ("placeholder_token", "images")
    if not shared and len(values) != count:
        flag = next(flag for flag, (name, _) in CONCEPT_FLAGS.items() if name == field)
        alternatives = f"{count}" if field in ("placeholder_token", "images") else f"1 or {count}"
        raise ConfigError(f"--{flag} has {len(values)} values for {count} concept(s); give {alternatives}.")
    return values[0 if shared else place]


def _notices(given: dict[str, Any], config: TextualInversionConfig) -> list[str]:
    notices = [
        f"--{flag} has no effect: {why}."
        for flag, (_, why) in IGNORED_FLAGS.items()
        if flag in given and not (flag == "local_rank" and given[flag] == ["-1"])
    ]
    if "push_to_hub" in given:
        repository = (given.get("hub_model_id") or ["YOUR_NAME/YOUR_MODEL"])[0]
        command = f"hf upload {repository} {config.output_dir} --exclude 'checkpoint-*' --exclude 'logs/*'"
        notices.append(f"To upload the result by hand: {command}")
    return notices
