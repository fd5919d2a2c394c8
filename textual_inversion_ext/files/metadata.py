"""What is known about a concept beside its rows: taken from any tool's file, written into every file of ours.

Keys that a concept read from a file has, where the file told:

- `token`, `steps`, `base_model`, `family`, `library_version`: as in files of ours, whatever the tool called them.
- `recipe` (JSON), `training_data_digest`, `initializer`, ...: in files of words that were learned here.
- `original_name`: the name that the file gave itself, when it is not the token.
- `encoder`: keys of the text encoders, joined by commas.
- `file_format`, `file_variant`, `file_dtype`: the format and number type of this file; never written.
- `source_format`, `source_dtype`: the same of the foreign file that a file of ours was converted from.
- `not_read`: what the file also holds and no concept can.

All else that the file says is kept under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .. import __version__
from ..concept import LearnedConcept
from .base import Content, Found, as_rows, in_order

__all__ = ["Reading", "concept_of", "file_metadata", "joined"]

# A fact's name here, and the names that other tools give it, best first.
_NAMES_OF_FACTS = {
    "steps": ("steps", "step", "ss_steps"),
    "base_model": ("base_model", "sd_checkpoint_name", "ss_sd_model_name"),
    "original_name": ("original_name", "name"),
    "licence": ("licence", "license", "modelspec.license"),
}
_DESCRIBES_THE_FILE = ("file_format", "file_variant", "file_dtype", "not_read")
# The layout of the file rather than a fact about the concept.
_LAYOUT_PREFIXES = ("string_to_token", "string_to_param")
_LAYOUT_VALUES = ("<embed>",)
# Of a LoRA's metadata little holds for the embedding inside it.
_LORA_FORMAT, _OF_LORA = "bundle", ("modelspec.", "ss_")

# Source: https://github.com/Stability-AI/ModelSpec; identifiers as in kohya-ss/sd-scripts `library/sai_model_spec.py`.
_ARCHITECTURES = {
    ("stable-diffusion", (("clip_l", 768),)): "stable-diffusion-v1",
    ("stable-diffusion-xl", (("clip_g", 1280), ("clip_l", 768))): "stable-diffusion-xl-v1-base",
}
# Fields of the standard that hold for an embedding, and where a concept may know them from.
_MODELSPEC_FIELDS = {
    "author": ("author",),
    "description": ("description",),
    "license": ("licence", "license"),
    "prediction_type": ("prediction_type",),
    "resolution": ("resolution",),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A concept found in a file.

    Attributes:
        file: The file.
        format: Name of its format.
        content: All of the file.
        found: The concept, unchecked.
    """

    file: Path
    format: str
    content: Content
    found: Found


def concept_of(reading: Reading, token: str | None = None) -> LearnedConcept:
    """Checks what was found and makes a concept of it.

    Args:
        reading: What was found.
        token: Used instead of the file's own token.

    Returns:
        The concept.
    """
    found = reading.found
    vectors = {key: found.vectors[key] for key in in_order(found.vectors)}
    rows = {key: as_rows(tensor, f"the embedding for {key}") for key, tensor in vectors.items()}
    told = {**_of_file(reading), **found.metadata}
    final = token or found.token
    facts = {} if "library_version" in told else _facts(told)  # files of ours have our names already
    if final != found.token:
        facts.setdefault("original_name", found.token)
    if facts.get("original_name") == final:
        del facts["original_name"]
    of_file = {
        "token": final,
        "encoder": ",".join(rows),
        "file_format": reading.format,
        "file_dtype": ",".join(dict.fromkeys(_dtype(tensor) for tensor in vectors.values())),
        **({"file_variant": found.variant} if found.variant else {}),
    }
    clean = {_text(key): _text(value) for key, value in {**told, **facts, **of_file}.items()}
    return LearnedConcept(final, rows, clean)


