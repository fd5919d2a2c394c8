"""The training loop: steps, logs, checkpoints, and the ways in which it can end."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import TrainingInterrupted
from textual_inversion_ext.records import TrainingResult
from textual_inversion_ext.training.callbacks import Callback, ProgressBar, Run, StepLogFile, read_step_log
from textual_inversion_ext.training.divergence import LOOK_STEPS, divergence_error, good_steps, let_go, stay_away
from textual_inversion_ext.training.evaluations import Evaluations
from textual_inversion_ext.training.harvest import Harvest
from textual_inversion_ext.training.interrupt import InterruptGuard
from textual_inversion_ext.training.meter import Meter
from textual_inversion_ext.training.outputs import RunFolder
from textual_inversion_ext.training.parts import load_parts
from textual_inversion_ext.training.previews import Previews
from textual_inversion_ext.training.processes.group import Processes
from textual_inversion_ext.training.queue import active_concepts, remaining_steps
from textual_inversion_ext.training.setup import Workshop
from textual_inversion_ext.training.state import (
    LESSONS,
    Part,
    Progress,
    lessons,
    load_tensors,
    save_checkpoint,
    trajectory,
)
from textual_inversion_ext.training.trackers import Trackers
from textual_inversion_ext.training.writing import write_beside, write_concept, write_image_words

logger = logging.getLogger(__name__)


class Loop:
    """One session of one run: from the first step (or a checkpoint) to the last.

    Args:
        config: The run's settings.
        concepts: What this process trains.
        workshop: Everything the loop works with.
        folder: The output folder.
        processes: The processes of the run.
        callbacks: Further watchers, beside the usual ones.
    """

    def __init__(
        self,
        config: TextualInversionConfig,
        concepts: tuple[ConceptSpec, ...],
        workshop: Workshop,
        folder: RunFolder,
        processes: Processes,
        callbacks: tuple[Callback, ...],
    ) -> None:
        self.config, self.concepts, self.workshop = config, concepts, workshop
        self.folder, self.processes = folder, processes
        self.tokens = tuple(concept.placeholder_token for concept in concepts)
        nothing = [0] * len(concepts)
        self.progress = Progress(done=nothing, counts=nothing.copy(), evaluated=[[] for _ in concepts])
        self.meter = Meter(self.tokens, workshop)
        self.evaluations = Evaluations(config, self.tokens, workshop, self.progress)
        self.harvest = Harvest(config, concepts, workshop, self.evaluations)
        self.facts = trajectory(config, processes.concepts, processes.world_size)
        self.facts[LESSONS] = lessons(concepts, workshop.digests)
        # Only the main process watches; one that trains concepts of its own keeps its own step log.
        own: list[Callback] = [ProgressBar(), StepLogFile(), Trackers()]
        own += [Previews()] if config.validation_prompt else []
        logs: list[Callback] = [StepLogFile()] if processes.writes else []
        self.callbacks = (*own, *callbacks) if processes.is_main else tuple(logs)
        self._alone = len(processes.concepts) == 1

    def begin(self, checkpoint: Path | None) -> None:
        """Load the checkpoint and say what deserves a notice; writes nothing.

        Args:
            checkpoint: Folder of the checkpoint to continue from, or None.
        """
        config = self.config
        if config.max_train_steps is not None and config.num_train_epochs is not None:
            logger.info("notice: max_train_steps=%d wins over num_train_epochs.", config.max_train_steps)
        if checkpoint is not None:
            part, changed = load_parts(checkpoint, self._state())
            tensors, self.progress = dict(part.tensors), part.progress
            self.meter.loss_sum.copy_(tensors.pop("loss_sum"))
            self.evaluations.resume(tensors, self.progress, checkpoint)
            load_tensors(self.workshop.step, tensors, checkpoint)
            stay_away(self.workshop.step, self.progress.done, self.evaluations.totals)
            logger.info("Resuming from %s, step %d.", checkpoint, self.progress.step)
            for sentence in changed:
                logger.warning("notice: %s; the rows will differ from those of an uninterrupted run.", sentence)
        elif config.resume_from_checkpoint is not None:
            logger.info("notice: %s holds no checkpoint yet; starting from the beginning.", config.output_dir)
        self.view = Run(
            config=config,
            folder=self.folder,
            tokens=self.tokens,
            total_steps=self._total_steps(),
            progress=self.progress,
            adapter=self.workshop.adapter,
            accelerator=self.processes.accelerator,
            learned=self.learned,
        )

    def run(self) -> None:
        """Train until every concept is finished, then save.

        Raises:
            TrainingDiverged: The run's only concept has diverged.
            TrainingInterrupted: Ctrl-C.
        """
        self.meter.start(self.progress)
        with ExitStack() as stack:
            guard = stack.enter_context(InterruptGuard())
            stack.enter_context(self.workshop.adapter.attached())
            if self.workshop.step.networks is not None:
                stack.enter_context(self.workshop.step.networks.attached())
            for callback in self.callbacks:
                callback.on_start(self.view)
                stack.callback(self._end, callback)
            interrupted = self._steps(guard)
            if not interrupted:  # A half-full interval stays in the checkpoint, so that the resumed log has no seam.
                self._log()
            self._save(final=True)
        if interrupted:
            raise TrainingInterrupted(
                f"Interrupted after step {self.progress.step} of {self.view.total_steps}; everything is saved in"
                f" {self.folder.path}. Continue with the same command and --resume_from_checkpoint latest."
            )

    def _steps(self, guard: InterruptGuard) -> bool:
        """Do the steps; returns whether it was interrupted before the last one."""
        config, workshop, progress = self.config, self.workshop, self.progress
        while active := active_concepts(progress.done, self.evaluations.totals, config.max_concurrent_concepts):
            if self.processes.any(guard.requested):  # all that share a step stop after the same one
                return True
            micro_batches = workshop.draws.draw(active, [progress.done[place] for place in active])
            may_move = workshop.activation.mask(progress.done)
            log = workshop.step(micro_batches, workshop.rates(workshop.step.age), may_move, progress.step + 1)
            self.meter.count(progress, active, log.loss)
            if self.evaluations(active) | (progress.step % LOOK_STEPS == 0 and self._let_go()):
                self.view = replace(self.view, total_steps=self._total_steps())
            if progress.step % config.logging_steps == 0:
                self._log()
            for callback in self.callbacks:
                callback.on_step(self.view)
            if progress.step % config.checkpointing_steps == 0 or progress.step % config.save_steps == 0:
                self._save(final=False)
        self._let_go()
        return False

    def _let_go(self) -> bool:
        """Let go of concepts that have diverged, unless there is only one: that ends the run, at the next log."""
        return not self._alone and let_go(self.workshop.step, self.tokens, self.progress, self.evaluations.totals)

    def _total_steps(self) -> int:
        """Optimizer steps of the whole run, as far as one knows: a concept may still stop early."""
        ahead = remaining_steps(self.progress.done, self.evaluations.totals, self.config.max_concurrent_concepts)
        return self.progress.step + ahead

    def _log(self) -> None:
        """Hand means since the last log to the callbacks.

        The host waits for the device here, at evaluations, and where ``LOOK_STEPS`` says.
        """
        self._check_finite()
        clocks = zip(self.tokens, self.progress.done, self.progress.counts, strict=True)
        evaluated = {
            token: self.evaluations.history(place, after=done - count)
            for place, (token, done, count) in enumerate(clocks)
        }
        entry = self.meter.entry(self.progress, {token: pairs for token, pairs in evaluated.items() if pairs})
        if entry is None:
            return
        for callback in self.callbacks:
            callback.on_log(self.view, entry)

    def _end(self, callback: Callback) -> None:
        callback.on_end(self.view)  # the newest one, which was not there when the session began

    def _check_finite(self) -> None:
        """End the run if its only concept has diverged. The host waits for the device here.

        Raises:
            TrainingDiverged: Saying when, and what to try.
        """
        if not self._alone or not (diverged := self.workshop.step.diverged()):
            return
        if self.processes.writes:
            self._write_final()
        raise divergence_error(self.config, self.folder.path, {self.tokens[0]: diverged[0]}, 1)

    def _save(self, final: bool) -> None:
        """Write the checkpoint and the embedding files that are due."""
        self._check_finite()
        step, config = self.progress.step, self.config
        if not self.processes.writes:
            return
        if final or step % config.checkpointing_steps == 0:
            self.meter.tick(self.progress)
            save_checkpoint(self.folder.checkpoint(step), self._state())
            self.folder.prune_checkpoints(config.checkpoints_total_limit)
        if final:
            self._write_final()
        elif step % config.save_steps == 0:
            for concept in self.learned():
                write_concept(self.folder, concept, step)
            self._write_lora(step)

    def _state(self) -> Part:
        """Everything that a checkpoint must hold; the first dimension of each tensor counts rows or concepts."""
        tensors = {**self.workshop.step.state_dict(), **self.evaluations.state_dict(), "loss_sum": self.meter.loss_sum}
        rows = {token: len(owned) for token, owned in zip(self.tokens, self.workshop.owned, strict=True)}
        return Part(rows, tensors, self.progress, self.facts)

    def _write_final(self) -> None:
        """Write the final files, and beside them the rows that were best at other times."""
        last = self.learned()
        for place, concept in enumerate(self.harvest.final(last)):
            write_concept(self.folder, concept)
            if self.config.keep_per_image_tokens:
                write_image_words(self.folder, self.tokens[place], self.harvest.image_words(place, concept))
            write_beside(self.folder, self.tokens[place], self.harvest.beside(place, last[place]))
            self.evaluations.mention_best(place, concept.metadata["steps"])
        self._write_lora()

    def _write_lora(self, step: int | None = None) -> None:
        """Write the LoRA beside the embedding files of the same step, if the run trains one."""
        networks = self.workshop.step.networks
        if networks is None:
            return
        for concept in self.learned():  # there is one only
            networks.save(self.folder.lora_file(step), {"token": concept.token, **concept.metadata})

    def learned(self) -> tuple[LearnedConcept, ...]:
        """Copy the concepts as they are now.

        Returns:
            One per concept, on the CPU.
        """
        return self.harvest.now(good_steps(self.workshop.step, self.progress.done))

    def result(self) -> TrainingResult:
        """What ``train`` returns; losses are those of the step log, earlier sessions included.

        Returns:
            The result.
        """
        return self.harvest.result(self.progress, read_step_log(self.folder.step_log))
