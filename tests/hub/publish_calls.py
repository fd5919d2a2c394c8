"""What the tests of publishing let a client's process do: whole commands, and pictures made by plain diffusers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
from pathlib import Path
from typing import Any


def command(*words: str) -> dict[str, Any]:
    """`textual-inversion WORDS`; returns its exit status and what it printed, which the process prints too."""
    from textual_inversion_ext.cli.main import main

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main(list(words))
    sys.stderr.write(text.getvalue())
    sys.stderr.flush()
    return {"code": code, "text": text.getvalue()}


def save_model(folder: str) -> None:
    """The pocket world as one model among others: in half precision, as many on the Hub are."""
    import torch

    from textual_inversion_ext.pipelines.loading import load_pipeline

    load_pipeline("pocket", dtype=torch.float16).save_pretrained(folder)


def picture(model: str, concept: str, prompt: str, **named: Any) -> str:
    """Digest of a picture that diffusers makes by itself."""
    import numpy as np
    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(model, token=named.get("hf_token")).to(torch.float32)
    pipe.load_textual_inversion(concept, **named)
    made = pipe(prompt, num_inference_steps=3, generator=torch.Generator().manual_seed(0)).images[0]
    return hashlib.sha256(np.asarray(made).tobytes()).hexdigest()


def pasted(card: str, folder: str) -> list[str]:
    """Run the first code of a card in an empty folder; returns the files that it wrote."""
    code = card.split("```python\n")[1].split("```")[0]
    os.mkdir(folder)
    home = os.getcwd()
    os.chdir(folder)
    try:
        exec(compile(code, "card", "exec"), {})
    finally:
        os.chdir(home)
    return sorted(os.listdir(folder))


def card(repo_id: str, repo_type: str = "model") -> dict[str, Any]:
    """Load a card from the Hub and let the Hub validate it; returns its data and its scores by metric."""
    from huggingface_hub import DatasetCard, ModelCard

    from hub_cards.validation import validate

    loaded = (ModelCard if repo_type == "model" else DatasetCard).load(repo_id)
    validate(loaded, repo_type)
    results = getattr(loaded.data, "eval_results", None) or []
    return {
        "data": loaded.data.to_dict(),
        "text": loaded.text,
        "scores": {f"{result.metric_type}/{result.metric_name}": result.metric_value for result in results},
    }


def concept(place: str, **named: Any) -> dict[str, Any]:
    """What `load_concept` finds."""
    from textual_inversion_ext.files import load_concept

    found = load_concept(place, **named)
    rows = {key: value.tolist() for key, value in found.vectors.items()}
    return {"token": found.token, "rows": rows, "metadata": dict(found.metadata)}


def lora(place: str) -> dict[str, Any]:
    """What is found of a LoRA, and whether it was said that it cannot be known."""
    import logging

    from textual_inversion_ext.pipelines.lora import logger, lora_on_hub

    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logger.addHandler(handler)
    try:
        found = lora_on_hub(place)
    finally:
        logger.removeHandler(handler)
    return {"name": found and found.name, "said": text.getvalue()}


def push_concept(repo_id: str, file: str, **named: Any) -> str:
    """``LearnedConcept.push_to_hub`` of the concept in a file."""
    from textual_inversion_ext.files import load_concept

    return load_concept(file).push_to_hub(repo_id, **named)


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
