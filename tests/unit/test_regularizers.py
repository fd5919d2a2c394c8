"""Each regularizer's formula, against the same written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.tiny import TinyRun, tiny_images, tiny_pipeline, tiny_run
from textual_inversion_ext.concept import ConceptSpec, LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.prompts.context_prompts import CONTEXT_PROMPTS
from textual_inversion_ext.embedding_table import mean_norm
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.files import save_concept
from textual_inversion_ext.regularizers.context import PROMPTS_PER_STEP
from textual_inversion_ext.row_layout import prompt_encoders
from textual_inversion_ext.tokens import PromptEncoder, word_ids

CORGI = ConceptSpec("<corgi>", tiny_images(3), "dog", num_vectors=2)


def run_with(spec: ConceptSpec = CORGI, **weights: float) -> TinyRun:
    return tiny_run([spec], config=TextualInversionConfig(**weights))  # type: ignore[arg-type]


def penalty(run: TinyRun, rows: torch.Tensor, age: int = 0) -> float:
    assert run.step.penalties is not None
    with run.adapter.attached():
        return run.step.penalties({"clip_l": rows}, torch.tensor([0]), torch.tensor([age])).item()


def table_of(run: TinyRun) -> torch.Tensor:
    return run.adapter.slots[0].text_encoder.get_input_embeddings().weight.detach()


def word_row(run: TinyRun, word: str) -> torch.Tensor:
    (token,) = word_ids(run.adapter.slots[0].tokenizer, word)
    return table_of(run)[token]


def test_initial_l2() -> None:
    run = run_with(initial_l2_weight=3.0)
    change = torch.randn(2, 16)
    assert penalty(run, run.rows) == 0
    expected = 3 * sum(change[row].norm() ** 2 for row in range(2))
    assert penalty(run, run.rows + change) == pytest.approx(float(expected), rel=1e-5)


def test_initial_l2_has_no_cross_terms() -> None:
    """The released code's Gram matrix would give 0 for opposite differences."""
    run = run_with(initial_l2_weight=1.0)
    change = torch.randn(16)
    assert penalty(run, run.rows + torch.stack([change, -change])) == pytest.approx(
        2 * float(change @ change), rel=1e-5
    )


def test_initial_l2_remembers_where_a_resumed_run_started() -> None:
    first, second = run_with(initial_l2_weight=1.0), run_with(initial_l2_weight=1.0)
    assert second.step.penalties is not None
    second.step.penalties.get_buffer("initial_clip_l").zero_()
    second.step.load_state_dict(first.step.state_dict())
    assert penalty(second, first.rows) == 0


def test_mean_norm_leaves_rows_of_zeros_and_spare_rows_out() -> None:
    encoder = tiny_pipeline().text_encoder
    with torch.no_grad():
        table = encoder.get_input_embeddings().weight
        table[3] = 0
        table[-1] = 1e6
    height = len(table) - 1
    expected = torch.cat([table[:3], table[4:height]]).norm(dim=1).mean()
    assert mean_norm(encoder, height) == pytest.approx(expected.item(), rel=1e-5)


def test_norm_pull() -> None:
    run = run_with(norm_pull_weight=2.0)
    mean = table_of(run).norm(dim=1).mean()
    rows = torch.randn(2, 16)
    expected = 2 * sum((rows[row].norm() - mean) ** 2 for row in range(2))
    assert penalty(run, rows) == pytest.approx(float(expected), rel=1e-5)
    assert penalty(run, mean * rows / rows.norm(dim=1, keepdim=True)) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("class_name", [None, "cat"])
def test_anchor_is_the_released_code(class_name: str | None) -> None:
    """MSE of a prompt's input embeddings, with the word and with its class word in every place of it."""
    spec = ConceptSpec("<corgi>", tiny_images(3), "dog", num_vectors=2, class_name=class_name)
    run = run_with(spec, anchor_weight=19.0)
    slot = run.adapter.slots[0]
    rows = torch.randn(2, 16)
    extended = torch.cat([table_of(run), rows])
    word = class_name or "dog"
    ours = prompt_encoders(run.adapter.slots, [spec])["clip_l"].encode(["a photo of a <corgi> dog"])
    theirs = PromptEncoder(slot.tokenizer, {}).encode([f"a photo of a {word} {word} dog"])
    expected = 19 * F.mse_loss(F.embedding(ours, extended), F.embedding(theirs, extended))
    assert penalty(run, rows) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("age", [0, 7, 100])
