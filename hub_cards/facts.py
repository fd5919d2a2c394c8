"""What a card tells of a training and of what was measured, as plain records; see `hub_cards.contents`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Metric", "Protocol", "Score", "Training"]


@dataclass(frozen=True, slots=True)
class Metric:
    """How to read one metric's numbers.

    Attributes:
        name: Its name in `Score.metric`.
        title: How to call it in a table.
        higher_is_better: Whether more is better.
    """

    name: str
    title: str = ""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Score:
    """One measured number.

    Attributes:
        metric: The metric's name, its network's included.
        subject: Whose pictures were scored: ``"word"``, or a baseline: ``"class word"``, ``"caption"``,
            ``"initial rows"``, ``"real pictures"``, or any other text.
        mean: Mean over the pictures.
        standard_error: Its standard error.
        n: How many pictures.
        prompt: The only prompt that it is about; None for all of them.
        token: The word that it is about; None when there is only one.
    """

    metric: str
    subject: str
    mean: float
    standard_error: float | None = None
    n: int | None = None
    prompt: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the scored pictures were made.

    Attributes:
        name: The protocol's name.
        source: The paper or project that it is from.
        prompts: How many prompts.
        seeds: Pictures for each prompt.
        steps: Sampling steps.
        guidance_scale: Of classifier-free guidance.
        text: What stood in the word's place when a picture was compared with its prompt, e.g. ``"the class word"``;
            empty when no picture was.
        versions: Program or library to the version that measured.
        dataset: Data set on the Hub that the reference pictures are; None when they are others.
    """

    name: str
    source: str = ""
    prompts: int | None = None
    seeds: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    text: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    dataset: str | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """How the words were learned.

    Attributes:
        images: Number of pictures.
        recipe: Name of the recipe.
        steps: Optimizer steps.
        seconds: Wall seconds of the training loop.
        stopped: What ended it: a limit, a stopping rule and what it saw, an interruption.
        hardware: What it ran on.
        versions: Program or library to its version.
        settings: Name to value of the settings worth telling.
        digest: Fingerprint of the pictures that were learned from.
    """

    images: int | None = None
    recipe: str | None = None
    steps: int | None = None
    seconds: float | None = None
    stopped: str | None = None
    hardware: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None
