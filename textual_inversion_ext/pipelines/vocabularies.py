"""A model's words beside learned vectors: how long its vectors are, and which words come closest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textual_inversion_ext.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Vocabulary:
    """The input table of one text encoder.

    Attributes:
        tokenizer: Knows the words.
        table: (V, dim) float32, a row per word.
    """

    tokenizer: PreTrainedTokenizerBase
    table: Tensor

    def norms(self) -> list[float]:
        """Lengths of the vocabulary's vectors: the 5 %, 50 % and 95 % quantiles."""
        import torch

        lengths = self.table.norm(dim=1)
        return torch.quantile(lengths, torch.tensor(_QUANTILES)).tolist()

    def nearest(self, rows: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """Finds the words whose vectors point the same way.

        Args:
            rows: (n, dim) float32.
            count: Words per row.

        Returns:
            For each row the words and their cosines, closest first.
        """
        from torch.nn import functional as F

        # A word that was never trained may have a vector of zeros; its cosine is 0 then, not NaN.
        cosines = F.normalize(rows, dim=1) @ F.normalize(self.table, dim=1).T
        best = cosines.topk(min(count, len(self.table)), dim=1)
        words = [self.tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in best.indices]
        return [
            [(_readable(word), float(value)) for word, value in zip(found, values, strict=True)]
            for found, values in zip(words, best.values, strict=True)
        ]


def vocabularies_of(pipeline: DiffusionPipeline) -> dict[str, Vocabulary]:
    """The input tables of a loaded model; words that were added to its tokenizers for good are part of them.

    Args:
        pipeline: A pipeline with its text encoders.

    Returns:
        Encoder key -> its vocabulary; the table is a copy on the CPU.

    Raises:
        ModelError: The pipeline has no text encoder.
    """
    from textual_inversion_ext.pipelines.words.slots import slots_of

    return {slot.key: _vocabulary(slot.tokenizer, slot.text_encoder) for slot in slots_of(pipeline).values()}


def open_vocabularies(model: str, revision: str | None = None) -> list[Vocabulary]:
    """Loads the text encoders of a model, and nothing else of it.

    Args:
        model: Hub id, folder of a diffusers pipeline, or "pocket".
        revision: Branch, tag or commit on the Hub.

    Returns:
        One per text encoder, in the pipeline's order.

    Raises:
        ModelError: There is no such model, or it has no text encoder.
    """
    parts = _pocket_parts() if model == "pocket" else _parts(model, revision)
    found = []
    for name in sorted(name for name in parts if name.startswith("text_encoder")):
        tokenizer = parts.get(name.replace("text_encoder", "tokenizer"))
        if parts[name] is not None and tokenizer is not None:
            found.append(_vocabulary(tokenizer, parts[name]))
    if not found:
        raise ModelError(f"{model} has no text encoder with a tokenizer; give the folder or Hub id of a pipeline.")
    return found


def _vocabulary(tokenizer: Any, text_encoder: Any) -> Vocabulary:
    # T5's table is longer than its vocabulary.
    table = text_encoder.get_input_embeddings().weight.detach()[: len(tokenizer)]
    return Vocabulary(tokenizer, table.float().cpu())


def _pocket_parts() -> Mapping[str, Any]:
    from textual_inversion_ext.pipelines.loading import load_pipeline

    pipeline: Any = load_pipeline("pocket")
    return pipeline.components


def _parts(model: str, revision: str | None) -> Mapping[str, Any]:
    import transformers
    from diffusers import DiffusionPipeline

    try:
        index = DiffusionPipeline.load_config(model, revision=revision)
        wanted = {name: value for name, value in index.items() if name.startswith(("text_encoder", "tokenizer"))}
        known = {name: value[1] for name, value in wanted.items() if isinstance(value, list | tuple) and value[1]}
        return {
            name: getattr(transformers, kind).from_pretrained(model, subfolder=name, revision=revision)
            for name, kind in known.items()
        }
    # transformers and diffusers raise all of these for missing or damaged parts.
    except (OSError, ValueError, AttributeError, ImportError, TypeError, KeyError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ModelError(
            f"Cannot load the text encoders of {model!r}: {cause} Give a Hub id, a folder of diffusers' layout, or "
            "'pocket'."
        ) from error


def _readable(word: str | None) -> str:
    """The text of a vocabulary entry, without the tokenizer's marks for the end or start of a word."""
    return (word or "").replace("</w>", "").replace("\u2581", "")
