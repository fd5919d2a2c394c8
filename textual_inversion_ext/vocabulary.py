"""Words added to a text encoder for good: tokens in its tokenizer, rows in its input embedding.

The other half of `tokens`, which learns rows without adding anything. A word of n rows is n tokens, named as diffusers
names them (``<a>``, ``<a>_1``, ...), so a pipeline that is saved with them works in plain diffusers.

Row and token id always agree. Some tables are higher than their vocabulary (T5's), so rows go in where the vocabulary
ends and the spare rows move behind them; taking the rows out again leaves the table as it was, bit for bit.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from tokenizers import AddedToken, decoders
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from textual_inversion_ext.embedding_table import rewrite_table, table_of
from textual_inversion_ext.errors import ModelError
from textual_inversion_ext.placeholders import vector_tokens
from textual_inversion_ext.records import EncoderSlot
from textual_inversion_ext.tokens import whole_word

_ROW_NAME = re.compile(r"(.+)_([1-9][0-9]*)")


def added_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[int, ...]]:
    """The words that somebody added to a tokenizer, whoever it was.

    Args:
        tokenizer: Any tokenizer.

    Returns:
        Token -> ids of its rows, in the order of their ids.
    """
    ids = {
        entry.content: token_id
        for token_id, entry in sorted(tokenizer.added_tokens_decoder.items())
        if not entry.special and token_id >= tokenizer.vocab_size
    }
    return {token: tuple(ids[name] for name in names) for token, names in group_rows(ids).items()}


def group_rows(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Put the tokens of one word together, as every reader of such a tokenizer has to: by name.

    Args:
        names: Added tokens.

    Returns:
        Token -> names of its rows: ``{"<a>": ("<a>", "<a>_1")}``.
    """
    listed = list(names)
    known = set(listed)

    def is_row(name: str) -> bool:
        match = _ROW_NAME.fullmatch(name)
        return match is not None and known.issuperset(vector_tokens(match[1], int(match[2])))

    groups = {}
    for name in listed:
        if not is_row(name):
            count = 1
            while f"{name}_{count}" in known:
                count += 1
            groups[name] = vector_tokens(name, count)
    return groups


