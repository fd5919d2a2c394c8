"""Settings of a training run: one frozen, flat record whose fields are also the command line's flags."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from textual_inversion_ext import __version__
from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.errors import ConfigError

DEFAULT_STEPS = 500
"""Optimizer steps per concept when neither ``max_train_steps`` nor ``num_train_epochs`` is given."""

SchedulerName = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]
Precision = Literal["no", "fp16", "bf16"]


def _option(default: Any, text: str, **limits: float) -> Any:
    """A field with its help text and the limits that ``__post_init__`` checks.

    Args:
        default: The field's default.
        text: One line for ``--help``.
        **limits: ``least`` (>=), ``above`` (>), ``most`` (<=), ``below`` (<).

    Returns:
        What ``dataclasses.field`` returns.
    """
    return dataclasses.field(default=default, metadata={"help": text, "limits": limits})


@dataclass(frozen=True)
class TextualInversionConfig:
    """How to train. Names are those of diffusers' ``textual_inversion.py`` where the thing is the same.

    Each field's meaning is its ``metadata["help"]``, which ``textual-inversion train --help`` prints.

    Raises:
        ConfigError: A value has the wrong type or lies outside its limits.
    """

    # The model
    pretrained_model_name_or_path: str = _option("pocket", "Model: Hub id, folder, or 'pocket' (built in).")
    revision: str | None = _option(None, "Revision (branch, tag or commit) of the model on the Hub.")
    variant: str | None = _option(None, "Variant of the model's weight files, for example fp16.")
    tokenizer_name: str | None = _option(None, "Another tokenizer than the model's own (id or folder).")
    # The run
    output_dir: str = _option("textual-inversion", "Folder that receives everything the run writes.")
    overwrite_output_dir: bool = _option(False, "Replace the run that output_dir holds, if it holds one.")
    seed: int = _option(0, "Seed. On CPU the same seed gives the same rows, bit for bit.", least=0, most=2**63 - 1)
    resolution: int | None = _option(None, "Side of the training pictures; default: the model's own.", least=8)
    max_concurrent_concepts: int = _option(8, "How many concepts share a step; the others wait in a queue.", least=1)
    skip_bad_images: bool = _option(False, "Go on without unreadable images and list them at the end.")
    flip_p: float = _option(0.5, "Probability of mirroring a picture left to right.", least=0, most=1)
    # How long, how much at once (all counted per concept)
    train_batch_size: int = _option(8, "Pictures of each concept per process and micro-batch.", least=1)
    gradient_accumulation_steps: int = _option(1, "Micro-batches per optimizer step.", least=1)
    max_train_steps: int | None = _option(
        None, f"Optimizer steps per concept; default: from num_train_epochs, else {DEFAULT_STEPS}.", least=1
    )
    num_train_epochs: int | None = _option(
        None, "One epoch shows as many pictures as the concept has. max_train_steps wins when both are given.", least=1
    )
    gradient_checkpointing: bool = _option(False, "Recompute activations in the backward pass: less memory, slower.")
    mixed_precision: Precision = _option("no", "Number format of the frozen networks; learned rows stay float32.")
    allow_tf32: bool = _option(False, "Allow TF32 matrix products on Ampere and later GPUs.")
    # How the rows move
    parametrization: str = _option("free", "What a learned row is and how it moves.")
    learning_rate: float = _option(5e-3, "Learning rate after the warm-up.", above=0)
    scale_lr: bool = _option(False, "Multiply learning_rate by accumulation steps, batch size and processes.")
    lr_scheduler: SchedulerName = _option("constant", "Shape of the learning rate over a row's own age.")
    lr_warmup_steps: int = _option(0, "Steps of linear warm-up (not used by 'constant').", least=0)
    lr_num_cycles: int = _option(1, "Number of restarts of cosine_with_restarts.", least=1)
    adam_beta1: float = _option(0.9, "Adam's decay of the first moment.", least=0, below=1)
    adam_beta2: float = _option(0.999, "Adam's decay of the second moment.", least=0, below=1)
    adam_weight_decay: float = _option(0.0, "Weight decay; any value above 0 pulls the learned rows to zero.", least=0)
    adam_epsilon: float = _option(1e-8, "Adam's epsilon.", above=0)
    # What is reported and saved
    report_to: str = _option("none", "Tracker: none, all, tensorboard, wandb, or any other that accelerate knows.")
    logging_dir: str = _option("logs", "Folder of the tracker's files, inside output_dir.")
    logging_steps: int = _option(10, "Steps between two lines of the step log.", least=1)
    validation_prompt: str | None = _option(None, "Prompt of the previews; write the placeholder token into it.")
    num_validation_images: int = _option(4, "Pictures per preview.", least=1)
    validation_steps: int = _option(100, "Steps between two previews.", least=1)
    save_steps: int = _option(500, "Steps between two snapshots of the embedding files.", least=1)
    save_as_full_pipeline: bool = _option(False, "Also save the whole model with the learned word built in.")
    checkpointing_steps: int = _option(500, "Steps between two checkpoints (a few kilobytes each).", least=1)
    checkpoints_total_limit: int | None = _option(None, "Keep only this many checkpoints, the newest.", least=1)
    resume_from_checkpoint: str | None = _option(None, "'latest', or the path of a checkpoint folder.")

    def __post_init__(self) -> None:
        """Check types and limits of every field."""
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _checked_type(field.name, getattr(self, field.name), hints[field.name])
            object.__setattr__(self, field.name, value)
            _check_limits(field.name, value, field.metadata["limits"])
        for name in ("pretrained_model_name_or_path", "output_dir", "logging_dir", "report_to"):
            if not getattr(self, name).strip():
                raise ConfigError(f"{name} is empty; give a value or leave it out.")

    def to_dict(self) -> dict[str, Any]:
        """All fields by name; values are JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextualInversionConfig:
        """Build a config from field names and values.

        Args:
            values: Any subset of the fields; the others keep their defaults.

        Returns:
            The config.

        Raises:
            ConfigError: A name is unknown or a value is not allowed.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" Known settings: {', '.join(known)}."
                raise ConfigError(f"Unknown setting {name!r}.{hint}")
        return cls(**values)

    def to_json(self) -> str:
        """The config as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TextualInversionConfig:
        """Read what ``to_json`` wrote.

        Args:
            text: A JSON object.

        Returns:
            The config.

        Raises:
            ConfigError: The text is no JSON object, or ``from_dict`` refuses it.
        """
        return cls.from_dict(_json_object(text, "the config"))


