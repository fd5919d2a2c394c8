"""A LoRA beside the word: plain diffusers repeats what was trained, and the settings mean what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from tests.pivotal_runs import PIPELINES, Seen, everything, load_plainly, plain_answers, rows_of, trained
from tests.runs import train_flags
from tests.tiny import tiny_images, tiny_pipeline
from textual_inversion_ext import ConceptSpec, ConfigError, ModelError, TextualInversionConfig, TextualInversionTrainer
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.errors import EmbeddingFileError
from textual_inversion_ext.pipelines.lora import LORA_FILE, load_loras, lora_beside

# How the two can be trained: every way of the settings.
WAYS: dict[str, dict[str, Any]] = {
    "together": {"lora_rank": 2},
    "after, the word frozen": {"lora_rank": 2, "lora_start": 0.5, "continue_inversion_lr": 0.0},
    "after, the word goes on slowly": {"lora_rank": 2, "lora_start": 2.0, "continue_inversion_lr": 1e-3},
    "the word first stops": {"lora_rank": 2, "train_text_encoder_ti_frac": 0.5},
    "text encoders too": {"lora_rank": 2, "lora_text_encoder_rank": 4},
    "text encoders only": {"lora_text_encoder_rank": 2},
    "alpha and more layers": {"lora_rank": 4, "lora_alpha": 8.0, "lora_layers": "to_q, ff.net.0.proj,time_emb_proj"},
}


CASES = [("sd", way) for way in WAYS] + [("sdxl", way) for way in ("together", "after, the word frozen")]


@pytest.mark.parametrize(("kind", "way"), [*CASES, ("sdxl", "text encoders too")])
def test_plain_diffusers_repeats_what_was_trained_bit_for_bit(kind: str, way: str, tmp_path: Path) -> None:
    seen = Seen()
    trained(tmp_path, PIPELINES[kind](), (seen,), **WAYS[way], max_train_steps=4)
    loaded = plain_answers(load_plainly(PIPELINES[kind](), tmp_path))
    assert all(torch.equal(one, other) for one, other in zip(loaded, seen.answers, strict=True))
    untrained = plain_answers(PIPELINES[kind]())
    change = (loaded[-1] - untrained[-1])[1].abs().max()  # of the prompt without the word
    assert change > 1e-3, "the LoRA does something"


def test_an_alpha_that_is_no_power_of_two_is_repeated_to_rounding(tmp_path: Path) -> None:
    seen = Seen()
    trained(tmp_path, callbacks=(seen,), lora_rank=2, lora_alpha=3.3)
    for one, other in zip(plain_answers(load_plainly(tiny_pipeline(), tmp_path)), seen.answers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_rows_and_lora_move_in_their_phases(tmp_path: Path) -> None:
    def moved(**settings: Any) -> list[bool]:
        seen = Seen()
        trained(tmp_path / str(len(list(tmp_path.iterdir()))), callbacks=(seen,), lora_rank=2, **settings)
        return [not torch.equal(one, other) for one, other in zip(seen.rows, seen.rows[1:], strict=False)]

    assert moved() == [True] * 5
    assert moved(lora_start=0.5, continue_inversion_lr=0.0) == [True, True, False, False, False]
    assert moved(lora_start=4.0, continue_inversion_lr=1e-4) == [True] * 5
    assert moved(train_text_encoder_ti_frac=0.34) == [True, False, False, False, False]


def test_a_word_that_is_learned_already_gets_a_lora(tmp_path: Path) -> None:
    trained(tmp_path / "word")
    word = str(tmp_path / "word" / "learned_embeds.safetensors")
    trained(tmp_path / "both", initializer=word, lora_rank=2, continue_inversion_lr=0.0)
    assert rows_of(tmp_path / "both").equal(rows_of(tmp_path / "word"))
    assert all(tensor.abs().sum() > 0 for tensor in load_file(tmp_path / "both" / LORA_FILE).values())


def test_until_it_starts_the_lora_changes_nothing(tmp_path: Path) -> None:
    alone, before = Seen(), Seen()
    trained(tmp_path / "alone", callbacks=(alone,))
    trained(tmp_path / "after", callbacks=(before,), lora_rank=2, lora_start=0.5)
    assert all(torch.equal(alone.rows[step], before.rows[step]) for step in range(4))  # the 4th is the first with LoRA
    assert not torch.equal(alone.rows[-1], before.rows[-1])


def test_a_slower_word_moves_less(tmp_path: Path) -> None:
    steps = {}
    for rate in (5e-3, 5e-4):
        seen = Seen()
        trained(tmp_path / str(rate), callbacks=(seen,), lora_rank=2, lora_start=0.5, continue_inversion_lr=rate)
        steps[rate] = seen.rows[3] - seen.rows[2]
    torch.testing.assert_close(steps[5e-3], 10 * steps[5e-4], rtol=1e-2, atol=1e-5)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    trained(tmp_path, lora_rank=4, lora_text_encoder_rank=2, save_steps=3)
    with safe_open(tmp_path / LORA_FILE, "pt") as file:
        metadata, names = file.metadata(), list(file.keys())
    assert metadata["token"] == "<tok>" and metadata["steps"] == "6" and metadata["family"] == "stable-diffusion"
    assert json.loads(metadata["recipe"])["lora_rank"] == 4
    adapter = json.loads(metadata["lora_adapter_metadata"])
    assert adapter["unet.r"] == adapter["unet.lora_alpha"] == 4 and adapter["text_encoder.r"] == 2
    assert {name.split(".")[0] for name in names} == {"unet", "text_encoder"}
    # The names of diffusers' scripts, which other tools and older versions know.
    assert all(".lora.down." in name or ".lora.up." in name for name in names if name.startswith("unet"))
    assert all(name.startswith("text_encoder.text_model.encoder") for name in names if name.startswith("text_enc"))
    snapshot = tmp_path / "pytorch_lora_weights-steps-3.safetensors"
    assert lora_beside(tmp_path / "learned_embeds-steps-3.safetensors") == snapshot
    assert lora_beside(tmp_path) == lora_beside(tmp_path / "learned_embeds.safetensors") == tmp_path / LORA_FILE
    assert lora_beside(tmp_path / "tok.safetensors") is None
    with safe_open(snapshot, "pt") as file:
        assert file.metadata()["steps"] == "3"


def test_a_new_run_replaces_the_lora_of_the_old_one(tmp_path: Path) -> None:
    trained(tmp_path, lora_rank=2, save_steps=3)
    trained(tmp_path, overwrite_output_dir=True)
    assert not list(tmp_path.glob("pytorch_lora*"))


def test_the_whole_pipeline_has_the_lora_in_its_weights(tmp_path: Path) -> None:
    seen = Seen()
    pipeline = tiny_pipeline()
    before = everything(pipeline)
    trained(tmp_path, pipeline, (seen,), lora_rank=2, lora_text_encoder_rank=2, save_as_full_pipeline=True)
    assert all(torch.equal(everything(pipeline)["unet"][0][key], value) for key, value in before["unet"][0].items())
    whole = type(pipeline).from_pretrained(tmp_path)
    assert not hasattr(whole.unet, "peft_config")
    for one, other in zip(plain_answers(whole), seen.answers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_generate_uses_the_lora_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lora = {"lora_rank": 2, "lora_learning_rate": 0.1, "eval_steps": 0}
    assert main(train_flags(tmp_path, **lora)) == 0

    def pictures(name: str, *flags: str) -> list[bytes]:
        out = tmp_path / name
        command = ["generate", "--concept", str(tmp_path / "out"), "--prompt", "a <tok>", "--seed", "0", *flags]
        assert main([*command, "--num_inference_steps", "3", "--output_dir", str(out)]) == 0
        return [Image.open(file).convert("RGB").tobytes() for file in sorted(out.glob("prompt-*.png"))]

    with_lora = pictures("with")
    assert "pytorch_lora_weights.safetensors" in caplog.text
    without, half = pictures("without", "--lora_scale", "0"), pictures("half", "--lora_scale", "0.5")
    assert with_lora != without and half not in (with_lora, without)
    (tmp_path / "out" / LORA_FILE).rename(tmp_path / LORA_FILE)
    assert pictures("gone") == without


def test_inspect_takes_the_lora_for_no_embedding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, lora_rank=2)
    assert main(["inspect", str(tmp_path)]) == 0
    shown = "".join(capsys.readouterr())
    assert "learned_embeds.safetensors" in shown and "pytorch_lora" not in shown


def test_loras_of_two_words_act_together(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        trained(tmp_path / name, lora_rank=2, seed=seed)
    files = [tmp_path / name / LORA_FILE for name in "ab"]
    singles = [plain_answers(loaded_pipeline([file]))[-1] for file in files]
    both = plain_answers(loaded_pipeline(files))[-1]
    assert all(not torch.allclose(both, single, atol=1e-4) for single in singles)


def loaded_pipeline(files: list[Path]) -> Any:
    pipeline = tiny_pipeline()
    load_loras(pipeline, files)
    return pipeline


def test_a_lora_of_another_model_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, PIPELINES["sdxl"](), lora_rank=2)
    with pytest.raises(EmbeddingFileError, match="lora_scale 0"):
        load_loras(tiny_pipeline(), [tmp_path / LORA_FILE])
    (tmp_path / LORA_FILE).write_bytes(b"nothing")
    with pytest.raises(EmbeddingFileError, match="cannot load the LoRA"):
        load_loras(tiny_pipeline(), [tmp_path / LORA_FILE])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lora_rank": 2, "lora_start": 6.0}, "never train"),
        ({"lora_rank": 2, "lora_start": 0.6, "train_text_encoder_ti_frac": 0.2}, "nothing would train in between"),
        ({"lora_rank": 2, "lora_layers": "to_x"}, r"'to_x' names no layer of the unet.*to_k"),
        ({"lora_rank": 2, "lora_layers": "conv_in"}, "'conv_in' names Conv2d"),
        ({"lora_rank": 2, "lora_layers": "to_k,"}, "names no layer"),
        ({"lora_rank": 2, "keep": "best", "eval_steps": 2}, "keep"),
        ({"lora_rank": 2, "ema_decay": 0.9}, "ema_decay"),
        ({"lora_rank": 2, "lora_start": 0.5, "stopping": "plateau", "eval_steps": 2}, "lora_start"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        trained(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_several_concepts_are_refused(tmp_path: Path) -> None:
    concepts = [ConceptSpec(f"<{name}>", tiny_images(2), "cat") for name in ("one", "two")]
    with pytest.raises(ConfigError, match="2 concepts"):
        TextualInversionTrainer(TextualInversionConfig(output_dir=tmp_path, lora_rank=1), concepts)


def test_a_pipeline_with_a_lora_of_its_own_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "first", lora_rank=2)
    pipeline = loaded_pipeline([tmp_path / "first" / LORA_FILE])
    with pytest.raises(ModelError, match="unload"):
        trained(tmp_path / "second", pipeline, lora_rank=2)
    assert pipeline.get_active_adapters() == ["learned_0"]
