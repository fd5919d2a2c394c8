"""Pictures of the word while it is being learned, made with the live model."""

from __future__ import annotations

import logging

from textual_inversion_ext.pipelines.loading import documented_sampling
from textual_inversion_ext.pipelines.sampling import SampleSettings, sample_attached, stack_rows, word_encoders
from textual_inversion_ext.pipelines.sheets import contact_sheet
from textual_inversion_ext.training.callbacks import Callback, Run
from textual_inversion_ext.training.trackers import log_pictures
from textual_inversion_ext.training.writing import write_picture

logger = logging.getLogger(__name__)

PREVIEW_STEPS = 25
"""Denoising steps of a preview: enough to judge by, as in diffusers' training scripts."""


class Previews(Callback):
    """Writes ``previews/step-000100.png`` every ``validation_steps`` and after the last step.

    Seeds are fixed, so that two previews differ by what was learned and by nothing else. Every random number comes
    from generators of its own: a run with previews learns the same rows, bit for bit, as one without.
    """

    def on_start(self, run: Run) -> None:
        """Say so if the prompt shows nothing of what is learned; see the base class."""
        prompt = run.config.validation_prompt or ""
        if not any(token.casefold() in prompt.casefold() for token in run.tokens):
            logger.warning(
                "validation_prompt %r holds none of the new words (%s), so the previews will not change.",
                prompt,
                " ".join(run.tokens),
            )

    def on_step(self, run: Run) -> None:
        """Make a preview when it is time; see the base class."""
        step, config = run.progress.step, run.config
        if step % config.validation_steps and step != run.total_steps:
            return
        _, guidance_scale = documented_sampling(config.pretrained_model_name_or_path, run.adapter.pipeline)
        learned = run.learned()
        adapter = run.adapter
        (pictures,) = sample_attached(
            adapter,
            word_encoders(adapter, learned),
            stack_rows(adapter, learned),
            [config.validation_prompt or ""],
            [config.seed + number for number in range(config.num_validation_images)],
            SampleSettings(PREVIEW_STEPS, guidance_scale),
        )
        sheet = contact_sheet([pictures], title=f"step {step}: {config.validation_prompt}")
        write_picture(sheet, run.folder.previews / f"step-{step:06d}.png")
        log_pictures(run.accelerator, "preview", pictures, step)