def test_context_is_the_papers_equation_3(age: int) -> None:
    spec = ConceptSpec("<corgi>", tiny_images(3), "dog")
    run = run_with(spec, context_weight=1.0)
    slot = run.adapter.slots[0]
    ours = prompt_encoders(run.adapter.slots, [spec])["clip_l"]
    prompts = [text for text in CONTEXT_PROMPTS["object"] if len(ours.content_ids(text.format("<corgi>"))) + 2 <= 24]
    prompts = [prompts[place % len(prompts)] for place in range(max(map(len, CONTEXT_PROMPTS.values())))]
    rows = torch.randn(1, 16)
    distances = []
    for place in range(age * PROMPTS_PER_STEP, (age + 1) * PROMPTS_PER_STEP):
        text = prompts[place % len(prompts)]
        ids = ours.encode([text.format("<corgi>")])
        class_ids = PromptEncoder(slot.tokenizer, {}).encode([text.format("dog")])
        with torch.no_grad(), run.adapter.attached():
            actual = run.adapter.encode({"clip_l": ids}, {"clip_l": rows}).hidden_states[0]
            expected = run.adapter.encode({"clip_l": class_ids}, {"clip_l": rows}).hidden_states[0]
        own = ids[0].tolist().index(slot.first_id)
        terms = [1 - F.cosine_similarity(actual[i], expected[i], dim=0) for i in range(24) if i != own]
        distances.append(torch.stack(terms).mean())
    assert penalty(run, rows, age) == pytest.approx(torch.stack(distances).mean().item(), rel=1e-4)


def test_context_of_the_class_word_itself_costs_nothing() -> None:
    run = run_with(context_weight=1.0)
    assert penalty(run, word_row(run, "dog").repeat(2, 1)) == pytest.approx(0, abs=1e-6)
    assert penalty(run, word_row(run, "clock").repeat(2, 1)) > 1e-4


def test_context_prompts_have_one_place_for_the_word() -> None:
    for prompts in CONTEXT_PROMPTS.values():
        assert len(set(prompts)) == len(prompts) >= PROMPTS_PER_STEP
        assert all(prompt.count("{}") == 1 for prompt in prompts)


def test_a_file_says_no_class_word(tmp_path: object) -> None:
    file = f"{tmp_path}/word.safetensors"
    save_concept(LearnedConcept("<old>", {"clip_l": torch.randn(1, 16)}), file, "diffusers")
    spec = ConceptSpec("<corgi>", tiny_images(3), file)
    with pytest.raises(ConceptError, match=r"<corgi>.*starts from a file.*--class_name"):
        run_with(spec, anchor_weight=1.0)
    run_with(spec, initial_l2_weight=1.0)
    run_with(ConceptSpec("<corgi>", tiny_images(3), file, class_name="dog"), anchor_weight=1.0)


def test_a_bare_name_of_a_repository_is_no_class_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks like a word, and is one of the vocabulary here; only ``initialization`` says that it is none."""
    save_concept(
        LearnedConcept("<old>", {"clip_l": torch.randn(1, 16)}), tmp_path / "dog" / "learned_embeds.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    spec = ConceptSpec("<corgi>", tiny_images(3), "dog", initialization="file")
    with pytest.raises(ConceptError, match=r"<corgi>.*starts from a file.*--class_name"):
        run_with(spec, anchor_weight=1.0)
    run_with(ConceptSpec("<corgi>", tiny_images(3), "dog", class_name="cat", initialization="file"), anchor_weight=1.0)
    of_run = TextualInversionConfig(anchor_weight=1.0, initialization="file")
    with pytest.raises(ConceptError, match="starts from a file"):
        tiny_run([CORGI], config=of_run)


def test_a_word_that_fills_the_prompt_has_no_context() -> None:
    spec = ConceptSpec("<corgi>", tiny_images(3), "dog", num_vectors=22)
    with pytest.raises(ConceptError, match="22 vectors leave no room"):
        run_with(spec, context_weight=1.0)
