"""Whatever `load_textual_inversion` is given, as concepts: files, Hub repositories, tensors and dicts of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConceptError, ConfigError, EmbeddingFileError
from textual_inversion_ext.files import load_concept, load_concepts

ConceptSource: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Tensor | LearnedConcept"

# The keyword arguments of diffusers' load_textual_inversion that mean something here.
_HUB = ("revision", "hf_token")
_CACHE = ("cache_dir", "force_download", "local_files_only")
_OPTIONS = ("weight_name", "subfolder", "use_safetensors", *_HUB, *_CACHE)
# Names of tensors that say which encoder a tensor is for, and of those that say nothing.
_ENCODER_NAMES = {"text_encoders_0": "clip_l", "text_encoders_1": "clip_g", "t5xxl": "t5"}
_ENCODER_NAMES.update({key: key for key in ("clip_l", "clip_g", "t5", "llama", "gemma")})
_NAMELESS = ("emb_params", "emp_params", "*")


def concepts_from(
    sources: ConceptSource | Sequence[ConceptSource],
    tokens: str | Sequence[str | None] | None,
    encoder: str,
    options: Mapping[str, Any],
) -> list[LearnedConcept]:
    """Read everything that is to be loaded.

    Args:
        sources: One source or a list of them.
        tokens: Names to use instead of the sources' own: one, or one for each source. With a single (n, D) tensor, n
            names make n concepts of one vector each, as in diffusers.
        encoder: Encoder key of tensors that come without one.
        options: Keyword arguments about files, as diffusers names them.

    Returns:
        The concepts, in the order given.

    Raises:
        ConfigError: If an option is unknown, or the numbers of sources and tokens differ.
    """
    _check_options(options)
    listed = list(sources) if isinstance(sources, list | tuple) else [sources]
    names: list[Any] = list(tokens) if isinstance(tokens, list | tuple) else [tokens]
    if len(listed) == 1 and len(names) > 1 and isinstance(listed[0], Tensor):
        listed = list(listed[0])
    if names == [None]:
        names = [None] * len(listed)
    if len(names) != len(listed):
        raise ConfigError(
            f"got {len(listed)} concept(s) and {len(names)} token(s); give one token for each, or none to use the "
            "names in the files."
        )
    concepts = []
    for source, name in zip(listed, names, strict=True):
        concepts += _read(source, name, encoder, options)
    return concepts


def _read(source: Any, token: str | None, encoder: str, options: Mapping[str, Any]) -> list[LearnedConcept]:
    if isinstance(source, LearnedConcept):
        return [source if token is None else LearnedConcept(token, source.vectors, source.metadata)]
    if isinstance(source, str | os.PathLike):
        return _read_file(source, token, options)
    if isinstance(source, Tensor):
        return [_from_tensors({encoder: source}, token)]
    if isinstance(source, Mapping):
        return _from_mapping(source, token, encoder)
    raise ConfigError(
        f"cannot load a concept from {type(source).__name__}; give a file, a folder, a Hub id, a tensor, a dict of "
        "tensors, a LearnedConcept, or a list of these."
    )


def _read_file(source: str | os.PathLike[str], token: str | None, options: Mapping[str, Any]) -> list[LearnedConcept]:
    parts = [str(options[name]) for name in ("subfolder", "weight_name") if options.get(name)]
    hub = {name: options[name] for name in _HUB if options.get(name) is not None}
    path: str | os.PathLike[str] = source
    if os.path.exists(os.path.expanduser(source)):
        path, hub = Path(source).expanduser().joinpath(*parts), {}
    elif any(options.get(name) for name in _CACHE):
        path, hub = _downloaded(os.fspath(source), options), {}
    elif parts:
        path = "/".join([os.fspath(source), *parts])
    return load_concepts(path, **hub) if token is None else [load_concept(path, token=token, **hub)]


def _downloaded(repository: str, options: Mapping[str, Any]) -> str:
    """Fetch one file of a Hub repository with the caller's wishes about the cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name = options.get("weight_name")
    if not name:
        given = ", ".join(f"{name}=" for name in _CACHE if options.get(name))
        raise ConfigError(f"{given} needs weight_name=: the file's name in the repository {repository}.")
    wishes = {key: options[key] for key in (*_CACHE, "revision", "subfolder") if options.get(key) is not None}
    try:
        return hf_hub_download(repository, name, token=options.get("hf_token"), **wishes)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise EmbeddingFileError(
            f"{repository} is no local file or folder, and {name} cannot be had from a Hub repository of that name: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _from_mapping(source: Mapping[str, Any], token: str | None, encoder: str) -> list[LearnedConcept]:
    """Understand a dict of tensors by its keys, as diffusers, A1111 and the SDXL community write them."""
    if "string_to_param" in source:
        params = source["string_to_param"]
        rows = list(params.values()) if isinstance(params, Mapping) else []
        if len(rows) != 1 or not isinstance(rows[0], Tensor):
            raise EmbeddingFileError("string_to_param must hold one tensor, as in the files of A1111.")
        return [_from_tensors({encoder: rows[0]}, token or source.get("name"))]
    if not source or not all(isinstance(value, Tensor) for value in source.values()):
        raise EmbeddingFileError(f"expected a dict of tensors; its keys are: {', '.join(map(str, source)) or 'none'}.")
    if all(key in _ENCODER_NAMES for key in source):
        return [_from_tensors({_ENCODER_NAMES[key]: value for key, value in source.items()}, token)]
    if len(source) > 1 and token is not None:
        raise ConfigError(f"one token was given ({token}) for {len(source)} concepts: {', '.join(source)}.")
    return [
        _from_tensors({encoder: value}, token or (None if key in _NAMELESS else key)) for key, value in source.items()
    ]


def _from_tensors(vectors: Mapping[str, Tensor], token: str | None) -> LearnedConcept:
    if not token:
        raise ConceptError("these tensors come without a name; say with token='<name>' which word they stand for.")
    return LearnedConcept(token, {key: value[None] if value.ndim == 1 else value for key, value in vectors.items()})


def _check_options(options: Mapping[str, Any]) -> None:
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        hint = " Did you mean token=?" if "tokens" in unknown else ""
        raise ConfigError(
            f"load_textual_inversion does not know {', '.join(f'{name}=' for name in unknown)}; it knows token=, "
            f"tokenizer=, text_encoder=, {', '.join(f'{name}=' for name in _OPTIONS)}.{hint}"
        )