def joined(first: Reading, other: Reading) -> Reading | None:
    """Puts the halves of a concept together that lie in two files of diffusers' format.

    Args:
        first: The first file's concept.
        other: That of a file named as its companion.

    Returns:
        The whole; None when the two are not halves of one: another token, an encoder that is there already, another
        number of vectors, or files of ours that tell of different trainings.
    """
    ours = [part for part in (first, other) if "library_version" in part.content.metadata]
    told = [{key: value for key, value in part.content.metadata.items() if key != "encoder"} for part in ours]
    belongs = (
        first.format == other.format == "diffusers"
        and first.found.token == other.found.token
        and not set(first.found.vectors) & set(other.found.vectors)
        and len({tensor.shape[:-1] for part in (first, other) for tensor in part.found.vectors.values()}) == 1
        and (len(told) < 2 or told[0] == told[1])
    )
    if not belongs:
        return None
    vectors = {**first.found.vectors, **other.found.vectors}
    return Reading(first.file, first.format, first.content, Found(first.found.token, vectors, {}, "pair"))


def file_metadata(concept: LearnedConcept, encoders: tuple[str, ...]) -> dict[str, str]:
    """Builds the metadata that every file of ours carries.

    What the concept's own metadata says wins, except for what describes the file.

    Args:
        concept: The concept.
        encoders: Keys of the text encoders whose rows are in the file.

    Returns:
        Text to text: `base_model`, `family`, `steps` ("unknown" where the concept does not say), `library_version`,
        `encoder`, `token`, the `format` that transformers-style loaders ask for, and fields of the ModelSpec standard
        where the architecture is certain.
    """
    unknown = dict.fromkeys(("base_model", "family", "steps"), "unknown")
    own = {key: value for key, value in concept.metadata.items() if key not in _DESCRIBES_THE_FILE}
    source = {}
    if "library_version" not in own:  # read from a foreign file, or new
        for key in ("format", "dtype"):
            if f"file_{key}" in concept.metadata:
                source[f"source_{key}"] = concept.metadata[f"file_{key}"]
    fixed = {"encoder": ",".join(encoders), "token": concept.token, "format": "pt"}
    told = {**unknown, **source, **_modelspec(concept), "library_version": __version__, **own, **fixed}
    return {_text(key): _text(value) for key, value in told.items()}


def _modelspec(concept: LearnedConcept) -> dict[str, str]:
    """Fields of the ModelSpec standard; none unless the model's family and the widths say which architecture it is."""
    widths = tuple(sorted((key, rows.shape[1]) for key, rows in concept.vectors.items()))
    architecture = _ARCHITECTURES.get((concept.metadata.get("family", ""), widths))
    if architecture is None:
        return {}
    known = {field: _first(concept.metadata, keys) for field, keys in _MODELSPEC_FIELDS.items()}
    fields = {
        "sai_model_spec": "1.0.0",
        "architecture": f"{architecture}/textual-inversion",
        "implementation": "diffusers",
        "title": concept.name,
        "trigger_phrase": concept.token,
        **{field: value for field, value in known.items() if value},
    }
    return {f"modelspec.{field}": value for field, value in fields.items()}


def _of_file(reading: Reading) -> dict[str, str]:
    told = reading.content.metadata
    if reading.format == _LORA_FORMAT:
        kept = {key: value for key, value in told.items() if not key.startswith(_OF_LORA)}
        told = {**{name: value for name, value in _facts(told).items() if name == "base_model"}, **kept}
    kept = {key: value for key, value in told.items() if key not in _DESCRIBES_THE_FILE}
    if "library_version" in told:  # files of ours have no layout in their metadata, and may say anything
        return kept
    is_layout = {key for key, value in kept.items() if value in _LAYOUT_VALUES or key.startswith(_LAYOUT_PREFIXES)}
    return {key: value for key, value in kept.items() if key not in is_layout}


def _facts(told: Mapping[str, str]) -> dict[str, str]:
    """Our names for what other tools tell."""
    facts = {name: _first(told, names) for name, names in _NAMES_OF_FACTS.items()}
    return {name: value for name, value in facts.items() if value}


def _first(told: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((told[name] for name in names if told.get(name)), "")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _text(value: str) -> str:
    """Replace halves of surrogate pairs, which pickles may hold and no file can be written with."""
    return value.encode("utf-8", errors="replace").decode("utf-8")
