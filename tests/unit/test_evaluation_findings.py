"""What a report tells beside pictures: rows among the model's words, losses of a log, versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_pipeline
from textual_inversion_ext import __version__
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.evaluation.findings import losses_of, rows_beside_vocabulary, rows_hash
from textual_inversion_ext.versions import versions


def write_log(file: Path, losses: dict[int, float], token: str = "<a>") -> None:
    lines = [json.dumps({"step": step, "loss": {token: loss}}) for step, loss in losses.items()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_rows_stand_beside_the_words_of_their_encoder() -> None:
    pipeline = tiny_pipeline()
    table = pipeline.text_encoder.get_input_embeddings().weight.detach()
    lengths = table[: len(pipeline.tokenizer)].norm(dim=1)
    word = int(lengths.argmax())
    rows = torch.stack([3 * table[word], -table[word]])
    concept = LearnedConcept("<a>", {"clip_l": rows, "clip_g": torch.ones(2, 7)})
    (found,) = rows_beside_vocabulary(pipeline, concept, count=2)
    assert found.encoder == "clip_l"
    assert found.norms == pytest.approx((3 * lengths.max().item(), lengths.max().item()), abs=1e-3)
    assert found.vocabulary_norms[1] == pytest.approx(lengths.median().item(), rel=0.1)
    assert found.vocabulary_norms == tuple(sorted(found.vocabulary_norms))
    assert [len(words) for words in found.nearest] == [2, 2]
    assert found.nearest[0][0][1] == pytest.approx(1.0, abs=1e-4)
    name = pipeline.tokenizer.convert_ids_to_tokens([word])[0]
    assert found.nearest[0][0][0] == name.replace("</w>", "")


def test_losses_are_those_of_the_concept(tmp_path: Path) -> None:
    log = tmp_path / "steps.jsonl"
    write_log(log, {10: 0.5, 20: 0.25})
    with log.open("a", encoding="utf-8") as stream:
        stream.write('{"step": 30, "loss": {"<b>": 9.0}}\n[1]\n{"step": 40, "loss": {"<a>": NaN}}\n\n{"step": 50, "lo')
    assert losses_of(tmp_path, "<a>") == ((10, 0.5), (20, 0.25))
    # A run of several concepts keeps one log, above their folders.
    assert losses_of(tmp_path / "a", "<a>") == ((10, 0.5), (20, 0.25))
    assert losses_of(tmp_path, "<c>") == losses_of(None, "<a>") == losses_of(tmp_path / "no" / "where", "<a>") == ()


def test_a_long_log_is_thinned_to_means(tmp_path: Path) -> None:
    write_log(tmp_path / "steps.jsonl", {step: float(step) for step in range(1, 1001)})
    found = losses_of(tmp_path, "<a>")
    assert len(found) == 334
    assert found[0] == (3, 2.0) and found[-1] == (1000, 1000.0)


def test_a_hash_names_rows_and_nothing_else() -> None:
    rows = torch.randn(2, 4)
    assert rows_hash({"a": rows, "b": rows}) == rows_hash({"b": rows.clone(), "a": rows.t().contiguous().t()})
    others = [{"a": rows + 1e-6}, {"b": rows}, {"a": rows.reshape(4, 2)}, {"a": rows, "b": rows}]
    assert len({rows_hash(other) for other in [{"a": rows}, *others]}) == 5
    assert len(rows_hash({"a": rows})) == 16


def test_versions_are_those_installed() -> None:
    found = versions()
    assert found["textual-inversion-ext"] == __version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "unknown" not in found.values()
