"""The only code that touches tokenizers' vocabularies and a text encoder's input embedding, with `vocabulary`.

A learned row has no entry in the tokenizer and none in the frozen table. Row ``k`` is the id ``len(tokenizer) + k``:
the id it will have after ``pipe.load_textual_inversion``. Prompts are split at placeholders before they reach the
tokenizer, so the user's tokenizer is never changed, and names that contain one another cannot be confused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from unicodedata import normalize

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.placeholders import vector_tokens

logger = logging.getLogger(__name__)


class PromptEncoder:
    """Turns prompts with placeholders into token ids, exactly as a pipeline with the concepts loaded would.

    A placeholder counts where it is whole: ``mytok`` is not found in ``mytok2``, ``<a>`` is found in ``(<a>)``. The
    longest one wins, and case does not matter unless two placeholders differ by nothing else. Names of single rows
    (``<tok>_1``), which diffusers adds to the tokenizer too, are no placeholders here.

    Args:
        tokenizer: a pipeline's tokenizer; not changed.
        placeholders: token -> ids of its rows, see ``row_layout.row_ids``.
        max_length: length of every encoded prompt; None for the tokenizer's own.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        placeholders: Mapping[str, Sequence[int]],
        max_length: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        # The name of a Mac's folder spells a letter and its accent apart, a keyboard together.
        self.placeholders = {normalize("NFC", token): tuple(ids) for token, ids in placeholders.items()}
        self.max_length = max_length or tokenizer.model_max_length
        self._folded = {token.casefold(): ids for token, ids in reversed(self.placeholders.items())}
        longest_first = sorted(self.placeholders, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(whole_word, longest_first)) or r"(?!)", re.IGNORECASE)
        special: list[int] = tokenizer("").input_ids
        has_start = bool(special) and special[0] == tokenizer.bos_token_id
        self._prefix, self._suffix = special[: int(has_start)], special[int(has_start) :]

    @property
    def room(self) -> int:
        """Tokens of a prompt that are read, without the marks of its start and its end."""
        return self.max_length - len(self._prefix) - len(self._suffix)

    def encode(self, prompts: Sequence[str], *, quiet: bool = False) -> Tensor:
        """Encode prompts, padded and truncated as ``padding="max_length", truncation=True`` does.

        Args:
            prompts: B texts.
            quiet: do not mention what did not fit.

        Returns:
            (B, L) int64 on the CPU; a warning names what did not fit.
        """
        encoded = []
        for prompt in prompts:
            ids = self.content_ids(prompt)
            if len(ids) > self.room and not quiet:
                self._warn_cut(prompt, ids[self.room :])
            ids = [*self._prefix, *ids[: self.room], *self._suffix]
            encoded.append(ids + [self.tokenizer.pad_token_id] * (self.max_length - len(ids)))
        return torch.tensor(encoded, dtype=torch.int64).view(len(prompts), self.max_length)

    def content_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt without start, end and padding.

        Args:
            prompt: a text.

        Returns:
            As many ids as the prompt needs.
        """
        prompt = normalize("NFC", prompt)
        ids: list[int] = []
        position = 0
        for match in self._found(prompt):
            ids += word_ids(self.tokenizer, prompt[position : match.start()])
            ids += self._rows_of(match.group())
            position = match.end()
        return ids + word_ids(self.tokenizer, prompt[position:])

    def with_vectors(self, counts: Mapping[str, int]) -> PromptEncoder:
        """An encoder for which some placeholders stand for fewer rows than they have.

        Args:
            counts: placeholder -> how many of its first rows take part.

        Returns:
            The encoder; placeholders that are not named keep all rows.
        """
        fewer = {token: ids[: counts.get(token, len(ids))] for token, ids in self.placeholders.items()}
        return PromptEncoder(self.tokenizer, fewer, self.max_length)

    def only(self, placeholders: Collection[str]) -> PromptEncoder:
        """An encoder that knows some of the placeholders; the others are plain text to it.

        Args:
            placeholders: those that it knows.

        Returns:
            The encoder.
        """
        kept = {token: ids for token, ids in self.placeholders.items() if token in placeholders}
        return PromptEncoder(self.tokenizer, kept, self.max_length)

    def rows_cut(self, prompt: str) -> int:
        """How many learned rows of a prompt do not fit.

        Args:
            prompt: a text.

        Returns:
            0 where all of them fit, whatever becomes of the words after them.
        """
        return sum(token_id >= len(self.tokenizer) for token_id in self.content_ids(prompt)[self.room :])

    def words_cut(self, prompt: str) -> str:
        """The words of a prompt that do not fit.

        Args:
            prompt: a text.

        Returns:
            Text without learned rows; empty where all of it fits.
        """
        cut = self.content_ids(prompt)[self.room :]
        return self.tokenizer.decode([token_id for token_id in cut if token_id < len(self.tokenizer)])

    def placeholders_in(self, prompt: str) -> list[str]:
        """The placeholders of a prompt, in the letter case in which they are written there.

        Args:
            prompt: a text.

        Returns:
            All of them, in order.
        """
        return [match.group() for match in self._found(normalize("NFC", prompt))]

    def _found(self, prompt: str) -> list[re.Match[str]]:
        """Where placeholders are; `re` ignores more than `casefold` (the dot of a capital I), which makes none."""
        return [match for match in self._pattern.finditer(prompt) if self._rows_of(match.group())]

    def _rows_of(self, text: str) -> Sequence[int]:
        return self.placeholders.get(text) or self._folded.get(text.casefold(), ())

    def _warn_cut(self, prompt: str, cut: Sequence[int]) -> None:
        """Say what a prompt loses.

        Args:
            prompt: the whole text.
            cut: ids that did not fit.
        """
        rows = sum(token_id >= len(self.tokenizer) for token_id in cut)
        logger.warning(
            "prompt %r is longer than %d tokens; cut: %r%s",
            prompt,
            self.max_length,
            self.words_cut(prompt),
            f" and {rows} learned vector(s), which have no effect there" if rows else "",
        )


class RowEmbedding(nn.Module):
    """A frozen input embedding in which the ids from ``first_id`` on are looked up in learned rows.

    The frozen table is neither copied nor changed; only the rows of the tokens in the batch are gathered.

    Args:
        table: the text encoder's own embedding.
        first_id: id of row 0.

    Attributes:
        rows: (N, dim) float32, set before each forward pass; None while there are no rows.
    """

    def __init__(self, table: nn.Embedding, first_id: int) -> None:
        super().__init__()
        self.table = table
        self.first_id = first_id
        self.rows: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The frozen table, for code that asks an embedding for its dtype or device."""
        return self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Look up embeddings.

        Args:
            ids: (B, L) int64.

        Returns:
            (B, L, dim) in the table's dtype; rows are cast, so gradients reach them in float32.
        """
        if self.rows is None:
            return self.table(ids)
        is_row = ids >= self.first_id
        frozen = self.table(ids.masked_fill(is_row, 0))
        learned = F.embedding((ids - self.first_id).clamp(min=0), self.rows).to(frozen.dtype)
        return torch.where(is_row.unsqueeze(-1), learned, frozen)


def attach_rows(text_encoder: PreTrainedModel, first_id: int) -> RowEmbedding:
    """Wrap a text encoder's input embedding.

    Args:
        text_encoder: a model with ``get_input_embeddings``.
        first_id: id of row 0.

    Returns:
        The wrapper, whose ``rows`` are to be set.

    Raises:
        RuntimeError: the encoder is wrapped already.
    """
    table = text_encoder.get_input_embeddings()
    if isinstance(table, RowEmbedding):
        raise RuntimeError("this text encoder already holds learned rows; leave the other `attached` block first")
    embedding = RowEmbedding(table, first_id)
    text_encoder.set_input_embeddings(embedding)
    return embedding


def detach_rows(text_encoder: PreTrainedModel) -> None:
    """Put a text encoder's own input embedding back; nothing happens if it is not wrapped.

    Args:
        text_encoder: a model given to ``attach_rows``.
    """
    embedding = text_encoder.get_input_embeddings()
    if isinstance(embedding, RowEmbedding):
        text_encoder.set_input_embeddings(embedding.table)


@contextmanager
def attached(text_encoder: PreTrainedModel, first_id: int) -> Iterator[RowEmbedding]:
    """Wrap a text encoder's input embedding for the length of a ``with`` block.

    Args:
        text_encoder: a model with ``get_input_embeddings``.
        first_id: id of row 0.

    Yields:
        The wrapper.
    """
    embedding = attach_rows(text_encoder, first_id)
    try:
        yield embedding
    finally:
        detach_rows(text_encoder)


def word_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text, without start, end and padding.

    Args:
        tokenizer: any tokenizer.
        text: any text.

    Returns:
        The ids; none for white space.
    """
    # verbose=False: the tokenizer's own remark about long texts would come beside ours, which says what is cut.
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids) if text.strip() else []


