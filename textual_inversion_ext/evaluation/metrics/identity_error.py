"""How far is a pocket subject from what it really looks like?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from textual_inversion_ext.errors import ConfigError, DataError
from textual_inversion_ext.evaluation.metric_parts import MetricParts, SubjectReader
from textual_inversion_ext.evaluation.metrics.base import Metric, Scored
from textual_inversion_ext.pocket.specs import SubjectSpec

COLOUR_SPAN = 3**0.5  # from black to white
NUMBER_SPAN = 2.0  # proportions lie in -1..1
EITHER_ORDER = ("striped", "checkered")


class IdentityErrorMetric(Metric):
    """Mean error of what a reader sees in a picture of a pocket subject, against the subject's true attributes.

    Five attributes count alike, each as a share of its largest possible error: the two colours, the two proportions,
    and whether the right accessory is there. Where nobody can tell one colour's place from the other's, in stripes
    and checks, the order of the two that fits better counts. Unlike the embeddings' cosines it says what is wrong
    (`errors`), and the word is not judged by the network whose text tower it was learned in. The reader errs too; what
    it sees in real pictures of the concept is the least that can be expected.

    Source: ours; only a world that was drawn by rule has a known truth.

    Args:
        reader: reads the attributes; see ``pocket/reader.py``.
    """

    key = "identity_error"
    title = "identity error"
    higher_is_better = False
    needs = frozenset({"truth"})

    def __init__(self, reader: SubjectReader) -> None:
        super().__init__(getattr(reader, "name", type(reader).__name__))
        self.reader = reader

    @classmethod
    def build(cls, parts: MetricParts) -> IdentityErrorMetric:
        """Take the reader; see the base class.

        Args:
            parts: ``reader`` is used.

        Returns:
            The metric.

        Raises:
            ConfigError: there is no reader.
        """
        if parts.reader is None:
            raise ConfigError(
                "The metric 'identity_error' needs a network that reads the attributes of pocket subjects out of"
                " pictures. Its weights are not in the package but in its repository: --reader"
                " benchmarks/reader.safetensors, in Python MetricParts(reader=read_reader('reader.safetensors'))."
            )
        return cls(parts.reader)

    def score(self, scored: Scored) -> Tensor:
        """Average the errors; see the base class.

        Args:
            scored: ``images`` and ``truth`` are used.

        Returns:
            (n,) errors in [0, 1].
        """
        return torch.stack(list(self.errors(scored).values())).mean(0)

    def errors(self, scored: Scored) -> dict[str, Tensor]:
        """Measure each attribute by itself.

        Args:
            scored: ``images`` and ``truth`` are used.

        Returns:
            "main", "accent", "aspect", "feature" and "accessory" -> (n,) float32 in [0, 1].

        Raises:
            DataError: the truth is not known.
        """
        truth = scored.truth
        if truth is None:
            raise DataError(f"{self.name} needs truth; only objects of the pocket world have a known one.")
        read = self.reader.read(list(scored.images))
        errors = _colour_errors(read.numbers["main"], read.numbers["accent"], truth)
        for name in ("aspect", "feature"):
            errors[name] = np.abs(read.numbers[name][:, 0] - getattr(truth, name)) / NUMBER_SPAN
        wanted = truth.accessory or "none"
        errors["accessory"] = np.array([seen != wanted for seen in read.choices["accessory"]])
        # A reader may see more than there can be, as a proportion of 1.1.
        return {name: torch.from_numpy(off).float().clamp(max=1.0) for name, off in errors.items()}


def _colour_errors(main: np.ndarray, accent: np.ndarray, truth: SubjectSpec) -> dict[str, np.ndarray]:
    """Errors of both colours, (n,) each, of what was seen in them, (n, 3) each."""

    def far(seen: np.ndarray, true: tuple[int, int, int]) -> np.ndarray:
        return np.linalg.norm(seen - np.array(true) / 255, axis=1) / COLOUR_SPAN

    kept = np.stack([far(main, truth.main), far(accent, truth.accent)])
    exchanged = np.stack([far(accent, truth.main), far(main, truth.accent)])
    if truth.pattern in EITHER_ORDER:
        kept = np.where(exchanged.sum(0) < kept.sum(0), exchanged, kept)
    return {"main": kept[0], "accent": kept[1]}
