"""From what people wrote about a picture to prompts that hold the new word."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from unicodedata import normalize

from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.tokens import whole_word

__all__ = ["caption_prompts", "varied", "with_word"]

_WORD = "\0"  # no text holds it


def with_word(caption: str, spec: ConceptSpec) -> str:
    """Put the new word into a caption that lacks it.

    The rule, the first that applies: a caption that holds the placeholder stays as it is; ``{}`` becomes the
    placeholder; of an object, the first occurrence of its class name (or else its initializer) does; failing that, the
    placeholder comes before the caption (``<tok>, a dog on a beach``), or after it for a style (``a dog on a beach, in
    the style of <tok>``). Case does not matter.

    Args:
        caption: one line of text.
        spec: the concept.

    Returns:
        A prompt.
    """
    token = spec.placeholder_token
    if _places(token, caption):
        return caption
    if "{}" in caption:
        return caption.replace("{}", token, 1)
    if spec.learnable_property == "style":
        return f"{caption}, in the style of {token}"
    for word in (spec.class_name, spec.initializer):
        # A plural is another word: "two dogs" says more than the placeholder alone would.
        if places := _places((word or "").strip(), caption):
            return caption[: places[0].start()] + token + caption[places[0].end() :]
    return f"{token}, {caption}"


def _places(word: str, text: str) -> list[re.Match[str]]:
    """Where a word stands; `re` ignores more than `casefold`, as prompts are read by (the dot of a capital I)."""
    word = normalize("NFC", word)
    found = re.finditer(whole_word(word), text, re.IGNORECASE) if word else ()
    return [match for match in found if match.group().casefold() == word.casefold()]


def varied(prompt: str, token: str, *, shuffle: bool, tag_dropout: float, chance: random.Random) -> str:
    """One variant of a prompt that is a list of tags, parted by commas.

    The tag with the placeholder stays where it is.

    Args:
        prompt: a text with the placeholder.
        token: the placeholder.
        shuffle: whether the other tags change places.
        tag_dropout: probability with which each of them is left out.
        chance: where the randomness comes from.

    Returns:
        The variant.
    """
    word = re.compile(whole_word(token), re.IGNORECASE)
    written = iter(word.findall(prompt))
    # The word itself may hold a comma, so it is set aside while the tags are parted.
    tags = [tag.strip() for tag in word.sub(_WORD, prompt).split(",") if tag.strip()]
    kept = [place for place, tag in enumerate(tags) if _WORD in tag]
    tags = [re.sub(_WORD, lambda _: next(written), tag) for tag in tags]
    others = [tag for place, tag in enumerate(tags) if place not in kept]
    if shuffle:
        chance.shuffle(others)
    # One number for each tag whatever becomes of it, so that the rate does not change which are drawn next.
    stays = [chance.random() >= tag_dropout for _ in others]
    others = [tag if stay else "" for tag, stay in zip(others, stays, strict=True)]
    for place in kept:
        others.insert(place, tags[place])
    return ", ".join(tag for tag in others if tag)


def caption_prompts(
    captions: Sequence[str],
    spec: ConceptSpec,
    count: int,
    *,
    shuffle: bool,
    tag_dropout: float,
    chance: random.Random,
) -> list[str]:
    """The prompts that a picture's captions make.

    Shuffling and dropout are done here, once, so that no step has to: a picture has a fixed list of variants.

    Args:
        captions: the captions of one picture, at least one.
        spec: its concept.
        count: how many variants of each caption, where there is something to vary.
        shuffle: whether tags change places.
        tag_dropout: probability with which a tag is left out.
        chance: where the randomness comes from.

    Returns:
        One prompt for each caption, or ``count`` for each.
    """
    prompts = [with_word(caption, spec) for caption in captions]
    if not shuffle and not tag_dropout:
        return prompts
    token = spec.placeholder_token
    return [
        varied(prompt, token, shuffle=shuffle, tag_dropout=tag_dropout, chance=chance)
        for prompt in prompts
        for _ in range(count)
    ]
