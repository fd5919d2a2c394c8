"""The contract of a stopping rule: when a concept has been learned, judged by its evaluation losses alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from textual_inversion_ext.config import TextualInversionConfig


class StoppingRule(ABC):
    """Says of one concept at a time whether it may stop before its last step.

    A rule is a pure function of the concept's evaluation losses. It keeps no state, so a resumed run decides as an
    uninterrupted one, several processes decide alike, and a concept beside others as it would alone. Its settings are
    fields of the config that start with its name; those that are lengths are optimizer steps of the concept, whatever
    the evaluations' interval is.

    Args:
        config: The run's settings.

    Attributes:
        name: Value of ``--stopping``.
        citation: BibTeX of the paper, for cards.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    def __init__(self, config: TextualInversionConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def patience(self) -> int:
        """Optimizer steps of a concept before which the rule never stops it; 0 for a rule that never stops any."""

    @abstractmethod
    def verdict(self, losses: Sequence[float]) -> str | None:
        """Judge a concept.

        Args:
            losses: Its evaluation losses so far, every ``eval_steps`` steps, oldest first; may hold NaN.

        Returns:
            None to go on, else why it stops, in a few words that follow the rule's name.
        """

    def evaluations(self, steps: int) -> int:
        """A length in optimizer steps as a number of evaluations.

        Args:
            steps: The length, as in the config.

        Returns:
            The nearest number of evaluations, at least 1.
        """
        return max(1, round(steps / max(1, self.config.eval_steps)))