def check_new_token(tokenizer: PreTrainedTokenizerBase, token: str, num_vectors: int = 1) -> None:
    """Refuse a placeholder that the tokenizer already knows, and warn of one that plain diffusers mishandles.

    ``pipe.load_textual_inversion`` refuses them too, after training: names of any vocabulary entry, pieces included.

    Args:
        tokenizer: a pipeline's tokenizer.
        token: the placeholder token.
        num_vectors: its rows; ``token_1``, ... must be new as well.

    Raises:
        ConceptError: naming the entry it collides with.
    """
    check_unknown_token(tokenizer, token, num_vectors)
    if num_vectors > 1 and token != token.lower():
        logger.warning(
            "placeholder %r has capital letters and %d vectors: plain diffusers with a lower-casing tokenizer uses "
            "only the first of them. Prefer %r",
            token,
            num_vectors,
            token.lower(),
        )


def check_unknown_token(tokenizer: PreTrainedTokenizerBase, token: str, num_vectors: int = 1) -> None:
    """Refuse a placeholder that the tokenizer already knows.

    Args:
        tokenizer: a pipeline's tokenizer.
        token: the placeholder token.
        num_vectors: its rows; ``token_1``, ... must be new as well.

    Raises:
        ConceptError: naming the entry it collides with.
    """
    advice = "choose a name that no vocabulary holds, such as '<my-cat>'"
    for name in vector_tokens(token, num_vectors):
        known_as = tokenizer.convert_tokens_to_ids(name)
        if known_as is not None and (known_as != tokenizer.unk_token_id or name == tokenizer.unk_token):
            raise ConceptError(f"placeholder {token!r}: {name!r} is an entry of the tokenizer's vocabulary; {advice}")
    ids = word_ids(tokenizer, token)
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        raise ConceptError(f"placeholder {token!r} is a word the model knows (token id {ids[0]}); {advice}")


def whole_word(token: str) -> str:
    """Pattern of a placeholder that is not glued to a word.

    Args:
        token: the placeholder.

    Returns:
        A regular expression.
    """
    before = r"(?<!\w)" if re.match(r"\w", token[0]) else ""
    after = r"(?!\w)" if re.match(r"\w", token[-1]) else ""
    return f"{before}{re.escape(token)}{after}"
