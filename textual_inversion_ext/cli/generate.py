"""``textual-inversion generate``: pictures and a contact sheet from learned words."""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual_inversion_ext import __version__
from textual_inversion_ext.cli.model_flags import add_model_flags, check_lora_scale, common_model, placement
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.pocket import GUIDANCE_SCALE, NUM_INFERENCE_STEPS

if TYPE_CHECKING:
    from PIL import Image

    from textual_inversion_ext.concept import LearnedConcept
    from textual_inversion_ext.pipelines.sampling import SampleSettings

HELP = "Make pictures with learned words: one per prompt and seed, and a contact sheet."

_LARGEST_SEED = 2**64 - 1  # of torch's generators

logger = logging.getLogger(__name__)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags.

    Args:
        parser: The verb's parser.
    """
    many: dict[str, Any] = {"nargs": "+", "action": "extend"}
    parser.add_argument(
        "--concept",
        **many,
        default=None,
        metavar="PATH",
        help="Run folder, embedding file or user/repo on the Hub; several.",
    )
    parser.add_argument(
        "--lora_scale",
        type=float,
        default=1.0,
        metavar="X",
        help="Strength of the LoRA that was trained with a word; 0 leaves it out. Default: 1.",
    )
    parser.add_argument("--prompt", **many, required=True, metavar="TEXT", help="Prompt; give several in quotes.")
    parser.add_argument(
        "--seed", "--seeds", dest="seeds", **many, type=int, default=None, help="Seeds. Default: 0 1 2 3."
    )
    parser.add_argument("--negative_prompt", default="", metavar="TEXT", help="What the pictures should not show.")
    parser.add_argument(
        "--num_inference_steps",
        type=int,
        default=None,
        metavar="N",
        help=f"Denoising steps. Default: the model's (pocket: {NUM_INFERENCE_STEPS}).",
    )
    parser.add_argument(
        "--guidance_scale",
        type=float,
        default=None,
        metavar="X",
        help=f"1 is off. Default: the model's (SD 7.5, SDXL 5, pocket {GUIDANCE_SCALE:g}).",
    )
    parser.add_argument("--width", type=int, default=None, help="Default: the model's own.")
    parser.add_argument("--height", type=int, default=None, help="Default: the model's own.")
    parser.add_argument("--output_dir", default="generated", metavar="DIR", help="Default: generated.")
    add_model_flags(parser)


def run(flags: argparse.Namespace) -> None:
    """Make the pictures.

    Args:
        flags: The parsed flags.

    Raises:
        ConfigError: A value is not allowed.
        KeyboardInterrupt: Somebody pressed Ctrl-C; the message says which pictures are there.
    """
    seeds = flags.seeds or [0, 1, 2, 3]
    wrong = [seed for seed in seeds if not 0 <= seed <= _LARGEST_SEED]
    if wrong:
        raise ConfigError(f"--seed is {wrong[0]}; seeds are whole numbers from 0 to {_LARGEST_SEED}.")
    if (flags.width is None) != (flags.height is None):
        raise ConfigError("Give both --width and --height, or neither.")
    check_lora_scale(flags.lora_scale)
    _sample_settings(flags, 1, 1.0)  # what was typed is refused before a model is loaded
    from textual_inversion_ext.files import load_concept
    from textual_inversion_ext.pipelines.loading import documented_sampling, load_pipeline
    from textual_inversion_ext.pipelines.lora import load_loras
    from textual_inversion_ext.pipelines.sampling import sample
    from textual_inversion_ext.pipelines.sheets import contact_sheet

    places = [place for text in flags.concept or [] for place in _places(text)]
    concepts = [load_concept(place) for place in places]
    found = [lora_of(place) for place in places] if flags.lora_scale else []
    loras = [lora for lora in found if lora is not None]
    model = flags.pretrained_model_name_or_path or common_model(concepts)
    _mention_unused(concepts, [*flags.prompt, flags.negative_prompt])
    device, dtype = placement(flags.device, flags.mixed_precision)
    pipeline = load_pipeline(model, revision=flags.revision, variant=flags.variant, dtype=dtype, device=device)
    settings = _sample_settings(flags, *documented_sampling(model, pipeline))
    load_loras(pipeline, loras, flags.lora_scale)
    for lora in loras:
        logger.info("With the LoRA %s, strength %g; leave it out with --lora_scale 0.", lora, flags.lora_scale)
    folder = Path(flags.output_dir)
    written: list[Path] = []

    def write(number: int, seed: int, picture: Image.Image) -> None:
        facts = {**vars(flags), "prompt": flags.prompt[number], "seed": seed, "model": model, "loras": len(loras)}
        file = folder / f"prompt-{number:02d}_seed-{seed}.png"
        _write_png(picture, file, _png_facts(facts, concepts, settings))
        written.append(file)

    try:
        pictures = sample(pipeline, concepts, flags.prompt, seeds, settings, on_picture=write)
    except KeyboardInterrupt:
        if not written:
            raise
        wanted = len(flags.prompt) * len(seeds)
        raise KeyboardInterrupt(f"Stopped. {len(written)} of {wanted} pictures are in {folder}.") from None
    sheet = contact_sheet(pictures, row_labels=flags.prompt, column_labels=[f"seed {seed}" for seed in seeds])
    _write_png(sheet, folder / "contact_sheet.png", {})
    logger.info("Wrote %d pictures and %s", len(written), folder / "contact_sheet.png")


def _places(text: str) -> list[Path | str]:
    """What a ``--concept`` stands for: files here, or else a repository of the Hub, under its name as it was typed."""
    return [*concept_files(Path(text))] if Path(text).exists() else [text]


def concept_files(path: Path) -> list[Path]:
    """The embedding files that a ``--concept`` stands for.

    Args:
        path: A file, the folder of a run with one concept, or that of a run with several.

    Returns:
        One path per concept.
    """
    if not path.is_dir() or (path / "learned_embeds.safetensors").is_file():
        return [path]
    inside = sorted(path.glob("*/learned_embeds.safetensors"))
    return inside or [path]


def lora_of(place: Path | str) -> Path | None:
    """Find the LoRA that was trained together with a word.

    Args:
        place: Its folder or file here, or its repository on the Hub.

    Returns:
        The LoRA's file, or None where there is none.
    """
    from textual_inversion_ext.pipelines.lora import lora_beside, lora_on_hub

    return lora_beside(place) if isinstance(place, Path) else lora_on_hub(place)


def _sample_settings(flags: argparse.Namespace, steps: int, guidance: float) -> SampleSettings:
    """How pictures are made: what was typed, else the model's defaults."""
    from textual_inversion_ext.pipelines.sampling import SampleSettings

    return SampleSettings(
        num_inference_steps=steps if flags.num_inference_steps is None else flags.num_inference_steps,
        guidance_scale=guidance if flags.guidance_scale is None else flags.guidance_scale,
        negative_prompt=flags.negative_prompt,
        size=None if flags.width is None else (flags.width, flags.height),
        batch_size=flags.batch_size,
    )


