"""What a protocol fixes: prompts, seeds, sampling, how texts are scored, and where all of it is from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.evaluation.texts import TextMode

if TYPE_CHECKING:
    from textual_inversion_ext.pipelines.sampling import SampleSettings

PLACEHOLDER = "{}"
"""Where the word goes in a prompt."""

Aim: TypeAlias = Literal["likeness", "obedience", "both"]
Scheduler: TypeAlias = Literal["ddim"]

# "a", "the nice": an article and at most one adjective at the end of a text. What follows needs no article.
_HAS_ARTICLE = re.compile(r"\b(a|an|the|my|your|his|her|our|one|two)(\s+\w+)?\s+$", re.IGNORECASE)
_ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProtocolPrompt:
    """One prompt of a protocol.

    Attributes:
        text: The prompt with ``{}`` where the word goes.
        aim: What its pictures are for: "likeness" to the real ones, "obedience" to the rest of the prompt, or "both".
    """

    text: str
    aim: Aim = "both"

    @property
    def places(self) -> int:
        """How many words go into it."""
        return self.text.count(PLACEHOLDER)

    def filled(self, *words: str) -> str:
        """Put words in as they are.

        Args:
            *words: One for each ``{}``.

        Returns:
            The prompt.
        """
        parts = self.text.split(PLACEHOLDER)
        return parts[0] + "".join(word + rest for word, rest in zip(words, parts[1:], strict=True))

    def described(self, *phrases: str) -> str:
        """Put descriptions in, as English has them: "a photo of {}" and "the {}" both take "cat" and "a red cat".

        Args:
            *phrases: One for each ``{}``, with an article or without.

        Returns:
            The prompt.
        """
        parts = self.text.split(PLACEHOLDER)
        text = parts[0]
        for phrase, rest in zip(phrases, parts[1:], strict=True):
            text += _fitting(text, phrase) + rest
        return text


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something that pictures of one word can show in several ways, for the protocol about bias.

    Attributes:
        name: What it is called in the report.
        values: What it can be.
        texts: What a zero-shot classifier compares a picture with, one text per value.
    """

    name: str
    values: tuple[str, ...]
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(self.values) != len(self.texts) or len(set(self.values)) < len(self.values):
            raise ConfigError(
                f"attribute {self.name!r} has {len(self.values)} values and {len(self.texts)} texts; it needs at least"
                " two different values and one text for each."
            )


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A line of somebody else's table.

    Attributes:
        method: The method, and the model it ran on.
        values: (metric as the table names it, number on the scale of raw cosines) pairs.
        source: Where it is printed.
        evidence: How this library knows: "paper" or "code" where it was read there, "2nd" from a third-party copy.
    """

    method: str
    values: tuple[tuple[str, float], ...]
    source: str
    evidence: Literal["paper", "code", "2nd"]

    @property
    def told(self) -> str:
        """Source with its caveat."""
        caveat = {"paper": "", "code": " (repository)", "2nd": " (quoted from a third party, not checked in the paper)"}
        return self.source + caveat[self.evidence]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Rules of an evaluation.

    Attributes:
        name: Key in ``PROTOCOLS``, or the file of the user's own prompts.
        source: Paper, section, repository; "ours" where there is none.
        prompts: For words of things.
        seeds: Pictures per prompt.
        style_prompts: For words of styles; empty where the source has none, then `prompts` serve.
        live_prompts: For words of living things, where the source tells them apart; else empty.
        num_inference_steps: Denoising steps; None for the model's documented number.
        guidance_scale: Of classifier-free guidance; None for the model's documented one.
        scheduler: Sampler that the source names; None for the model's own.
        text_mode: What a text score reads where the word stood: nothing, or the class word.
        places: Words in each prompt.
        metrics: Keys of ``METRICS`` that the source measures by; empty for the default ones.
        attributes: What the protocol about bias looks for.
        classes: (name of a subject, its class word) pairs of the source's data set.
        published: Other people's numbers under these rules.
        notes: What is not in the source but ours, one sentence each.
        scale: In which the source prints cosines: "raw", or a key of ``evaluation.views.VIEWS``. Reports store them
            raw whatever it is.
        pocket: The same for the pocket world, whose vocabulary is small; None where the prompts need no change.
    """

    name: str
    source: str
    prompts: tuple[ProtocolPrompt, ...]
    seeds: int
    style_prompts: tuple[ProtocolPrompt, ...] = ()
    live_prompts: tuple[ProtocolPrompt, ...] = ()
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: Scheduler | None = None
    text_mode: TextMode = "omit"
    places: int = 1
    metrics: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    classes: tuple[tuple[str, str], ...] = ()
    published: tuple[PublishedRow, ...] = ()
    notes: tuple[str, ...] = ()
    scale: str = "raw"
    pocket: Protocol | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"protocol {self.name!r}: seeds is {self.seeds}; it must be at least 1.")
        if not self.prompts:
            raise ConfigError(f"protocol {self.name!r} has no prompt; it needs at least one.")
        for prompt in (*self.prompts, *self.style_prompts, *self.live_prompts):
            if prompt.places != self.places:
                count = "once" if self.places == 1 else f"{self.places} times"
                raise ConfigError(
                    f"protocol {self.name!r}: the prompt {prompt.text!r} holds {prompt.places} times {{}}; write {{}}"
                    f" {count}, where the word goes, for example 'A photo of {{}} on the beach'."
                )

    def on(self, model: str) -> Protocol:
        """These rules for a model.

        Args:
            model: Its name or folder.

        Returns:
            The version for the pocket world where that is the model, else these rules.
        """
        return self.pocket if model == "pocket" and self.pocket is not None else self

    def prompts_for(self, learnable_property: str, class_word: str | None = None) -> tuple[ProtocolPrompt, ...]:
        """The prompts for a kind of concept.

        Args:
            learnable_property: "object" or "style".
            class_word: Its coarse word; decides whether it counts as living.

        Returns:
            The prompts.
        """
        if learnable_property == "style" and self.style_prompts:
            return self.style_prompts
        if self.live_prompts and class_word is not None and is_living(class_word):
            return self.live_prompts
        return self.prompts

    def settings(self, documented: tuple[int, float], batch_size: int = 4) -> SampleSettings:
        """How pictures are made under these rules.

        Args:
            documented: Steps and guidance of the model where the protocol leaves them open; see
                ``pipelines.loading.documented_sampling``.
            batch_size: Pictures at a time.

        Returns:
            The settings.
        """
        # Imported here: the console lists the protocols without loading torch.
        from textual_inversion_ext.pipelines.sampling import SampleSettings

        steps, guidance = documented
        return SampleSettings(
            num_inference_steps=steps if self.num_inference_steps is None else self.num_inference_steps,
            guidance_scale=guidance if self.guidance_scale is None else self.guidance_scale,
            batch_size=batch_size,
        )


