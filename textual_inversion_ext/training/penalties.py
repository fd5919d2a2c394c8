"""The regularizers of a run: built from the settings, weighted, with what they need to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.prompts.context_prompts import CONTEXT_PROMPTS
from textual_inversion_ext.embedding_table import mean_norm
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.initializers import FileInitializer, initializer_of
from textual_inversion_ext.initializers.base import rows_of_ids, spread, token_ids_of
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.regularizers import REGULARIZERS, Regularizer, RegularizerContext
from textual_inversion_ext.tokens import PromptEncoder


class Penalties(nn.Module):
    """Weighted sum of a run's regularizers.

    First rows are part of ``state_dict()``: a resumed run is pulled to where the rows really started, even if the
    initializer would start them elsewhere by now.

    Args:
        weighted: regularizers and their weights.
        context: what they may know; its step-dependent fields are filled in at each call.
    """

    def __init__(self, weighted: Sequence[tuple[Regularizer, float]], context: RegularizerContext) -> None:
        super().__init__()
        self.weighted = tuple(weighted)
        self._context = context
        for key, rows in context.initial.items():
            self.register_buffer(f"initial_{key}", rows.clone())

    def forward(self, rows: Mapping[str, Tensor], concepts: Tensor, clock: Tensor) -> Tensor:
        """Penalties of one step.

        Args:
            rows: encoder key -> (N, D) float32.
            concepts: (S,) int64, the concepts of the step.
            clock: (C,) int64, updates that each concept has had.

        Returns:
            (C,) float32, weighted; 0 for concepts that are not in the step.
        """
        context = dataclasses.replace(
            self._context,
            initial={key: self.get_buffer(f"initial_{key}") for key in rows},
            concepts=concepts,
            present=torch.zeros_like(clock, dtype=torch.bool).index_fill(0, concepts, True),
            clock=clock,
        )
        return torch.stack([weight * regularizer(rows, context) for regularizer, weight in self.weighted]).sum(0)


def make_penalties(
    config: TextualInversionConfig,
    concepts: Sequence[ConceptSpec],
    adapter: FamilyAdapter,
    encoders: Mapping[str, PromptEncoder],
    initial: Mapping[str, Tensor],
    rows: Sequence[range],
    row_concept: Tensor,
) -> Penalties | None:
    """The regularizers that the settings ask for.

    Args:
        config: the fields ``<name>_weight`` are used.
        concepts: what the run learns.
        adapter: calls the model.
        encoders: encoder key -> prompt encoder that knows the concepts' words.
        initial: encoder key -> (N, D) float32 first rows, on any device.
        rows: for each concept the rows of its word.
        row_concept: (N,) int64 on the training device, the concept that owns a row.

    Returns:
        The penalties, or None when every weight is 0: nothing is built then.
    """
    weights = {name: getattr(config, f"{name}_weight") for name in REGULARIZERS}
    weighted = [(REGULARIZERS[name](), weight) for name, weight in weights.items() if weight > 0]
    if not weighted:
        return None
    device = row_concept.device
    clock = torch.zeros(len(concepts), dtype=torch.int64, device=device)
    with_class_word = any(regularizer.needs_class_word for regularizer, _ in weighted)
    prompts = _prompt_table(concepts, encoders) if with_class_word else {}
    is_word = torch.zeros(len(row_concept), dtype=torch.bool)
    for owned in rows:
        is_word[owned.start : owned.stop] = True
    first_ids = {slot.key: slot.first_id for slot in adapter.slots}
    context = RegularizerContext(
        initial={key: tensor.detach().to(device, torch.float32) for key, tensor in initial.items()},
        mean_norm={slot.key: mean_norm(slot.text_encoder, slot.first_id) for slot in adapter.slots},
        prompt_length={key: encoder.max_length for key, encoder in encoders.items()},
        row_concept=row_concept,
        concepts=torch.arange(len(concepts), device=device),
        present=torch.ones_like(clock, dtype=torch.bool),
        clock=clock,
        encode=adapter.encode,
        class_rows={
            slot.key: _class_rows(config, concepts, slot, initial[slot.key], rows).to(device)
            for slot in (adapter.slots if with_class_word else ())
        },
        is_word=is_word.to(device),
        prompts={key: ids.to(device) for key, ids in prompts.items()},
        in_word={key: (ids >= first_ids[key]).to(device) for key, ids in prompts.items() if key in first_ids},
    )
    return Penalties(weighted, context)


def _class_rows(
    config: TextualInversionConfig,
    concepts: Sequence[ConceptSpec],
    slot: EncoderSlot,
    initial: Tensor,
    rows: Sequence[range],
) -> Tensor:
    """The class word's embedding in place of each concept's rows.

    Args:
        config: ``initialization`` is used.
        concepts: what the run learns.
        slot: the text encoder.
        initial: (N, D) first rows; rows of single pictures keep theirs.
        rows: for each concept the rows of its word.

    Returns:
        (N, D) float32 on the CPU.

    Raises:
        ConceptError: a concept starts from a file and has no class name.
    """
    result = initial.detach().to("cpu", torch.float32, copy=True)
    for concept, owned in zip(concepts, rows, strict=True):
        if not concept.class_name and isinstance(initializer_of(concept, config), FileInitializer):
            raise ConceptError(
                f"{concept.placeholder_token}: context_weight and anchor_weight compare with a class word, and the "
                "concept starts from a file; say what it is (--class_name dog)."
            )
        word = dataclasses.replace(concept, initializer=concept.class_name or concept.initializer)
        result[owned.start : owned.stop] = spread(rows_of_ids(slot, token_ids_of(word, slot)), len(owned))
    return result


def _prompt_table(concepts: Sequence[ConceptSpec], encoders: Mapping[str, PromptEncoder]) -> dict[str, Tensor]:
    """Varied prompts of every concept, as many for each, all of them whole.

    Args:
        concepts: what the run learns.
        encoders: encoder key -> prompt encoder.

    Returns:
        Encoder key -> (C, P, L) int64 on the CPU.

    Raises:
        ConceptError: the word has so many vectors that no other word fits beside it.
    """
    count = max(map(len, CONTEXT_PROMPTS.values()))
    table: dict[str, list[Tensor]] = {key: [] for key in encoders}
    for concept in concepts:
        prompts = [text.format(concept.placeholder_token) for text in CONTEXT_PROMPTS[concept.learnable_property]]
        whole = [text for text in prompts if all(_fits(text, encoder) for encoder in encoders.values())]
        if not whole:
            raise ConceptError(
                f"{concept.placeholder_token}: {concept.num_vectors} vectors leave no room in a prompt for other "
                "words; use fewer vectors, or set context_weight and anchor_weight to 0."
            )
        chosen = [whole[place % len(whole)] for place in range(count)]
        for key, encoder in encoders.items():
            table[key].append(encoder.encode(chosen))
    return {key: torch.stack(ids) for key, ids in table.items()}


def _fits(prompt: str, encoder: PromptEncoder) -> bool:
    """Whether nothing of a prompt is cut off.

    Args:
        prompt: a text.
        encoder: its encoder.

    Returns:
        True when it fits with a start and an end token.
    """
    return len(encoder.content_ids(prompt)) + 2 <= encoder.max_length
