"""Masks made by a segmentation model that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageChops

from textual_inversion_ext.errors import ConfigError, ImageError, MissingDependencyError, ModelError

__all__ = ["Segmenter"]

_BACKGROUND = frozenset(["background", "__background__", "bg", "unlabeled", "void", "other", "n/a"])


class Segmenter:
    """Finds the subject of a picture with a model of `transformers`' image segmentation.

    Semantic, panoptic and salient-object models work alike: the labels that are asked for are the subject. Code that
    comes with a model is never run. It works on the CPU, where its result is the same every time.

    Args:
        model: Hub id or folder of the model.
        labels: What to look for, one or more labels of the model with commas; None for each concept's class name.

    Raises:
        ModelError: The model cannot be loaded, or is of another kind.
        MissingDependencyError: It needs a package that is not installed.
        ConfigError: The model has no such label.
    """

    def __init__(self, model: str, labels: str | None = None) -> None:
        self._name = model
        self._run = _load(model)
        self._labels: tuple[str, ...] = tuple(str(label) for label in self._run.model.config.id2label.values())
        if len(self._labels) < 2:
            raise ModelError(f"mask_model {model!r} knows only one label ({self._labels}); it cannot tell two apart.")
        self._chosen = None if labels is None else self._find(labels)
        if self._chosen == ():
            raise ConfigError(f"mask_label is {labels!r}; the labels of {model} are: {', '.join(self._labels)}.")

    def mask(self, image: Image.Image, class_name: str | None, *, name: str) -> Image.Image:
        """Finds the subject.

        Args:
            image: An RGB picture.
            class_name: Coarse word for the subject, used where no label was given.
            name: What to call the picture in messages.

        Returns:
            A mask of mode ``L`` and the picture's size, white on the subject.

        Raises:
            ConfigError: It is not clear which labels are the subject.
            ImageError: The model finds nothing of it in the picture.
        """
        chosen = self._chosen if self._chosen is not None else self._subject(class_name)
        found = self._run(image, subtask="semantic")
        mask = Image.new("L", image.size)
        for part in found:
            if part["label"] in chosen:
                mask = ImageChops.lighter(mask, part["mask"].convert("L"))
        if mask.getextrema()[1] == 0:
            seen = ", ".join(dict.fromkeys(part["label"] for part in found))
            raise ImageError(
                f"{name}: mask_model {self._name} finds no {' or '.join(chosen)} in it, only {seen}. Give the picture "
                f"a mask file, or choose labels with --mask_label."
            )
        return mask

    def _subject(self, class_name: str | None) -> tuple[str, ...]:
        """Labels that stand for a concept: those of its class name, else the only one that is no background.

        Args:
            class_name: Coarse word for the subject, or None.

        Returns:
            The labels.
        """
        named = self._find(class_name or "")
        if named:
            return named
        if self._labels == ("LABEL_0", "LABEL_1"):  # what transformers calls the classes of a model without names
            return ("LABEL_1",)
        things = tuple(label for label in self._labels if label.casefold() not in _BACKGROUND)
        if len(things) == 1:
            return things
        asked = f"class_name is {class_name!r}, which is none of them" if class_name else "no class_name is given"
        raise ConfigError(
            f"it is not clear what mask_model {self._name} shall look for: {asked}. Say --mask_label with one or more "
            f"of its labels: {', '.join(self._labels)}."
        )

    def _find(self, text: str) -> tuple[str, ...]:
        wanted = set(_words(text))
        return tuple(label for label in self._labels if wanted & {label.strip().casefold(), *_words(label)})


def _words(label: str) -> Sequence[str]:
    # Some label sets list synonyms: "car, auto, automobile".
    return [word.strip().casefold() for word in label.split(",") if word.strip()]


def _load(model: str) -> Any:
    try:
        from transformers import pipeline

        return pipeline("image-segmentation", model=model, device="cpu", trust_remote_code=False)
    except ImportError as error:
        raise MissingDependencyError(
            f"mask_model {model!r} needs a package that is not installed: {' '.join(str(error).split())}"
        ) from error
    # Everything that is wrong with a model, a name or a connection comes as one of many classes.
    except Exception as error:
        cause = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(
            f"Cannot load the mask_model {model!r} ({cause}). Give the Hub id or folder of a model for image "
            f"segmentation (semantic, panoptic or salient objects) that transformers knows without code of its own."
        ) from error