# The living classes of DreamBench are "cat" and "dog" (google/dreambooth, dataset/prompts_and_classes.txt). The others
# are ours, for other people's concepts: whatever can wear a hat or an outfit.
_LIVING = frozenset(
    "cat dog kitten puppy corgi rabbit bunny hamster bear bird parrot fish horse cow sheep pig fox wolf lion tiger"
    " monkey animal pet person man woman boy girl child baby face".split()
)


def is_living(class_word: str) -> bool:
    """Whether a class word stands for something that lives.

    Args:
        class_word: For example "dog" or "stuffed animal".

    Returns:
        True for the classes that DreamBench calls live subjects, and for others that we count among them.
    """
    words = class_word.casefold().split()
    return bool(words) and words[-1] in _LIVING and not {"stuffed", "toy", "plush", "wooden"} & set(words)


def prompts_of(texts: Sequence[str], aim: Aim = "both") -> tuple[ProtocolPrompt, ...]:
    """Make prompts of texts that have the same aim.

    Args:
        texts: Texts with ``{}``.
        aim: What their pictures are for.

    Returns:
        The prompts.
    """
    return tuple(ProtocolPrompt(text, aim) for text in texts)


def _fitting(before: str, phrase: str) -> str:
    if _HAS_ARTICLE.search(before):
        return _ARTICLE.sub("", phrase)
    plural = phrase.endswith("s") and not phrase.endswith("ss")
    if _ARTICLE.match(phrase) or plural or not before.strip():
        return phrase
    return f"{'an' if phrase[:1].casefold() in 'aeio' else 'a'} {phrase}"
