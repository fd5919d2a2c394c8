"""Run folders as a training leaves them, full of things that must not leave with a publication."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.tiny import tiny_images
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import collect_samples, training_data_digest
from textual_inversion_ext.files import load_concept, save_concept
from textual_inversion_ext.run_file import load_run, save_run

SECRET = "hf_" + "QwErTyUiOpAsDfGhJkLzXcVbNm12345678"
"""What looks like a real access token."""


def write_run(folder: Path, token: str = "<corgi>", *, report: bool = False, **settings: Any) -> Path:
    """Write what a finished run leaves behind, and a good deal of what nobody should see.

    Args:
        folder: The run's folder.
        token: The word.
        report: Whether the run was evaluated.
        **settings: Settings of the run.
    """
    folder.mkdir(parents=True)
    pictures = folder / "training"
    pictures.mkdir()
    for number, picture in enumerate(tiny_images(3)):
        picture.save(pictures / f"{number}.png")
    spec = ConceptSpec(token, str(pictures), initializer=str(folder / "start.safetensors"), class_name="dog")
    config = TextualInversionConfig(
        output_dir=str(folder), logging_dir=str(folder / "logs"), validation_prompt=f"a photo of {token}", **settings
    )
    save_run(folder / "config.json", config, [spec])
    facts = {
        "base_model": config.pretrained_model_name_or_path,
        "family": "stable-diffusion",
        "steps": "40",
        "library_version": "0.1.0",
        "learnable_property": "object",
        "initializer": str(folder / "start.safetensors"),
        "recipe": json.dumps({"tokenizer_name": str(folder / "tokenizer"), "learning_rate": 0.005}),
        "training_data_digest": training_data_digest(collect_samples(spec, config)[0]),
        "hardware": "Imaginary GPU 9000",
    }
    concept = LearnedConcept(token, {"clip_l": torch.linspace(-1, 1, 8).reshape(1, 8)}, facts)
    save_concept(concept, folder / "learned_embeds.safetensors")
    save_concept(concept, folder / f"{concept.name}.safetensors", "webui")
    save_concept(concept, folder / "learned_embeds-steps-20.safetensors")
    save_concept(concept, folder / "learned_embeds-best.safetensors")
    for name in ("checkpoint-20/state.safetensors", "logs/events.out", "unet/diffusion_pytorch_model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * 100)
    for name, content in {"model_index.json": "{}", "optimizer.pt": "x", ".env": f"HF_TOKEN={SECRET}"}.items():
        (folder / name).write_text(content, encoding="utf-8")
    line = {"step": 40, "loss": {token: 0.1}, "seconds": 12.5}
    (folder / "steps.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    told = PngInfo()
    told.add_text("model", str(folder / "model"))
    told.add_text("comment", SECRET)
    (folder / "previews").mkdir()
    for step in (20, 40):
        Image.new("RGB", (16, 16), (step, 0, 0)).save(folder / "previews" / f"step-{step:06d}.png", pnginfo=told)
    if report:
        _write_report(folder / "evaluation", token, config.pretrained_model_name_or_path)
    return folder


def learn_without(folder: Path, name: str) -> None:
    """Take a training picture away, and train again without it.

    Args:
        folder: The run's folder.
        name: The picture.
    """
    (folder / "training" / name).unlink()
    concept = load_concept(folder / "learned_embeds.safetensors")
    config, (fields,) = load_run(folder / "config.json")
    digest = training_data_digest(collect_samples(ConceptSpec.from_dict(fields), config)[0])
    told = {**concept.metadata, "training_data_digest": digest}
    save_concept(dataclasses.replace(concept, metadata=told), folder / "learned_embeds.safetensors")


def _write_report(folder: Path, token: str, model: str) -> None:
    from textual_inversion_ext.evaluation.report import (
        ConceptFacts,
        EvaluationReport,
        PictureSet,
        ProtocolFacts,
        Score,
    )

    prompts = ("a photo of {}", "{} on the moon")
    names = [[f"gallery/{place}-{seed}.png" for seed in (0, 1)] for place in range(len(prompts))]
    (folder / "gallery").mkdir(parents=True)
    for number, name in enumerate(name for row in names for name in row):
        Image.new("RGB", (16, 16), (0, 0, 40 * number)).save(folder / name)
    report = EvaluationReport(
        concept=ConceptFacts(token=token, base_model=model, num_vectors={"clip_l": 1}, references=3),
        protocol=ProtocolFacts(name="quick", prompts=prompts, seeds=(0, 1)),
        scores=(
            Score(metric="clip_image (pocket)", subject="word", mean=0.75, standard_error=0.01, n=4, backbone="pocket"),
            Score(metric="clip_image (pocket)", subject="class word", mean=0.5, standard_error=0.01, n=4),
            Score(metric="clip_text (pocket)", subject="word", mean=0.25, standard_error=0.02, n=4, backbone="pocket"),
        ),
        settings={"num_inference_steps": 30, "guidance_scale": 4.0, "cache": str(folder / "gallery")},
        pictures=tuple(
            PictureSet(subject="word", prompt=prompt, text=prompt.replace("{}", token), seeds=(0, 1), files=tuple(row))
            for prompt, row in zip(prompts, names, strict=True)
        ),
        notes=("Only 4 pictures.",),
    )
    report.save(folder / "report.json")
