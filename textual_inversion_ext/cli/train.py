"""``textual-inversion train``: learn one or several new words."""

from __future__ import annotations

import argparse
import logging
import os
from typing import TYPE_CHECKING

from textual_inversion_ext.cli.parser import add_train_flags, read_train_flags

if TYPE_CHECKING:
    from textual_inversion_ext.config import TextualInversionConfig
    from textual_inversion_ext.records import TrainingResult

HELP = "Learn a new word from pictures. Flags carry the names of diffusers' textual_inversion.py."

logger = logging.getLogger(__name__)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags.

    Args:
        parser: The verb's parser.
    """
    add_train_flags(parser)


def run(flags: argparse.Namespace) -> None:
    """Train, then say where the files are.

    Args:
        flags: The parsed flags.
    """
    command = read_train_flags(flags)
    for notice in command.notices:
        logger.info("notice: %s", notice)
    from accelerate import PartialState

    from textual_inversion_ext.training.trainer import TextualInversionTrainer

    hub = command.hub
    if hub is not None and os.environ.get("RANK", "0") == "0":
        from textual_inversion_ext.publishing import check_hub

        check_hub(hub.repo_id, hub.token)  # Not after hours of training.
    trainer = TextualInversionTrainer(command.config, command.concepts)
    result = trainer.train()
    logger.info(summary(command.config, result))
    # A process that leaves its group open may be aborted by the end of another one.
    PartialState().destroy_process_group()
    if hub is not None and (address := trainer.push_to_hub(hub.repo_id, private=hub.private, token=hub.token)):
        logger.info("Published %s", address)


def summary(config: TextualInversionConfig, result: TrainingResult) -> str:
    """What to tell the user at the end of a run.

    Args:
        config: The run's settings.
        result: Its result.

    Returns:
        A few lines of text.
    """
    tokens = " ".join(concept.token for concept in result.concepts)
    first = result.concepts[0]
    sentence = "a painting in the style of" if first.metadata.get("learnable_property") == "style" else "a photo of"
    lines = [
        f"Learned {tokens} in {max(result.steps.values())} steps, {result.seconds:.0f} s.",
        f"Files are in {config.output_dir}",
        f'Try: textual-inversion generate --concept {config.output_dir} --prompt "{sentence} {first.token}"',
    ]
    return "\n".join(lines)
