"""Flags of ``textual-inversion evaluate``."""

from __future__ import annotations

import argparse
from typing import Any

from textual_inversion_ext.cli.model_flags import add_model_flags
from textual_inversion_ext.evaluation.protocols import PROTOCOLS
from textual_inversion_ext.evaluation.views import RAW, VIEWS

_BASELINES = ("class_word", "caption", "initial_rows", "real_pictures", "none")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags.

    Args:
        parser: The verb's parser.
    """
    _add_what(parser)
    _add_rules(parser)
    _add_metrics(parser)
    add_model_flags(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    many: dict[str, Any] = {"nargs": "+", "action": "extend"}
    parser.add_argument(
        "--concept",
        **many,
        required=True,
        metavar="PLACE",
        help="Run folder, embedding file, or repository of the Hub; several.",
    )
    parser.add_argument(
        "--references",
        default=None,
        metavar="DIR",
        help="Real pictures: a folder or a data set of the Hub (user/name, user/name:configuration); with several"
        " concepts, one with a folder or a configuration for each, of its name. Default: the training pictures.",
    )
    parser.add_argument(
        "--captions",
        default=None,
        metavar="FILE",
        help="Descriptions without the word, one on each line; the best is a baseline. Default: those of the pictures.",
    )
    parser.add_argument(
        "--class_word", default=None, metavar="WORD", help="Coarse word for the thing. Default: the run's."
    )
    parser.add_argument(
        "--lora_scale",
        type=float,
        default=1.0,
        metavar="X",
        help="Strength of the LoRA that was trained with a word; 0 leaves it out. Default: 1.",
    )
    parser.add_argument(
        "--output_dir",
        default=None,
        metavar="DIR",
        help="Where report.json, report.html, report.png and the pictures go. Default: evaluation/ beside the concept.",
    )
    parser.add_argument(
        "--scale",
        choices=[RAW, *VIEWS],
        default=None,
        help="How the printed tables show cosines: raw, percent (x100), clipscore (2.5 x max(cosine, 0)), torchmetrics"
        " (max(100 x cosine, 0)). Reports store them raw. Default: as the protocol's source prints them.",
    )
    parser.add_argument("--json", action="store_true", help="Print the report as JSON (several: a list of them).")


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--protocol",
        default=None,
        choices=list(PROTOCOLS),
        metavar="NAME",
        help=f"Prompts, samples, steps and guidance: {', '.join(PROTOCOLS)}. Default: quick.",
    )
    parser.add_argument(
        "--prompts",
        default=None,
        metavar="FILE",
        help="Your own prompts instead, one on each line, with {} or the word itself where the word goes.",
    )
    parser.add_argument(
        "--baselines",
        nargs="+",
        default=None,
        choices=_BASELINES,
        metavar="NAME",
        help=f"What the word is measured against: {', '.join(_BASELINES)}. Default: all that can be made.",
    )
    parser.add_argument(
        "--seeds", type=int, default=None, metavar="N", help="Pictures per prompt. Default: the protocol's."
    )
    parser.add_argument("--first_seed", type=int, default=0, metavar="N", help="Seed of the first. Default: 0.")
    parser.add_argument(
        "--text_mode",
        choices=["omit", "class"],
        default=None,
        help="Text scores with the word left out of the prompt, or with its class in its place. Default: the"
        " protocol's.",
    )
    parser.add_argument(
        "--num_inference_steps", type=int, default=None, metavar="N", help="Default: the protocol's, or the model's."
    )
    parser.add_argument(
        "--guidance_scale", type=float, default=None, metavar="X", help="Default: the protocol's, or the model's."
    )


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics",
        nargs="+",
        action="extend",
        default=None,
        metavar="NAME",
        help="For example clip_image clip_text dino diversity. Default: the protocol's.",
    )
    parser.add_argument(
        "--backbone",
        default=None,
        metavar="MODEL",
        help="What measures: a CLIP or SigLIP model (Hub id or folder), or 'pocket'. Default:"
        " openai/clip-vit-base-patch32 ('pocket' for the pocket world).",
    )
    parser.add_argument(
        "--dino_backbone", default=None, metavar="MODEL", help="The same for dino. Default: facebook/dino-vits16."
    )
    parser.add_argument(
        "--reader",
        default=None,
        metavar="FILE",
        help="For identity_error, in the pocket world: weights of the network that reads what a picture shows, in the"
        " repository benchmarks/reader.safetensors.",
    )
