"""The training loop: steps, logs, checkpoints, and the ways in which it can end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor

from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import TrainingDiverged, TrainingInterrupted
from textual_inversion_ext.parametrizations import Parametrization
from textual_inversion_ext.pipelines.loading import save_full_pipeline
from textual_inversion_ext.records import TrainingResult
from textual_inversion_ext.training.callbacks import Callback, LogEntry, ProgressBar, Run, StepLogFile, read_step_log
from textual_inversion_ext.training.interrupt import InterruptGuard
from textual_inversion_ext.training.outputs import RunFolder
from textual_inversion_ext.training.previews import Previews
from textual_inversion_ext.training.queue import active_concepts, remaining_steps
from textual_inversion_ext.training.setup import Workshop, describe
from textual_inversion_ext.training.state import (
    Progress,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    trajectory,
)
from textual_inversion_ext.training.trackers import Trackers

logger = logging.getLogger(__name__)


class Loop:
    """One session of one run: from the first step (or a checkpoint) to the last.

    Args:
        config: The run's settings.
        concepts: What the run learns.
        workshop: Everything the loop works with.
        folder: The output folder.
        accelerator: Device and processes.
        callbacks: Further watchers, beside the usual ones.
    """

    def __init__(
        self,
        config: TextualInversionConfig,
        concepts: tuple[ConceptSpec, ...],
        workshop: Workshop,
        folder: RunFolder,
        accelerator: Accelerator,
        callbacks: tuple[Callback, ...],
    ) -> None:
        self.config, self.concepts, self.workshop = config, concepts, workshop
        self.folder, self.accelerator = folder, accelerator
        self.tokens = tuple(concept.placeholder_token for concept in concepts)
        self.progress = Progress(done=[0] * len(concepts), counts=[0] * len(concepts))
        self.loss_sum = torch.zeros(len(concepts), device=workshop.step.resident.device)
        self.facts = trajectory(config, concepts, accelerator.num_processes)
        # Only the main process watches and writes.
        own: list[Callback] = [ProgressBar(), StepLogFile(), Trackers()]
        own += [Previews()] if config.validation_prompt else []
        self.callbacks = (*own, *callbacks) if accelerator.is_main_process else ()
        self._index: dict[tuple[int, ...], Tensor] = {}
        self._last_good: tuple[LearnedConcept, ...] = ()

    def begin(self, checkpoint: Path | None) -> None:
        """Load the checkpoint, say what deserves a notice, and make the folder ready.

        Args:
            checkpoint: Folder of the checkpoint to continue from, or None.
        """
        config = self.config
        if config.max_train_steps is not None and config.num_train_epochs is not None:
            logger.info("notice: max_train_steps=%d wins over num_train_epochs.", config.max_train_steps)
        if checkpoint is not None:
            tensors, self.progress, changed = load_checkpoint(checkpoint, self.facts)
            self.loss_sum.copy_(tensors.pop("loss_sum"))
            load_tensors(self.workshop.step, tensors, checkpoint)
            logger.info("Resuming from %s, step %d.", checkpoint, self.progress.step)
            for sentence in changed:
                logger.warning("notice: %s; the rows will differ from those of an uninterrupted run.", sentence)
        elif config.resume_from_checkpoint is not None:
            logger.info("notice: %s holds no checkpoint yet; starting from the beginning.", config.output_dir)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.folder.start(
                config, self.concepts, keep=checkpoint is not None and self.folder.continues(checkpoint, config)
            )
        slots = config.max_concurrent_concepts
        total = self.progress.step + remaining_steps(self.progress.done, self.workshop.totals, slots)
        self.view = Run(
            config=config,
            folder=self.folder,
            tokens=self.tokens,
            total_steps=total,
            progress=self.progress,
            adapter=self.workshop.adapter,
            accelerator=self.accelerator,
            learned=self.learned,
        )

    def run(self) -> None:
        """Train until every concept is finished, then save.

        Raises:
            TrainingInterrupted: Ctrl-C.
        """
        self._clock = time.perf_counter() - self.progress.seconds
        self._last_log = (self.progress.seconds, sum(self.progress.done))
        self._check_finite()
        with ExitStack() as stack:
            guard = stack.enter_context(InterruptGuard())
            stack.enter_context(self.workshop.adapter.attached())
            for callback in self.callbacks:
                callback.on_start(self.view)
                stack.callback(callback.on_end, self.view)
            interrupted = self._steps(guard)
            if not interrupted:  # A half-full interval stays in the checkpoint, so that the resumed log has no seam.
                self._log()
            self._save(final=True)
        if interrupted:
            raise TrainingInterrupted(
                f"Interrupted after step {self.progress.step} of {self.view.total_steps}; everything is saved in"
                f" {self.folder.path}. Continue with the same command and --resume_from_checkpoint latest."
            )
        if self.config.save_as_full_pipeline and self.accelerator.is_main_process:
            files = [self.folder.embedding_file(token) for token in self.tokens]
            save_full_pipeline(self.workshop.adapter, files, self.folder.path)
        self.accelerator.wait_for_everyone()  # Nobody leaves, and ends the group, while another still works.

    def _steps(self, guard: InterruptGuard) -> bool:
        """Do the steps; returns whether it was interrupted before the last one."""
        config, workshop, progress = self.config, self.workshop, self.progress
        may_move = torch.ones_like(workshop.step.row_concept, dtype=torch.bool)
        while active := active_concepts(progress.done, workshop.totals, config.max_concurrent_concepts):
            if self._agreed_to_stop(guard):
                return True
            micro_batches = workshop.draws.draw(active, [progress.done[place] for place in active])
            log = workshop.step(micro_batches, workshop.rates(workshop.step.age), may_move, progress.step + 1)
            self._count(active, log.loss)
            logged = progress.step % config.logging_steps == 0
            if logged:
                self._log()
            for callback in self.callbacks:
                callback.on_step(self.view)
            if progress.step % config.checkpointing_steps == 0 or progress.step % config.save_steps == 0:
                self._save(final=False)
        return False

    def _agreed_to_stop(self, guard: InterruptGuard) -> bool:
        """Whether Ctrl-C was pressed; several processes must agree on the step, and ask one another at logs only."""
        if self.accelerator.num_processes == 1:
            return guard.requested
        if self.progress.step % self.config.logging_steps:
            return False
        flag = torch.tensor([float(guard.requested)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item() > 0)

    def _count(self, active: tuple[int, ...], loss: Tensor) -> None:
        if active not in self._index:
            self._index = {active: torch.tensor(active, device=self.loss_sum.device)}
        self.loss_sum.index_add_(0, self._index[active], loss)
        self.progress.step += 1
        for place in active:
            self.progress.done[place] += 1
            self.progress.counts[place] += 1

    def _log(self) -> None:
        """Hand means since the last log to the callbacks. The one place where the host waits for the device."""
        progress, workshop = self.progress, self.workshop
        self._check_finite()
        if not any(progress.counts):
            return
        means = self.loss_sum.tolist()
        rates = workshop.rates(workshop.step.age).tolist()
        norms = next(iter(workshop.step.rows().values())).norm(dim=1).tolist()
        progress.seconds = time.perf_counter() - self._clock
        seconds, done = self._last_log
        pictures = (sum(progress.done) - done) * workshop.draws.global_batch
        seen = [place for place, count in enumerate(progress.counts) if count]
        entry = LogEntry(
            step=progress.step,
            loss={self.tokens[place]: means[place] / progress.counts[place] for place in seen},
            lr={self.tokens[place]: rates[workshop.rows[place].start] for place in seen},
            row_norms={self.tokens[place]: [norms[row] for row in workshop.rows[place]] for place in seen},
            seconds=progress.seconds,
            samples_per_second=pictures / max(progress.seconds - seconds, 1e-9),
        )
        self._last_log = (progress.seconds, sum(progress.done))
        progress.counts[:] = [0] * len(progress.counts)
        self.loss_sum.zero_()
        for callback in self.callbacks:
            callback.on_log(self.view, entry)

    def _check_finite(self) -> None:
        """Stop if a loss, a gradient or a row is not finite; else remember the rows as good.

        Raises:
            TrainingDiverged: Saying which, when, and what to try.
        """
        first_bad = dict(zip(self.tokens, self.workshop.step.first_bad_step.tolist(), strict=True))
        bad = {token: step for token, step in first_bad.items() if step >= 0}
        if all(bool(rows.isfinite().all()) for rows in self.workshop.step.rows().values()):
            self._last_good = self.learned()  # A step that is not finite moves no row, so these are good in any case.
        elif not bad:
            bad = dict.fromkeys(self.tokens, self.progress.step)
        if not bad:
            return
        if self.accelerator.is_main_process:
            for concept in self._last_good:
                self.folder.write_concept(concept)
        where = ", ".join(f"{token} at step {step}" for token, step in bad.items())
        precision = self.config.mixed_precision
        cure = "--mixed_precision no" if precision != "no" else "check that the model makes good pictures as it is"
        raise TrainingDiverged(
            f"The loss, its gradient or the rows became NaN or infinite: {where}. The last good rows are saved in"
            f" {self.folder.path}. Try a lower --learning_rate (it is {self.config.learning_rate}), or {cure}."
        )

    def _save(self, final: bool) -> None:
        """Write the checkpoint and the embedding files that are due."""
        self._check_finite()
        step, config = self.progress.step, self.config
        if not self.accelerator.is_main_process:
            return
        if final or step % config.checkpointing_steps == 0:
            tensors = {**self.workshop.step.state_dict(), "loss_sum": self.loss_sum}
            self.progress.seconds = time.perf_counter() - self._clock
            save_checkpoint(self.folder.checkpoint(step), tensors, self.progress, self.facts)
            self.folder.prune_checkpoints(config.checkpoints_total_limit)
        if final or step % config.save_steps == 0:
            for concept in self._last_good:
                self.folder.write_concept(concept, None if final else step)

    def learned(self) -> tuple[LearnedConcept, ...]:
        """Copy the concepts as they are now.

        Returns:
            One per concept, on the CPU.
        """
        modules = cast("Mapping[str, Parametrization]", self.workshop.step.parametrizations)
        exported = {key: module.export() for key, module in modules.items()}
        return tuple(
            LearnedConcept(
                concept.placeholder_token,
                {key: rows[owned.start : owned.stop] for key, rows in exported.items()},
                describe(self.config, concept, self.workshop.adapter, done, digest),
            )
            for concept, owned, done, digest in zip(
                self.concepts, self.workshop.rows, self.progress.done, self.workshop.digests, strict=True
            )
        )

    def result(self) -> TrainingResult:
        """What ``train`` returns; losses are those of the step log, earlier sessions included.

        Returns:
            The result.
        """
        entries = read_step_log(self.folder.step_log)
        reason = "num_train_epochs" if self._epochs_decide() else "max_train_steps"
        return TrainingResult(
            concepts=self.learned(),
            losses={
                token: tuple(entry["loss"][token] for entry in entries if token in entry["loss"])
                for token in self.tokens
            },
            steps=dict(zip(self.tokens, self.progress.done, strict=True)),
            seconds=self.progress.seconds,
            stop_reasons=dict.fromkeys(self.tokens, reason),
        )

    def _epochs_decide(self) -> bool:
        return self.config.max_train_steps is None and self.config.num_train_epochs is not None