def expand(prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Write every added word of a prompt as the tokens of all its rows.

    Words count where they are whole, in any letter case, the longest first; what is written out already stays as it is.

    Args:
        prompt: A text.
        tokenizer: The tokenizer that will read it.

    Returns:
        The text with ``<a>`` as ``<a> <a>_1 ...``.
    """
    counts = tuple((token, len(ids)) for token, ids in added_words(tokenizer).items())
    if not counts:
        return prompt
    prompt = unicodedata.normalize("NFC", prompt)
    pattern, written = _expansion(counts)

    def write_out(match: re.Match[str]) -> str:
        # `re` knows more letter cases than `casefold` (a dotted capital I); what only it finds stays as it is.
        text = written.get(" ".join(match.group().split()).casefold(), match.group())
        if not _stands_alone(text):
            return text
        # The tokenizer finds it where no letter touches it, at the other end of "*s" too.
        before, after = prompt[: match.start()][-1:], prompt[match.end() :][:1]
        return " " * _is_letter(before) + text + " " * _is_letter(after)

    return pattern.sub(write_out, prompt)


def insert_words(slot: EncoderSlot, words: Mapping[str, Tensor]) -> None:
    """Add words to a tokenizer and their rows to its text encoder, resizing the table once.

    Args:
        slot: The text encoder.
        words: Token -> rows, (n, D); they become the table's dtype on the table's device.

    Raises:
        ModelError: The table has no row for every entry of the vocabulary, or the tokenizer did not add the tokens.
    """
    first = len(slot.tokenizer)
    entries = {
        name: AddedToken(name, normalized=True, single_word=_stands_alone(token))
        for token, rows in words.items()
        for name in vector_tokens(token, len(rows))
    }
    names = list(entries)
    slot.tokenizer.add_tokens(list(entries.values()))
    if slot.tokenizer.convert_tokens_to_ids(names) != list(range(first, first + len(names))):
        raise ModelError(f"the tokenizer of {slot.key} did not take {', '.join(names)} as new entries.")
    _mark_word_ends(slot.tokenizer)

    def with_rows(table: Tensor) -> Tensor:
        if len(table) < first:
            raise ModelError(
                f"{slot.key}: the tokenizer has {first} entries and the text encoder only {len(table)} rows; "
                "they do not belong together. Load both from the same model."
            )
        return torch.cat([table[:first], torch.cat(list(words.values())).to(table), table[first:]])

    rewrite_table(slot.text_encoder, with_rows)


def remove_words(slot: EncoderSlot, ids: Collection[int]) -> None:
    """Take tokens out of a tokenizer and their rows out of its text encoder; later ids move up.

    Args:
        slot: The text encoder.
        ids: Ids of added tokens.
    """
    removed = sorted(ids)
    state = json.loads(slot.tokenizer.backend_tokenizer.to_str())
    kept = [entry for entry in state["added_tokens"] if entry["id"] not in removed]
    state["added_tokens"] = [{**entry, "id": entry["id"] - bisect_left(removed, entry["id"])} for entry in kept]
    state["decoder"] = _decoder(slot.tokenizer, state["decoder"], [str(entry["content"]) for entry in kept])
    _set_state(slot.tokenizer, json.dumps(state))

    def without_rows(table: Tensor) -> Tensor:
        stays = torch.ones(len(table), dtype=torch.bool, device=table.device)
        stays[removed] = False
        return table[stays]

    rewrite_table(slot.text_encoder, without_rows)


@contextmanager
def unchanged_on_error(slots: Sequence[EncoderSlot]) -> Iterator[None]:
    """Put tokenizers and tables back if the block ends in any error, Ctrl-C included.

    Args:
        slots: The text encoders that the block changes.

    Yields:
        Nothing.
    """
    before = [(slot, slot.tokenizer.backend_tokenizer.to_str(), table_of(slot.text_encoder)) for slot in slots]
    try:
        yield
    except BaseException:
        for slot, state, table in before:
            _set_state(slot.tokenizer, state)
            rewrite_table(slot.text_encoder, lambda _, old=table: old)  # type: ignore[misc]
        raise


@lru_cache(maxsize=16)
def _expansion(counts: tuple[tuple[str, int], ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    """Pattern of all words and rows, and what each match becomes (its key is case-folded).

    Args:
        counts: Tokens and numbers of rows.

    Returns:
        The pattern and the replacements.
    """
    patterns: dict[str, str] = {}
    written: dict[str, str] = {}
    for token, count in counts:
        names = vector_tokens(token, count)
        everything = " ".join(names)
        alone = _stands_alone(token)
        # A word whose rows follow it is written out already: taken as one match, it is not expanded again.
        rest = "".join(rf"\s+{re.escape(name)}" for name in names[1:]) + r"(?!\w)" * alone
        patterns[token] = whole_word(token) + (f"(?:{rest})?" if count > 1 else "")
        patterns.update({name: whole_word(name) if alone else re.escape(name) for name in names[1:]})
        written.update({name.casefold(): name for name in names[1:]})
        written.update({token.casefold(): everything, everything.casefold(): everything})
    longest_first = [patterns[name] for name in sorted(patterns, key=len, reverse=True)]
    return re.compile("|".join(longest_first), re.IGNORECASE), written


def _stands_alone(token: str) -> bool:
    """Whether a token begins or ends like a word, so that it is one only where no letter touches it."""
    return _is_letter(token[0]) or _is_letter(token[-1])


def _is_letter(character: str) -> bool:
    return re.match(r"\w", character) is not None


def _mark_word_ends(tokenizer: PreTrainedTokenizerBase) -> None:
    backend = tokenizer.backend_tokenizer
    if backend.decoder is None:
        return
    old = json.loads(backend.decoder.__getstate__())
    new = _decoder(tokenizer, old, [entry.content for entry in tokenizer.added_tokens_decoder.values()])
    if new != old:
        changed = decoders.Sequence([])
        changed.__setstate__(json.dumps(new).encode("utf-8"))
        backend.decoder = changed


def _decoder(tokenizer: PreTrainedTokenizerBase, old: Any, names: Sequence[str]) -> Any:
    """A decoder that ends added words like CLIP's own: compel decodes ids and reads the text again.

    Without it, ``mytok photo`` is decoded as ``mytokphoto``, in which there is no word ``mytok``. Decoders come and
    go as the JSON of `tokenizers`.
    """
    suffix = getattr(tokenizer.backend_tokenizer.model, "end_of_word_suffix", None)
    if not suffix or old is None:
        return old
    ours = old["type"] == "Sequence" and str(old["decoders"][0].get("content", "")).endswith(suffix)
    base = old["decoders"][-1] if ours else old
    marks = [
        # Any letter case: a tokenizer that lower-cases prompts lower-cases the name that it decodes, too.
        {"type": "Replace", "pattern": {"Regex": f"(?i)^{re.escape(name)}$"}, "content": name + suffix}
        for name in names
        if _is_letter(name[-1])
    ]
    return {"type": "Sequence", "decoders": [*marks, base]} if marks else base


def _set_state(tokenizer: PreTrainedTokenizerBase, state: str) -> None:
    # A new backend object would lose what hangs on the old one: CLIP's tokenizer wraps its `decode`.
    tokenizer.backend_tokenizer.__setstate__(state.encode("utf-8"))
