"""Which row belongs to which word, and under which id the text encoders meet it."""

from __future__ import annotations

from collections.abc import Sequence

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.tokens import PromptEncoder, check_new_token, check_unknown_token


def row_ranges(concepts: Sequence[ConceptSpec], image_counts: Sequence[int] = ()) -> tuple[range, ...]:
    """Which rows belong to the vectors of which concept.

    A concept's rows are consecutive: first its vectors, then one for each of its pictures that has a word of its own.

    Args:
        concepts: the concepts of a run.
        image_counts: for each concept its pictures with a word of their own; nothing where there are none.

    Returns:
        For each concept the positions of its vectors in the (N, dim) tensor.
    """
    ranges, start = [], 0
    for concept, images in zip(concepts, image_counts or [0] * len(concepts), strict=True):
        ranges.append(range(start, start + concept.num_vectors))
        start += concept.num_vectors + images
    return tuple(ranges)


def image_row_ranges(concepts: Sequence[ConceptSpec], image_counts: Sequence[int] = ()) -> tuple[range, ...]:
    """Which rows belong to the pictures of which concept: those after its vectors.

    Args:
        concepts: the concepts of a run.
        image_counts: as for ``row_ranges``.

    Returns:
        For each concept the positions of its pictures' rows in the (N, dim) tensor.
    """
    owned = zip(row_ranges(concepts, image_counts), image_counts or [0] * len(concepts), strict=True)
    return tuple(range(vectors.stop, vectors.stop + images) for vectors, images in owned)


def image_token(token: str, number: int) -> str:
    """The word of a single picture of a concept.

    Args:
        token: the concept's placeholder token.
        number: the picture's number, from 1.

    Returns:
        ``<corgi-3>`` for ``<corgi>``. Not ``<corgi>_3``: so diffusers names the rows of one word.
    """
    return f"{token[:-1]}-{number}>" if token.startswith("<") and token.endswith(">") else f"{token}-{number}"


def row_ids(
    concepts: Sequence[ConceptSpec], first_id: int, image_counts: Sequence[int] = ()
) -> dict[str, tuple[int, ...]]:
    """Ids of every word's rows.

    Args:
        concepts: the concepts of a run.
        first_id: id of row 0.
        image_counts: as for ``row_ranges``.

    Returns:
        Placeholder token, or word of a picture -> ids, as ``PromptEncoder`` takes them.

    Raises:
        ConceptError: a picture's word is the name of another concept.
    """
    vectors, images = row_ranges(concepts, image_counts), image_row_ranges(concepts, image_counts)
    ids = {
        concept.placeholder_token: tuple(first_id + row for row in rows)
        for concept, rows in zip(concepts, vectors, strict=True)
    }
    taken = {name.casefold() for concept in concepts for name in concept.vector_tokens}
    for concept, rows in zip(concepts, images, strict=True):
        for number, row in enumerate(rows, start=1):
            token = image_token(concept.placeholder_token, number)
            if token.casefold() in taken:
                raise ConceptError(
                    f"{concept.placeholder_token}: its picture {number} would be called {token!r}, which is another "
                    "concept's name; rename that one, or leave --per_image_tokens out."
                )
            taken.add(token.casefold())
            ids[token] = (first_id + row,)
    return ids


def prompt_encoders(
    slots: Sequence[EncoderSlot], concepts: Sequence[ConceptSpec], image_counts: Sequence[int] = ()
) -> dict[str, PromptEncoder]:
    """One prompt encoder for each text encoder, after checking that the tokens are new to it.

    Args:
        slots: a family adapter's text encoders.
        concepts: the concepts of a run.
        image_counts: as for ``row_ranges``.

    Returns:
        Encoder key -> prompt encoder.
    """
    encoders = {}
    for slot in slots:
        for concept in concepts:
            check_new_token(slot.tokenizer, concept.placeholder_token, concept.num_vectors)
        ids = row_ids(concepts, slot.first_id, image_counts)
        for token in ids:
            check_unknown_token(slot.tokenizer, token)
        encoders[slot.key] = PromptEncoder(slot.tokenizer, ids)
    return encoders
