"""Learned rows against peft's TrainableTokens: the same encoding and the same gradient."""

from __future__ import annotations

import copy

import torch
from peft import TrainableTokensConfig, get_peft_model

from tests.tiny import tiny_pipeline
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.tokens import PromptEncoder

COUNT = 3


def test_same_forward_and_gradient() -> None:
    adapter = adapter_for(tiny_pipeline())
    (slot,) = adapter.slots
    rows = torch.randn(COUNT, slot.dim, generator=torch.Generator().manual_seed(0))
    learned_ids = [slot.first_id + row for row in range(COUNT)]
    encoder = PromptEncoder(slot.tokenizer, {"<a>": learned_ids[:2], "<b>": learned_ids[2:]})
    ids = encoder.encode(["a photo of a <a>", "<b> and <a>", "<b> <b>", "cat"])
    weights = torch.randn(*ids.shape, slot.dim, generator=torch.Generator().manual_seed(1))

    oracle = copy.deepcopy(slot.text_encoder)
    oracle.resize_token_embeddings(slot.first_id + COUNT, mean_resizing=False)
    with torch.no_grad():
        oracle.get_input_embeddings().weight[slot.first_id :] = rows
    config = TrainableTokensConfig(target_modules=["token_embedding"], token_indices=learned_ids)
    oracle = get_peft_model(oracle, config).eval()
    expected = oracle(ids)[0]
    (expected * weights).sum().backward()
    (trainable,) = [parameter for parameter in oracle.parameters() if parameter.requires_grad]

    leaf = rows.clone().requires_grad_()
    with adapter.attached():
        hidden_states = adapter.encode({slot.key: ids}, {slot.key: leaf}).hidden_states
        (hidden_states * weights).sum().backward()
    assert torch.equal(hidden_states, expected)
    torch.testing.assert_close(leaf.grad, trainable.grad, rtol=1e-6, atol=1e-6)
