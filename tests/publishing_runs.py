"""What tests of publishing share: run folders full of things that must not leave, and calls in a client's process."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.tiny import tiny_images
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.files import save_concept
from textual_inversion_ext.run_file import save_run

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
        "training_data_digest": "ab" * 8,
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


def push(repo_id: str, files: dict[str, str], **named: Any) -> dict[str, Any]:
    """``hub_cards.push.push`` of files with these texts, without long pauses."""
    from hub_cards.push import Publication
    from hub_cards.push import push as push_files

    token = named.pop("token", None)
    contents = {name: text.encode() for name, text in files.items()}
    publication = Publication(repo_id, contents, named.pop("message", "Add a word"), **named)
    return dataclasses.asdict(push_files(publication, token=token, waits=(0.01, 0.01, 0.01)))


def command(*arguments: str) -> dict[str, Any]:
    """The command line: its exit code and what it wrote."""
    from textual_inversion_ext.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def push_concept(repo_id: str, file: str, **named: Any) -> str:
    """``LearnedConcept.push_to_hub`` of the concept in a file."""
    from textual_inversion_ext.files import load_concept

    return load_concept(file).push_to_hub(repo_id, **named)


def rows_on_hub(repo_id: str, **named: Any) -> list[Any]:
    """Token and rows that `load_concept` reads from the Hub."""
    from textual_inversion_ext.files import load_concept

    concept = load_concept(repo_id, **named)
    return [concept.token, {key: rows.tolist() for key, rows in concept.vectors.items()}]


def rows_in_diffusers(repo_id: str, model: str) -> list[float]:
    """The row that plain diffusers holds after loading a concept from the Hub."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.load_textual_inversion(repo_id)
    row: list[float] = pipeline.text_encoder.get_input_embeddings().weight[-1].tolist()
    return row


def train_and_push(folder: str, repo_id: str, token: str) -> str:
    """Train two words, and publish both."""
    from textual_inversion_ext import ConceptSpec, TextualInversionConfig, TextualInversionTrainer

    home = Path(folder)
    config = TextualInversionConfig(
        pretrained_model_name_or_path=str(home / "model"),
        output_dir=str(home / "two"),
        max_train_steps=1,
        train_batch_size=1,
        eval_steps=0,
    )
    specs = [ConceptSpec(f"<{name}>", str(home / "images"), initializer="cat") for name in ("ab", "cd")]
    trainer = TextualInversionTrainer(config, specs)
    trainer.train()
    return trainer.push_to_hub(repo_id, token=token)


def load_pictures(repo_id: str) -> list[list[int]]:
    """Sizes of the pictures of a data set on the Hub."""
    from datasets import load_dataset

    return [list(row["image"].size) for row in load_dataset(repo_id, split="train")]
