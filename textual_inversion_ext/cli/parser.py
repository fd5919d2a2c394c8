"""Flags of the training command, made from the config's fields, and their way back into a config and concepts."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from textual_inversion_ext.concept import LEARNABLE_PROPERTIES, ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.recipes import RECIPES, Recipe, recipe_named
from textual_inversion_ext.run_file import load_run

# Flags of diffusers' training scripts that have no meaning here, the number of values they take, and why.
IGNORED_FLAGS: dict[str, tuple[int, str]] = {
    "repeats": (1, "an epoch here shows each picture once; say --max_train_steps or --num_train_epochs"),
    "center_crop": (0, "the centre square is what is used unless --crop says otherwise"),
    "dataloader_num_workers": (1, "the pictures live on the training device, nothing is loaded during training"),
    "enable_xformers_memory_efficient_attention": (0, "PyTorch's own memory-efficient attention is used already"),
    "no_safe_serialization": (0, "embeddings are always safetensors, which every current tool reads"),
    "local_rank": (1, "accelerate takes the rank from the environment"),
    "validation_epochs": (1, "previews are counted in steps; say --validation_steps"),
    "use_auth_token": (0, "a login made with `hf auth login` is used by itself"),
}

# Flags about publishing: their help, and whether they take a value.
HUB_FLAGS: dict[str, tuple[str, bool]] = {
    "push_to_hub": ("Publish the result on the Hub with a model card (as `textual-inversion publish` does).", False),
    "hub_model_id": ("Its repository, user/name; default: the name of output_dir. Of several: of their list.", True),
    "hub_token": ("Access token; default: the login made with `hf auth login`. It is neither stored nor shown.", True),
    "hub_private_repo": ("Make a new repository private.", False),
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

# Flags that describe a data set instead of a folder: the field of HubDataset each one fills, and its help.
DATASET_FLAGS: dict[str, tuple[str, str]] = {
    "dataset_name": ("dataset_name", "Data set of the Hub (user/name) or folder that datasets reads, with pictures."),
    "dataset_split": ("split", "Its part to learn from, for example train[:10]; default: train, or the only one."),
    "dataset_config_name": ("config_name", "Its configuration, where there are several."),
    "dataset_revision": ("revision", "Its branch, tag or commit."),
}


@dataclass(frozen=True)
class HubRequest:
    """Where the result is to be published.

    Attributes:
        repo_id: ``user/name``, or ``name`` for the account's own.
        private: Whether a new repository is private.
        token: Access token; None for the login of this machine.
    """

    repo_id: str
    private: bool = False
    token: str | None = dataclasses.field(default=None, repr=False)


@dataclass(frozen=True)
class TrainCommand:
    """What the user asked to train.

    Attributes:
        config: Settings of the run.
        concepts: What to learn.
        notices: One line for each flag that was accepted without effect.
        hub: Where to publish the result; None to keep it here.
    """

    config: TextualInversionConfig
    concepts: tuple[ConceptSpec, ...]
    notices: tuple[str, ...]
    hub: HubRequest | None = None


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag of the training command.

    No flag has a default here, so that the parsed names are those the user typed; the rest comes from ``--config`` or
    from the config's own defaults.

    Args:
        parser: The parser to fill.
    """
    parser.add_argument("--config", metavar="FILE", help="config.json of a run to repeat; explicit flags override it.")
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        default=argparse.SUPPRESS,
        help="Settings under a name; explicit flags override them. "
        + " ".join(f"{name}: {recipe.text}" for name, recipe in RECIPES.items()).replace("%", "%%"),
    )
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
    for flag, (_, text) in DATASET_FLAGS.items():
        group.add_argument(f"--{flag}", nargs="+", action="extend", default=argparse.SUPPRESS, help=text)
    group.add_argument(
        "--concepts",
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="Instead of the flags above: a file with a JSON object of fields per line, or a folder of folders of "
        "pictures, each named like its word. Other flags about concepts then hold for all of them.",
    )
    group = parser.add_argument_group("settings")
    hints = get_type_hints(TextualInversionConfig)
    for setting in dataclasses.fields(TextualInversionConfig):
        _add_setting(group, setting, hints[setting.name])
    group = parser.add_argument_group("publishing")
    for flag, (text, has_value) in HUB_FLAGS.items():
        how: dict[str, Any] = {"metavar": "X"} if has_value else {"action": "store_true"}
        group.add_argument(f"--{flag}", default=argparse.SUPPRESS, help=text, **how)
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
    recipe = recipe_named(given["recipe"]) if "recipe" in given else Recipe("")
    typed = {name: value for name, value in given.items() if name in names}
    settings = {**stored.to_dict(), **recipe.settings, **typed}
    if "num_train_epochs" in given and "max_train_steps" not in given:
        settings["max_train_steps"] = None  # What was typed wins over what the file says.
    config = TextualInversionConfig.from_dict(settings)
    if "concepts" in given:
        stored_concepts = _listed_concepts(given)
    asked = {name: [value] for name, value in recipe.concept.items()}
    asked |= {CONCEPT_FLAGS[flag][0]: given[flag] for flag in CONCEPT_FLAGS if flag in given}
    data = {DATASET_FLAGS[flag][0]: given[flag] for flag in DATASET_FLAGS if flag in given}
    if "images" in asked and data:
        raise ConfigError("--train_data_dir and --dataset_name both say where the pictures are; give one of them.")
    concepts = _concepts(asked, data, stored_concepts)
    return TrainCommand(config, concepts, tuple(_notices(given)), _hub_request(given, config))


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


