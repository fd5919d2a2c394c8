"""Words of single pictures: each learns from its own picture alone, and is saved only where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

from tests.invariants.test_resume import Stop, StopAfter
from tests.tiny import TinyRun, tiny_images, tiny_pipeline, tiny_run
from textual_inversion_ext import ConceptSpec, TextualInversionConfig, TextualInversionTrainer
from textual_inversion_ext.cli.generate import concept_files
from textual_inversion_ext.files import load_concept
from textual_inversion_ext.tokens import word_ids
from textual_inversion_ext.training.evaluations import Evaluations
from textual_inversion_ext.training.image_words import NEUTRAL_WORDS, neutral_row

A = ConceptSpec("<a>", tiny_images(3), "dog", num_vectors=2)
B = ConceptSpec("<b>", tiny_images(2, seed=1), "clock")


def run_of(*specs: ConceptSpec, **settings: Any) -> TinyRun:
    batch_size = settings.pop("batch_size", 2)
    config = TextualInversionConfig(per_image_tokens=True, max_train_steps=8, **settings)
    return tiny_run(list(specs), config=config, batch_size=batch_size)


def test_a_row_for_each_picture_behind_those_of_its_concept() -> None:
    run = run_of(A, B)
    assert run.plan.rows == (range(0, 2), range(5, 6)) and run.plan.image_rows == (range(2, 5), range(6, 8))
    assert run.plan.row_concept.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    (slot,) = run.adapter.slots
    neutral = neutral_row(slot, "photo")  # the first neutral word that the tiny tokenizer has as one token
    assert "photo" in NEUTRAL_WORDS and all(torch.equal(run.rows[row], neutral) for row in (2, 3, 4, 6, 7))


def test_neutral_words_are_words_of_clip(clip_tokenizer: CLIPTokenizer) -> None:
    assert all(len(word_ids(clip_tokenizer, word)) == 1 for word in NEUTRAL_WORDS)


def test_a_picture_is_shown_with_its_own_word_only() -> None:
    run = run_of(A, batch_size=600)
    (slot,) = run.adapter.slots
    (draws,) = run.draws.draw((0,), (0,))
    learned = run.resident.gather(draws).ids["clip_l"] - slot.first_id
    with_picture = 0
    for image, ids in zip(draws.image.tolist(), learned.tolist(), strict=True):
        rows = [row for row in ids if row >= 0]
        assert rows in ([0, 1], [0, 1, 2 + image])
        with_picture += len(rows) == 3
    assert 0.2 < with_picture / 600 < 0.3


def test_rows_of_pictures_learn_and_those_of_other_concepts_stay() -> None:
    run = run_of(A, B, per_image_share=1.0)
    before = run.rows
    run.steps(4, concepts=(0,))
    assert (run.rows[:5] != before[:5]).any(dim=1).all() and torch.equal(run.rows[5:], before[5:])
    assert run.step.age.tolist() == [4, 4, 4, 4, 4, 0, 0, 0]


def test_together_is_alone() -> None:
    runs = run_of(A, B), run_of(A), run_of(B)
    for run in runs:
        run.steps(5)
    together, a, b = (run.rows for run in runs)
    torch.testing.assert_close(together, torch.cat([a, b]), rtol=1e-4, atol=1e-5)


def trainer(out: Path, *watchers: Any, **settings: Any) -> TextualInversionTrainer:
    defaults = {"max_train_steps": 6, "train_batch_size": 2, "checkpointing_steps": 2, "per_image_tokens": True}
    config = TextualInversionConfig(**{"output_dir": str(out), **defaults, **settings})
    return TextualInversionTrainer(config, [A, B], pipeline=tiny_pipeline(), callbacks=watchers)


def all_words(out: Path) -> dict[str, list[list[float]]]:
    return {concept.token: concept.vectors["clip_l"].tolist() for concept in saved(out)}


def saved(out: Path) -> list[Any]:
    return [load_concept(file.parent) for file in sorted(out.rglob("learned_embeds.safetensors"))]


def test_to_keep_them_without_learning_any_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path, per_image_tokens=False, keep_per_image_tokens=True).train()
    assert sorted(all_words(tmp_path)) == ["<a>", "<b>"]
    assert "without words of single pictures there is no effect of keep_per_image_tokens" in caplog.text


def test_they_are_dropped_unless_asked_for(tmp_path: Path) -> None:
    kept, dropped = tmp_path / "kept", tmp_path / "dropped"
    trainer(kept, keep_per_image_tokens=True).train()
    trainer(dropped).train()
    assert sorted(all_words(dropped)) == ["<a>", "<b>"]
    assert sorted(all_words(kept)) == ["<a-1>", "<a-2>", "<a-3>", "<a>", "<b-1>", "<b-2>", "<b>"]
    assert all(all_words(kept)[token] == rows for token, rows in all_words(dropped).items())
    word = load_concept(kept / "a" / "per_image" / "a-2")
    assert word.num_vectors == 1 and word.metadata["picture"] and word.metadata["steps"] == "6"
    trainer(kept, overwrite_output_dir=True).train()
    assert sorted(all_words(kept)) == ["<a>", "<b>"], "words of an older run are gone"


def test_they_load_in_plain_diffusers_and_in_generate(tmp_path: Path) -> None:
    trainer(tmp_path, keep_per_image_tokens=True).train()
    home = tmp_path / "a" / "per_image"
    names = [load_concept(file).token for file in concept_files(home)]
    assert names == ["<a-1>", "<a-2>", "<a-3>"]
    pipeline = tiny_pipeline()
    pipeline.load_textual_inversion(str(tmp_path / "a"))
    pipeline.load_textual_inversion(str(home / "a-2"))
    table = pipeline.text_encoder.get_input_embeddings().weight
    loaded = table[pipeline.tokenizer.convert_tokens_to_ids("<a-2>")]
    assert torch.equal(loaded, load_concept(home / "a-2").vectors["clip_l"][0])
    assert pipeline("a photo of <a> with <a-2>", num_inference_steps=1, output_type="np").images.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("last_step", [3, 4])
def test_resumed_is_uninterrupted(last_step: int, tmp_path: Path) -> None:
    settings = {"keep_per_image_tokens": True, "captions": "templates", "crop": "random", "flip_p": 0.5}
    trainer(tmp_path / "whole", **settings).train()
    with pytest.raises(Stop):
        trainer(tmp_path / "out", StopAfter(last_step), **settings).train()
    trainer(tmp_path / "out", resume_from_checkpoint="latest", **settings).train()
    assert all_words(tmp_path / "out") == all_words(tmp_path / "whole")


def test_with_the_best_rows_kept_words_are_of_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lowest_at_3(self: Evaluations, due: Sequence[int]) -> list[float]:
        return [abs(self.progress.done[place] - 3.0) for place in due]

    monkeypatch.setattr(Evaluations, "_evaluate", lowest_at_3)
    settings: dict[str, Any] = {"keep_per_image_tokens": True, "eval_steps": 1, "save_steps": 1, "per_image_share": 1.0}
    trainer(tmp_path / "best", keep="best", **settings).train()
    trainer(tmp_path / "last", **settings).train()
    for token in ("a", "b"):
        best, last = tmp_path / "best" / token, tmp_path / "last" / token
        assert load_concept(best).metadata["steps"] == "3" and load_concept(last).metadata["steps"] == "6"
        snapshot = load_concept(best / "learned_embeds-steps-3.safetensors")
        assert torch.equal(load_concept(best).vectors["clip_l"], snapshot.vectors["clip_l"])
        words = sorted((best / "per_image").iterdir())
        assert words and {load_concept(word).metadata["steps"] for word in words} == {"3"}
        # Every picture was seen between the third step and the last one, so every word moved on.
        assert not any(torch.equal(load_concept(word).vectors["clip_l"], saved_at(last, word.name)) for word in words)


def saved_at(home: Path, name: str) -> torch.Tensor:
    return load_concept(home / "per_image" / name).vectors["clip_l"]
