"""The pocket tokenizer: CLIP's byte-level BPE with a vocabulary of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

MAX_LENGTH = 32
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(texts: Iterable[str], merges: int = 2500) -> CLIPTokenizer:
    """Learn merges until the words of the world are single tokens; any other text still splits into bytes.

    Args:
        texts: Captions and templates.
        merges: Upper bound of the merges.

    Returns:
        Tokenizer with `MAX_LENGTH` positions.
    """
    reference = CLIPTokenizer()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = alphabet + [f"{letter}</w>" for letter in alphabet]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = reference.backend_tokenizer.normalizer
    learner.pre_tokenizer = reference.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=len(base) + merges, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    pairs = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in learned["merges"]]
    tokens = [*base, *("".join(pair) for pair in pairs), _BOS, _EOS]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=pairs)
    tokenizer.model_max_length = MAX_LENGTH
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[Sequence[str]]) -> Tensor:
    """Turn captions into ids.

    Args:
        tokenizer: From `build_tokenizer`.
        texts: As many captions of each picture.

    Returns:
        int64 (pictures, captions, MAX_LENGTH).
    """
    flat = [text for group in texts for text in group]
    ids = tokenizer(flat, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt").input_ids
    return ids.view(len(texts), -1, MAX_LENGTH)