def _listed_concepts(given: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Read ``--concepts``, which says by itself what is learned from what."""
    from textual_inversion_ext.data.sources.concept_lists import read_concepts

    for flag in ("placeholder_token", "train_data_dir", *DATASET_FLAGS):
        if flag in given:
            raise ConfigError(f"--{flag} and --concepts both say what to learn; give one of them.")
    return read_concepts(Path(given["concepts"]))


def _concepts(
    asked: dict[str, list[Any]], data: dict[str, list[str]], stored: Sequence[dict[str, Any]]
) -> tuple[ConceptSpec, ...]:
    """Zip the flags about concepts and data sets over the stored concepts; a single value serves all concepts."""
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
        if data:
            fields["images"] = _data_set(data, fields.get("images"), place, len(stored))
        if fields.get("images") is None:
            raise ConfigError(
                f"--train_data_dir is missing for {fields.get('placeholder_token')}: the folder with its pictures."
            )
        specs.append(ConceptSpec.from_dict(fields))
    return tuple(specs)


def _data_set(data: dict[str, list[str]], stored: Any, place: int, count: int) -> dict[str, Any]:
    """Fields of the data set of one concept: what was typed wins over what the run file says."""
    typed = {field: _pick(field, values, place, count) for field, values in data.items()}
    if "dataset_name" in typed:
        return typed
    if not isinstance(stored, dict):
        flag = next(flag for flag, (field, _) in DATASET_FLAGS.items() if field in typed)
        raise ConfigError(f"--{flag} is about a data set; give --dataset_name, for example user/corgis.")
    return {**stored, **typed}


def _pick(field: str, values: list[Any], place: int, count: int) -> Any:
    shared = len(values) == 1 and field not in ("placeholder_token", "images")
    if not shared and len(values) != count:
        flags = {**CONCEPT_FLAGS, **DATASET_FLAGS}
        flag = next(flag for flag, (name, _) in flags.items() if name == field)
        alternatives = f"{count}" if field in ("placeholder_token", "images") else f"1 or {count}"
        raise ConfigError(f"--{flag} has {len(values)} values for {count} concept(s); give {alternatives}.")
    return values[0 if shared else place]


def _hub_request(given: dict[str, Any], config: TextualInversionConfig) -> HubRequest | None:
    if "push_to_hub" not in given:
        return None
    repo_id = given.get("hub_model_id") or Path(config.output_dir).resolve().name
    return HubRequest(repo_id, given.get("hub_private_repo", False), given.get("hub_token"))


def _notices(given: dict[str, Any]) -> list[str]:
    notices = [f"--recipe {given['recipe']} stands for {RECIPES[given['recipe']].flags()}"] if "recipe" in given else []
    notices += [
        f"--{flag} has no effect: {why}."
        for flag, (_, why) in IGNORED_FLAGS.items()
        if flag in given and not (flag == "local_rank" and given[flag] == ["-1"])
    ]
    if "push_to_hub" not in given:
        notices += [f"--{flag} has no effect without --push_to_hub." for flag in HUB_FLAGS if flag in given]
    return notices
