"""The recipe of the pocket weights: resumable, and its export is a plain diffusers pipeline."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor, nn

from textual_inversion_ext import pocket
from textual_inversion_ext.data.prompts.templates import PHOTO_TEMPLATES, STYLE_TEMPLATES
from textual_inversion_ext.pocket import vocabulary as words
from textual_inversion_ext.pocket.build import __main__ as command
from textual_inversion_ext.pocket.build.clip import build_clip
from textual_inversion_ext.pocket.build.continued import continue_clip
from textual_inversion_ext.pocket.build.dataset import rendered_world
from textual_inversion_ext.pocket.build.identities import IDENTITY_NUMBERS, STAND_IN, IdentityRows, identity_numbers
from textual_inversion_ext.pocket.build.loop import Schedule, Training, averaged
from textual_inversion_ext.pocket.build.tokenizer import build_tokenizer, tokenize
from textual_inversion_ext.pocket.build.unet import denoising_error, part_weights, spread_timesteps
from textual_inversion_ext.pocket.characters import CHARACTERS


class _Cut(Exception):
    """Stands for the power going off."""


def _train(folder: Path, cut_at: int | None = None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    training = Training("toy", model, Schedule(steps=9, learning_rate=0.1, save_every=2), folder)

    def loss_of(step: int) -> Tensor:
        if step == cut_at:
            raise _Cut
        return model(torch.randn(4, 3, generator=torch.Generator().manual_seed(step))).square().mean()

    training.run(loss_of)
    return {name: value.clone() for name, value in training.use_average().state_dict().items()}


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = _train(tmp_path / "whole")
    with pytest.raises(_Cut):
        _train(tmp_path / "parts", cut_at=7)
    resumed = _train(tmp_path / "parts")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    states = [load_file(tmp_path / name / "toy.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _build(folder: Path, *further: object) -> Path:
    """A whole build of a few steps."""
    arguments = ["--work_dir", folder / "work", "--output_dir", folder / "weights", "--pictures", "500"]
    arguments += ["--workers", "1", "--device", "cpu", "--clip_steps", "2", "--vae_steps", "2", "--unet_steps", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["build", *map(str, [*arguments, *further])])
        command.main()
    return folder / "weights"


def _contents(weights: Path) -> dict[str, bytes]:
    files = [*weights.rglob("*.safetensors"), *weights.rglob("tokenizer.json")]
    return {str(path.relative_to(weights)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build from scratch."""
    folder = tmp_path_factory.mktemp("build")
    first = _contents(_build(folder))
    assert _contents(_build(folder)) == first  # everything is done already; the second call only exports again
    return folder / "weights"


def test_a_build_can_go_on_from_another(built: Path, tmp_path: Path) -> None:
    shutil.copytree(
        built.parent / "work", tmp_path / "work", ignore=shutil.ignore_patterns("*.safetensors", "tokenizer")
    )
    before, after = _contents(built), _contents(_build(tmp_path, "--start_from", built, "--clip_steps", "0"))
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"pipeline/unet/diffusion_pytorch_model.safetensors"}


