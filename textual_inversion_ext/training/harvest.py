"""The learned concepts of a run: as they are now, as the final files hold them, and what lies beside those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.records import TrainingResult
from textual_inversion_ext.training.evaluations import Evaluations
from textual_inversion_ext.training.image_words import image_words
from textual_inversion_ext.training.kept import LEVELS
from textual_inversion_ext.training.setup import Workshop, describe
from textual_inversion_ext.training.state import Progress


class Harvest:
    """Takes concepts out of a run.

    Args:
        config: The run's settings.
        concepts: What the run learns.
        workshop: Everything the loop works with.
        evaluations: The run's evaluations.
    """

    def __init__(
        self,
        config: TextualInversionConfig,
        concepts: Sequence[ConceptSpec],
        workshop: Workshop,
        evaluations: Evaluations,
    ) -> None:
        self.config, self.concepts = config, tuple(concepts)
        self.workshop, self.evaluations = workshop, evaluations

    def now(self, done: Sequence[int]) -> tuple[LearnedConcept, ...]:
        """Copy the concepts as they are now.

        Args:
            done: Steps done by each of them.

        Returns:
            One per concept, on the CPU.
        """
        rows = self.workshop.step.exported()
        return tuple(
            self._concept(place, rows, step, self.evaluations.loss_at(place, step)) for place, step in enumerate(done)
        )

    def final(self, last: Sequence[LearnedConcept]) -> tuple[LearnedConcept, ...]:
        """What the final files hold: the last rows, or with ``keep`` "best" those of the lowest evaluation loss.

        Args:
            last: The last concepts whose rows were finite.

        Returns:
            One per concept; a concept that was never evaluated has its last rows.
        """
        chosen = list(last)
        if self.config.keep != "last":
            chosen = [self._kept(place, 0) or concept for place, concept in enumerate(last)]
        diverged = self.workshop.step.diverged()
        return tuple(
            replace(concept, metadata={**concept.metadata, "stopped": self._stopped_by(place, diverged)})
            for place, concept in enumerate(chosen)
        )

    def beside(self, place: int, last: LearnedConcept) -> dict[str, LearnedConcept]:
        """What is saved beside a concept's final files; nothing twice.

        Args:
            place: Position of the concept.
            last: Its last rows.

        Returns:
            "last" or "best", whichever the final files do not hold, and "best-of-160", what was best among the first
            160 steps, of a few earlier times; nothing where a LoRA trained beside the rows: they fit only the last one.
        """
        if self.workshop.step.networks is not None:
            return {}
        best = self._kept(place, 0)
        final, other = (last, best) if self.config.keep == "last" else (best or last, last)
        candidates = {"best" if other is best else "last": other}
        for level in range(1, LEVELS):
            candidates[f"best-of-{int(self.evaluations.kept.until[place, level])}"] = self._kept(place, level)
        seen, found = {final.metadata["steps"]}, {}
        for label, concept in candidates.items():
            if concept is not None and concept.metadata["steps"] not in seen:
                seen.add(concept.metadata["steps"])
                found[label] = concept
        return found

    def image_words(self, place: int, concept: LearnedConcept) -> tuple[LearnedConcept, ...]:
        """The words of a concept's single pictures.

        Args:
            place: Position of the concept.
            concept: What its final files hold; the words are of the same step.

        Returns:
            One for each picture; none where there are none, or where their numbers are not finite.
        """
        kept, owned = self.evaluations.kept, self.workshop.image_rows[place]
        if not owned:
            return ()
        best = self.config.keep != "last" and concept.metadata["steps"] == str(int(kept.steps[place, 0]))
        rows = kept.rows(0) if best else self.workshop.step.exported()
        if not all(bool(tensor[owned.start : owned.stop].isfinite().all()) for tensor in rows.values()):
            return ()
        names = [Path(name).name for name in self.workshop.image_names[place]]
        return image_words(concept, rows, owned, names)

    def result(self, progress: Progress, log: Sequence[Mapping[str, Any]]) -> TrainingResult:
        """What a training hands back.

        Args:
            progress: How far the run is.
            log: Lines of its step log, earlier sessions included.

        Returns:
            The result.
        """
        evaluations, tokens = self.evaluations, [concept.placeholder_token for concept in self.concepts]
        best = dict(zip(tokens, evaluations.kept.steps[:, 0].tolist(), strict=True))
        diverged = self.workshop.step.diverged()
        return TrainingResult(
            concepts=self.final(self.now(progress.done)),
            losses={token: tuple(line["loss"][token] for line in log if token in line["loss"]) for token in tokens},
            eval_losses={token: evaluations.history(place) for place, token in enumerate(tokens)},
            steps=dict(zip(tokens, progress.done, strict=True)),
            best_steps={token: step for token, step in best.items() if step >= 0},
            seconds=progress.seconds,
            stop_reasons={token: self._stopped_by(place, diverged) for place, token in enumerate(tokens)},
            diverged={tokens[place]: step for place, step in diverged.items()},
        )

    def _stopped_by(self, place: int, diverged: Mapping[int, int]) -> str:
        """What ended the training of a concept: a rule and what it saw, a limit, divergence or the user."""
        evaluations, config = self.evaluations, self.config
        if place in diverged:
            return f"diverged at step {diverged[place]}"
        if (rule := evaluations.stop_reason(place)) is not None:
            return rule
        if evaluations.progress.done[place] < evaluations.totals[place]:
            return "interruption"
        by_epochs = config.max_train_steps is None and config.num_train_epochs is not None
        return "num_train_epochs" if by_epochs else "max_train_steps"

    def _kept(self, place: int, level: int) -> LearnedConcept | None:
        kept = self.evaluations.kept
        step = int(kept.steps[place, level])
        return None if step < 0 else self._concept(place, kept.rows(level), step, float(kept.losses[place, level]))

    def _concept(self, place: int, rows: Mapping[str, Tensor], step: int, eval_loss: float | None) -> LearnedConcept:
        concept, first = self.concepts[place], self.workshop.rows[place].start
        # A vector that has not joined yet is no part of the word.
        owned = range(first, first + self.workshop.activation.trained(place, step))
        return LearnedConcept(
            concept.placeholder_token,
            {key: tensor[owned.start : owned.stop].clone() for key, tensor in rows.items()},
            describe(self.config, concept, self.workshop.adapter, step, self.workshop.digests[place], eval_loss),
        )
