"""What loading some concepts would add, and where: everything is checked here, before anything is changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConceptError, EmbeddingFileError
from textual_inversion_ext.pipelines.words.registry import loaded_words, remember
from textual_inversion_ext.placeholders import vector_tokens
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.tokens import check_unknown_token
from textual_inversion_ext.vocabulary import added_words, group_rows, insert_words, unchanged_on_error

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Addition:
    """What one text encoder gets.

    Attributes:
        slot: The text encoder.
        rows: Token -> rows, (n, D) float32, in the order in which they are added.
        metadata: Token -> metadata.
    """

    slot: EncoderSlot
    rows: Mapping[str, Tensor]
    metadata: Mapping[str, Mapping[str, str]]


def plan_loading(
    concepts: Sequence[LearnedConcept], chosen: Sequence[EncoderSlot], slots: Sequence[EncoderSlot]
) -> list[Addition]:
    """Decide which rows go into which text encoder, and refuse what cannot work.

    Args:
        concepts: The concepts.
        chosen: The text encoders that they go into: all, or the one that the caller named.
        slots: All text encoders of the pipeline.

    Returns:
        One addition for every text encoder that gets something.

    Raises:
        ConceptError: If two concepts cannot be told apart, in the call or with what is loaded.
    """
    _check_distinct(concepts)
    rows: dict[str, dict[str, Tensor]] = {slot.key: {} for slot in chosen}
    for concept in concepts:
        for key, found in _assigned(concept, chosen).items():
            rows[key][concept.token] = found
    metadata = {concept.token: concept.metadata for concept in concepts}
    additions = [Addition(slot, rows[slot.key], metadata) for slot in chosen if rows[slot.key]]
    for addition in additions:
        _check_names(addition)
        _check_numbers(addition)
    _check_counts(concepts, slots)
    if len(chosen) == len(slots):
        _warn_of_halves(concepts, chosen, rows)
    return additions


def apply(additions: Sequence[Addition]) -> None:
    """Do what was planned, all of it or nothing; every text encoder is resized once.

    Args:
        additions: The plan.
    """
    with unchanged_on_error([addition.slot for addition in additions]):
        for addition in additions:
            insert_words(addition.slot, addition.rows)
    for addition in additions:
        remember(addition.slot, addition.rows, addition.metadata)


def _check_distinct(concepts: Sequence[LearnedConcept]) -> None:
    seen: dict[str, str] = {}
    for concept in concepts:
        folded = concept.token.casefold()  # CLIP's tokenizer knows no capitals
        if folded in seen:
            as_other = "" if seen[folded] == concept.token else f", once as {seen[folded]}"
            raise ConceptError(
                f"{concept.token} was given twice{as_other}; load each word once, or rename one with token=."
            )
        seen[folded] = concept.token


def _assigned(concept: LearnedConcept, slots: Sequence[EncoderSlot]) -> dict[str, Tensor]:
    """Which rows of a concept go into which text encoder.

    Args:
        concept: A concept.
        slots: The text encoders.

    Returns:
        Encoder key -> rows that fit.

    Raises:
        EmbeddingFileError: If rows do not fit.
    """
    found = {slot.key: concept.vectors[slot.key] for slot in slots if slot.key in concept.vectors}
    if len(concept.vectors) == 1:
        # Files with one tensor seldom say for which encoder, and the caller may have named one.
        (only,) = concept.vectors.values()
        fitting = [slot.key for slot in slots if slot.dim == only.shape[1]]
        if len(slots) == 1 or (len(fitting) == 1 and fitting[0] not in found):
            found = {(slots[0].key if len(slots) == 1 else fitting[0]): only}
    dims = {slot.key: slot.dim for slot in slots}
    if not found or any(rows.shape[1] != dims[key] for key, rows in found.items()):
        made_for = ", ".join(f"{key} of width {rows.shape[1]}" for key, rows in concept.vectors.items())
        needed = ", ".join(f"{key} of width {dim}" for key, dim in dims.items())
        raise EmbeddingFileError(
            f"{concept.token} was learned for another kind of model: it has rows for {made_for}, and here is {needed}. "
            "Load the model it was trained on."
        )
    return found


def _check_counts(concepts: Sequence[LearnedConcept], slots: Sequence[EncoderSlot]) -> None:
    for slot in slots:
        loaded = loaded_words(slot)
        for concept in concepts:
            count = len(loaded.get(concept.token, ()))
            if count not in (0, concept.num_vectors):
                raise ConceptError(
                    f"{concept.token} has {concept.num_vectors} vectors, and {count} in {slot.key}, where it is loaded "
                    "already. A word has the same number everywhere: unload it first, or rename one with token=."
                )


def _check_names(addition: Addition) -> None:
    """Refuse tokens that the tokenizer knows, and those that it would run together with others."""
    tokenizer = addition.slot.tokenizer
    loaded = {token.casefold(): len(ids) for token, ids in added_words(tokenizer).items()}
    new = {token.casefold(): len(rows) for token, rows in addition.rows.items()}
    for token in addition.rows:
        if token.casefold() in loaded:
            raise ConceptError(
                f"{token} is loaded in {addition.slot.key} already. Call unload_textual_inversion({token!r}) first, or "
                "give the new one another name with token=."
            )
    _check_merging({**loaded, **new})
    for token, rows in addition.rows.items():
        check_unknown_token(tokenizer, token, len(rows))


def _check_merging(counts: Mapping[str, int]) -> None:
    # Rows are told apart by name alone, by diffusers too: `<a>` and another word `<a>_1` would become one word.
    if _told_apart(counts):
        return
    for name in counts:
        for stem in _stems(name):
            if stem in counts and not _told_apart({stem: counts[stem], name: counts[name]}):
                raise ConceptError(
                    f"{stem} and {name} cannot be loaded together: the vectors of a word are named {stem}, {stem}_1, "
                    f"{stem}_2, ..., so the two would be taken for one. Rename one of them with token=."
                )


def _told_apart(counts: Mapping[str, int]) -> bool:
    wanted = {name: vector_tokens(name, count) for name, count in counts.items()}
    return group_rows(name for names in wanted.values() for name in names) == wanted


def _stems(name: str) -> list[str]:
    """What a name may be a numbered row of: ``<a>_1_2`` of ``<a>_1`` and of ``<a>``."""
    parts = name.split("_")
    return ["_".join(parts[:length]) for length in range(1, len(parts)) if parts[length].isdigit()]


def _check_numbers(addition: Addition) -> None:
    weight = addition.slot.text_encoder.get_input_embeddings().weight
    for token, rows in addition.rows.items():
        if not bool(rows.to(weight.dtype).isfinite().all()):
            raise EmbeddingFileError(
                f"{token} holds numbers up to {float(rows.abs().max()):.3g}, too large for {weight.dtype}. Load the "
                "pipeline in float32 or bfloat16."
            )


def _warn_of_halves(
    concepts: Sequence[LearnedConcept], slots: Sequence[EncoderSlot], rows: Mapping[str, Mapping[str, Tensor]]
) -> None:
    for concept in concepts:
        without = [slot.key for slot in slots if concept.token not in rows[slot.key]]
        unused = [] if len(concept.vectors) == 1 else [key for key in concept.vectors if key not in rows]
        if without:
            logger.warning("%s has no vectors for %s, which reads it as plain text", concept.token, ", ".join(without))
        if unused:
            logger.warning("%s has vectors for %s, which is not loaded here", concept.token, ", ".join(unused))