def _mention_unused(concepts: Sequence[LearnedConcept], prompts: Sequence[str]) -> None:
    from textual_inversion_ext.tokens import whole_word

    text = "\n".join(prompts)
    for concept in concepts:
        if not re.search(whole_word(concept.token), text, re.IGNORECASE):
            logger.warning("notice: no prompt uses %s; write it exactly like that.", concept.token)


def _png_facts(
    facts: dict[str, object], concepts: Sequence[LearnedConcept], settings: SampleSettings
) -> dict[str, str]:
    """Text chunks that say how a picture was made, each readable by itself."""
    told = {
        "prompt": facts["prompt"],
        "negative_prompt": settings.negative_prompt,
        "seed": facts["seed"],
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "mixed_precision": facts["mixed_precision"],
        "model": facts["model"],
        "concepts": json.dumps([concept.token for concept in concepts], ensure_ascii=False),
        "Software": f"textual-inversion-ext {__version__}",
    }
    if facts["loras"]:
        told["lora_scale"] = facts["lora_scale"]
    return {name: str(value) for name, value in told.items()}


def _write_png(picture: Image.Image, file: Path, facts: dict[str, str]) -> None:
    from PIL.PngImagePlugin import PngInfo

    from textual_inversion_ext.atomic import atomic_write

    info = PngInfo()
    for name, value in facts.items():
        info.add_itxt(name, value)  # International text: prompts are not always Latin.
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=info)
    atomic_write(file, data.getvalue())