def save_run(path: str | Path, config: TextualInversionConfig, concepts: Sequence[ConceptSpec]) -> None:
    """Write the file that repeats a run (``--config FILE``).

    How this one invocation dealt with an existing folder (overwriting, resuming) is left out; it is not part of it.

    Args:
        path: The file, usually ``config.json`` in the output folder.
        config: The run's settings.
        concepts: What the run learned.

    Raises:
        StorageError: The file cannot be written.
    """
    plain = dataclasses.replace(config, overwrite_output_dir=False, resume_from_checkpoint=None)
    run = {
        "library_version": __version__,
        "config": plain.to_dict(),
        "concepts": [concept.to_dict() for concept in concepts],
    }
    atomic_write(Path(path), json.dumps(run, indent=2, ensure_ascii=False) + "\n")


def load_run(path: str | Path) -> tuple[TextualInversionConfig, tuple[dict[str, Any], ...]]:
    """Read what ``save_run`` wrote, or a file that a person wrote in the same form.

    Args:
        path: The file.

    Returns:
        The settings, and one dict of ``ConceptSpec`` fields per concept (dicts, because a run on pictures in memory
        records no images and the caller may still add them).

    Raises:
        ConfigError: The file is missing, is no JSON object, or holds settings that are not allowed.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the run file {path}: {error}. Give the config.json of a run.") from error
    run = _json_object(text, str(path))
    unknown = sorted(set(run) - {"library_version", "config", "concepts"})
    if unknown:
        raise ConfigError(f'{path} has unknown keys {unknown}; it may hold "config" and "concepts".')
    settings, concepts = run.get("config", {}), run.get("concepts", [])
    if not isinstance(settings, dict) or not isinstance(concepts, list):
        raise ConfigError(f'{path}: "config" must be an object and "concepts" a list.')
    if not all(isinstance(concept, dict) for concept in concepts):
        raise ConfigError(f'{path}: each entry of "concepts" must be an object with the fields of a ConceptSpec.')
    return TextualInversionConfig.from_dict(settings), tuple(concepts)


def _json_object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{what} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{what} must hold a JSON object, not {type(value).__name__}.")
    return value


def _checked_type(name: str, value: Any, hint: Any) -> Any:
    """Return ``value`` if it fits ``hint`` (an int is fine as a float), else say what is allowed."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{name} is {value!r}; allowed are {', '.join(get_args(hint))}.")
        return value
    allowed = get_args(hint) or (hint,)
    if isinstance(value, os.PathLike) and str in allowed:
        return os.fspath(value)
    if float in allowed and type(value) is int:
        return float(value)
    if type(value) not in allowed:
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
        hint_text = " In JSON, write numbers without quotes." if isinstance(value, str) else ""
        raise ConfigError(f"{name} is {value!r} ({type(value).__name__}); it must be {wanted}.{hint_text}")
    return value


def _check_limits(name: str, value: Any, limits: Mapping[str, float]) -> None:
    if value is None or not limits:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value}; it must be a finite number.")
    tests = {
        "least": (lambda limit: value >= limit, "at least"),
        "above": (lambda limit: value > limit, "above"),
        "most": (lambda limit: value <= limit, "at most"),
        "below": (lambda limit: value < limit, "below"),
    }
    for kind, limit in limits.items():
        holds, words = tests[kind]
        if not holds(limit):
            raise ConfigError(f"{name} is {value}; it must be {words} {limit}.")