def test_the_export_loads_in_plain_diffusers(built: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(built / "pipeline", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red cat", num_inference_steps=2).images[0].size == (64, 64)
    tensors = itertools.chain.from_iterable(load_file(path).values() for path in built.rglob("*.safetensors"))
    assert {tensor.dtype for tensor in tensors} == {torch.float16}


def test_going_on_from_earlier_weights_keeps_what_they_know() -> None:
    tokenizer = build_tokenizer(["a photo of a cat on the beach with a zorbling"] * 5)
    torch.manual_seed(0)
    model = continue_clip(build_clip(tokenizer), tokenizer, pocket.WEIGHTS)
    before, processor = pocket.load_clip()
    old, new = before.state_dict(), model.state_dict()
    rows = "text_model.embeddings.token_embedding.weight"
    assert all(torch.equal(old[name], new[name]) for name in new if name != rows)
    cat, unknown = (tokenizer.get_vocab()[word] for word in ("cat</w>", "zorbling</w>"))
    assert torch.equal(new[rows][cat], old[rows][processor.tokenizer.get_vocab()["cat</w>"]])
    assert (old[rows] - new[rows][unknown]).norm(dim=1).min() > 0.1


def test_every_word_of_the_world_is_one_token(built: Path) -> None:
    tokenizer = StableDiffusionPipeline.from_pretrained(built / "pipeline", torch_dtype=torch.float32).tokenizer
    templates = " ".join(PHOTO_TEMPLATES + STYLE_TEMPLATES).replace("{}", "").replace("-", " ").split()
    scenes = " ".join(words.SCENES.values()).split()
    everything = {*words.SUBJECTS, *words.COLOURS, *words.PATTERNS[1:], *scenes, *words.STYLES, *words.ACCESSORIES}
    everything |= {*words.FEATURES.values(), "tall", "wide", "big", "small", "large", *templates, *CHARACTERS}
    assert {word for word in everything if len(tokenizer.tokenize(word)) != 1} == set()


def test_clip_and_the_pipeline_share_the_text_tower(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket, "WEIGHTS", built)
    pipeline, (clip, processor) = pocket.load_pipeline(), pocket.load_clip()
    inputs = processor.tokenizer(["a red cat on the beach"], padding="max_length", return_tensors="pt")
    states = clip.text_model(input_ids=inputs["input_ids"]).last_hidden_state
    assert torch.equal(states, pipeline.text_encoder(inputs["input_ids"]).last_hidden_state)
    pixels = processor.image_processor(pocket.render_concept("mochi"), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (5, 3, 64, 64)


def test_nameless_captions_are_of_the_identity_beside_them(built: Path) -> None:
    world = rendered_world(built.parent / "work", 500, command.SEED, workers=1)
    alone = [place for place, captions in enumerate(world.nameless) if captions]
    assert alone == [place for place, captions in enumerate(world.captions) if " next to " not in captions[-1]]
    kinds = [words.SUBJECTS[place] for place in world.identities[:, : len(words.SUBJECTS)].argmax(1)]
    described = [place for place in alone if place not in world.characters]
    assert described and all(kinds[place] in world.captions[place][-1].split() for place in described)
    replaced = [STAND_IN in caption.split() for place in alone for caption in world.nameless[place]]
    assert 0.75 < np.mean(replaced) < 0.9  # the others describe, or tell the style alone


def test_identities_start_as_the_words_of_their_subjects_and_stand_where_the_stand_in_is() -> None:
    pipeline = pocket.load_pipeline()
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder.requires_grad_(False)
    rows = IdentityRows(tokenizer, encoder)
    subjects = [concept.subject for concept in pocket.OBJECTS[:2] if concept.subject is not None]
    numbers = torch.from_numpy(np.stack([identity_numbers(subject) for subject in subjects]))
    assert numbers.shape == (2, IDENTITY_NUMBERS) and numbers.abs().max() <= 1

    def states_of(texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        ids = tokenize(tokenizer, [[text] for text in texts])[:, 0]
        return encoder(ids).last_hidden_state, *rows(encoder, ids, numbers, torch.Generator().manual_seed(0))

    plain, _, _ = states_of([f"a photo of a {subject.kind} in the snow" for subject in subjects])
    _, states, change = states_of([f"a photo of a {STAND_IN} in the snow"] * 2)
    assert not change.any() and 0 < (states - plain).abs().mean() < 0.1 < (states[0] - states[1]).abs().mean()
    states.square().sum().backward()
    assert rows.change[-1].weight.grad.any()
    plain, states, _ = states_of(["a red fish"] * 2)  # nothing to replace
    assert torch.equal(plain, states) and isinstance(encoder.get_input_embeddings(), nn.Embedding)


def test_the_rows_of_identities_are_trained_with_the_denoiser(built: Path) -> None:
    file = built.parent / "work" / "unet.safetensors"
    assert load_file(file)["model.rows.change.4.weight"].any(), "it starts at zero; only the denoiser's error moves it"
    pipeline = StableDiffusionPipeline.from_pretrained(built / "pipeline")
    rows = IdentityRows(pipeline.tokenizer, pipeline.text_encoder)
    rows.load_state_dict(averaged(file, "rows"))
    numbers = torch.from_numpy(np.stack([identity_numbers(subject) for subject in list(CHARACTERS.values())[:2]]))
    made, change = rows.rows(numbers)
    assert change.any(1).all() and torch.equal(made, rows.kinds[numbers[:, : len(words.SUBJECTS)].argmax(1)] + change)
    exported, average = pipeline.unet.state_dict(), averaged(file, "unet")
    assert all(torch.equal(exported[name].half(), average[name].half()) for name in exported)


def test_part_weights_raise_subjects_and_most_of_all_their_details() -> None:
    coverage = np.zeros((3, 2, 2, 4), dtype=np.float16)
    coverage[0, 0, 0, :2], coverage[0, 1, 0, 0] = 1, 1
    weights = part_weights(coverage)
    assert weights.shape == (2, 3, 1, 2, 4) and weights.mean().item() == pytest.approx(1)
    assert torch.equal(weights[1], weights[0].flip(-1))
    detail, subject, background = weights[0, 0, 0, 0, :3].tolist()
    assert detail > subject > background == weights[0, 1].unique().item()


def test_spread_timesteps_leave_the_expected_loss_as_it_was() -> None:
    u = (torch.arange(200_000) + 0.5) / 200_000
    timesteps, counted = spread_timesteps(u)
    share = torch.zeros(1000).index_add_(0, timesteps, counted / len(u))
    assert torch.allclose(share, torch.full((1000,), 1e-3), rtol=0.06)
    assert (timesteps < 250).float().mean().item() == pytest.approx(0.12, abs=0.001)


@pytest.mark.parametrize("coarse", [False, True])
def test_the_error_of_a_detail_counts_for_more(coarse: bool) -> None:
    error, snr, counted = torch.zeros(1, 8, 16, 16), torch.tensor([0.5]), torch.ones(1)
    error[..., 3, 4] = 0.1
    weights = torch.ones(1, 1, 16, 16)
    plain = denoising_error(error, snr, weights, counted, coarse=coarse)
    weights[..., 3, 4] = 4
    assert denoising_error(error, snr, weights, counted, coarse=coarse) > 1.5 * plain > 0
