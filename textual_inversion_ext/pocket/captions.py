"""Captions of pocket pictures: what is named, what is dropped, and how it is phrased."""

from __future__ import annotations

import numpy as np

from textual_inversion_ext.data.prompts.templates import PHOTO_TEMPLATES
from textual_inversion_ext.pocket.specs import Naming, PictureSpec, SubjectSpec
from textual_inversion_ext.pocket.vocabulary import FEATURES, SCENES, nearest_colour

# Words of the training templates that say something about the picture; the others ("rendering", "good") say nothing.
CLOSE_UP, SMALL, LARGE, DARK, BRIGHT = "close-up", " small ", " large ", " dark ", " bright "

_PREFIXES: dict[str, tuple[str, ...]] = {
    "painting": ("a painting of {}", "an oil painting of {}", "a painting in the style of {}"),
    "sketch": ("a sketch of {}", "a pencil sketch of {}", "a drawing of {}"),
    "cartoon": ("a cartoon of {}", "an illustration of {}", "a cartoon picture of {}"),
    "photo": ("a photo of {}", "a picture of {}", "{}"),
}
_BY_NAME = 0.85  # share of a character's captions that say its name
_STYLE_ONLY = ("a {} ", "a picture in the style of a {}", "an image in the style of a {}")


def noun_phrase(subject: SubjectSpec, rng: np.random.Generator | None = None, *, name_colours: bool = True) -> str:
    """Describe a subject, without an article.

    Args:
        subject: What to describe.
        rng: Drops attributes at random; None names everything that has a word.
        name_colours: Whether its colours may be named.

    Returns:
        For example "tall red and blue striped cat with big ears and a green hat".
    """

    def keep(probability: float) -> bool:
        return rng is None or bool(rng.random() < probability)

    words: list[str] = []
    if abs(subject.aspect) > 0.4 and keep(0.55):
        words.append("wide" if subject.aspect > 0 else "tall")
    if name_colours and keep(0.72):
        words.append(nearest_colour(subject.main))
        if keep(0.45):
            words += ["and", nearest_colour(subject.accent)]
    if subject.pattern != "plain" and keep(0.9):
        words.append(subject.pattern)
    words.append(subject.kind)
    extras: list[str] = []
    if abs(subject.feature) > 0.4 and keep(0.5):
        part = FEATURES[subject.kind]
        article = "" if part.endswith("s") else "a "
        extras.append(f"{article}{'big' if subject.feature > 0 else 'small'} {part}")
    if subject.accessory is not None and keep(0.7):
        colour = f"{nearest_colour(subject.accessory_colour)} " if name_colours and keep(0.5) else ""
        article = "an" if colour.startswith("orange") else "a"
        extras.append(f"{article} {colour}{subject.accessory}")
    if extras:
        words += ["with", " and ".join(extras)]
    return " ".join(words)


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a noun phrase."""
    return f"{'an' if phrase.startswith('orange') else 'a'} {phrase}"


def describe(subject: SubjectSpec) -> str:
    """Give the fullest caption that the vocabulary allows, without an article (see `noun_phrase`)."""
    return noun_phrase(subject)


def full_caption(picture: PictureSpec, naming: tuple[Naming, ...]) -> str:
    """Name everything that may be named: of characters the name, of other subjects all that has a word.

    Args:
        picture: The picture; only the four named styles have captions.
        naming: For each subject, what may be said of it.

    Returns:
        Lower-case text, always the same.
    """
    phrases = [
        noun_phrase(subject, name_colours=said.colours) if said.name is None else _by_name(said)
        for subject, said in zip(picture.subjects, naming, strict=True)
    ]
    scene = f" {SCENES[picture.scene]}" if picture.scene in SCENES else ""
    return _PREFIXES[picture.style][0].format(" next to ".join(map(with_article, phrases))) + scene


def _phrase(subject: SubjectSpec, rng: np.random.Generator, naming: Naming) -> str:
    """Say a character's name and, mostly, nothing else; describe what has no name."""
    if naming.name is None or rng.random() > _BY_NAME:
        return noun_phrase(subject, rng, name_colours=naming.colours)
    return _by_name(naming)


def _by_name(naming: Naming) -> str:
    return " ".join(word for word in (naming.changed_colour, naming.name) if word is not None)


def caption(picture: PictureSpec, rng: np.random.Generator, *, naming: tuple[Naming, ...]) -> str:
    """Write one caption, dropping attributes at random.

    Args:
        picture: The picture; only the four named styles have captions.
        rng: Chooses what is named and how.
        naming: For each subject, what may be said of it.

    Returns:
        Lower-case text.
    """
    scene = f" {SCENES[picture.scene]}" if picture.scene in SCENES and rng.random() < 0.8 else ""
    if rng.random() < 0.03:
        return (str(rng.choice(_STYLE_ONLY)).format(picture.style).strip() + scene).strip()
    phrases = [_phrase(subject, rng, said) for subject, said in zip(picture.subjects, naming, strict=True)]
    if len(phrases) == 1 and picture.size != "medium" and rng.random() < 0.5:
        phrases[0] = f"{picture.size} {phrases[0]}"
    if picture.style == "photo" and rng.random() < 0.5:
        template = str(rng.choice(_fitting_templates(picture)))
        last = "" if len(phrases) == 1 else f" next to {with_article(phrases[1])}"
        return template.format(phrases[0]) + last + scene
    prefix = str(rng.choice(_PREFIXES[picture.style]))
    return prefix.format(" next to ".join(with_article(p) for p in phrases)) + scene


def _fitting_templates(picture: PictureSpec) -> list[str]:
    """List the paper's photo templates that do not contradict the picture."""

    def fits(template: str) -> bool:
        if (CLOSE_UP in template or LARGE in template) and picture.size != "large":
            return False
        if SMALL in template and picture.size != "small":
            return False
        if DARK in template and picture.brightness > 0.8:
            return False
        return not (BRIGHT in template and picture.brightness < 1.2)

    return [t for t in PHOTO_TEMPLATES if fits(t)]
