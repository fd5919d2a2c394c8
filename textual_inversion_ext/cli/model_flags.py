"""Flags of every verb that makes pictures: with which model, where, and how many at a time."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.run_file import full_path

if TYPE_CHECKING:
    import torch

    from textual_inversion_ext.concept import LearnedConcept

__all__ = ["add_model_flags", "check_lora_scale", "common_model", "placement"]


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags.

    Args:
        parser: The verb's parser.
    """
    parser.add_argument("--batch_size", type=int, default=4, metavar="N", help="Pictures at a time. Default: 4.")
    parser.add_argument(
        "--pretrained_model_name_or_path",
        default=None,
        metavar="MODEL",
        help="Model: Hub id, folder, or 'pocket'. Default: the one the words were learned on.",
    )
    parser.add_argument("--revision", default=None, help="Revision of the model on the Hub.")
    parser.add_argument("--variant", default=None, help="Variant of the weight files, for example fp16.")
    parser.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], default="no", help="Default: no.")
    parser.add_argument("--device", default=None, help="For example cuda or cpu. Default: the best there is.")


def check_lora_scale(scale: float) -> None:
    """Refuse a strength of LoRAs that no picture can be made with.

    Args:
        scale: What ``--lora_scale`` says.

    Raises:
        ConfigError: It is infinite or no number.
    """
    if not math.isfinite(scale):
        raise ConfigError(f"--lora_scale is {scale}; it must be a finite number, such as 1, or 0 to leave LoRAs out.")


def common_model(concepts: Sequence[LearnedConcept]) -> str:
    """The model on which the concepts were learned.

    Args:
        concepts: The concepts.

    Returns:
        Its name or path.

    Raises:
        ConfigError: The files do not name one model.
    """
    told = sorted({concept.metadata.get("base_model", "") for concept in concepts} - {""})
    models = [*{full_path(model): model for model in told}.values()]
    if len(models) == 1:
        return models[0]
    if not models:
        raise ConfigError(
            "No file says on which model it was learned; name the model: --pretrained_model_name_or_path."
        )
    raise ConfigError(
        f"The words were learned on several models ({', '.join(models)}); choose one: --pretrained_model_name_or_path."
    )


def placement(device: str | None, precision: str) -> tuple[torch.device, torch.dtype]:
    """Where a model goes, and in which number format.

    Args:
        device: What ``--device`` says; None for the best there is.
        precision: What ``--mixed_precision`` says.

    Returns:
        Device and dtype.

    Raises:
        ConfigError: There is no such device, or this machine or this build of torch cannot use it.
    """
    import torch
    from accelerate import PartialState

    try:
        place = torch.device(device) if device else PartialState().device
        torch.zeros(1, device=place).cpu()  # there and back: "meta" takes tensors, too, and keeps nothing of them
    except (RuntimeError, AssertionError, ImportError) as error:  # torch raises all of these, device by device
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"--device is {device!r}, which cannot be used here ({reason}); give cpu, or leave it out for the best"
            " there is."
        ) from error
    return place, {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
