"""A text encoder's table of input embeddings: read it, put another in its place.

The parameter stays the same object: tied weights stay tied, `requires_grad`, dtype, device and offload hooks stay as
they are. (transformers' `resize_token_embeddings` draws random rows first and cuts off the spare rows of a T5.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from torch import Tensor, nn
from transformers import PreTrainedModel

from textual_inversion_ext.errors import ModelError


def table_of(text_encoder: PreTrainedModel) -> Tensor:
    """The rows of the input embedding, also where accelerate has put them away.

    Args:
        text_encoder: A text encoder.

    Returns:
        (height, D), not a copy.
    """
    with _tables_at_hand(text_encoder) as tables:
        return tables[0].weight.data


def mean_norm(text_encoder: PreTrainedModel, height: int) -> float:
    """How long the vectors of a vocabulary are: the mean norm of its rows that are not zero.

    Args:
        text_encoder: A text encoder.
        height: Size of the vocabulary; rows behind it (spare ones, learned ones) do not count.

    Returns:
        The norm, computed in float32.

    Source:
        Kim et al. 2026, "Directional Textual Inversion", released code (``token_scale mean``).
    """
    norms = torch.linalg.vector_norm(table_of(text_encoder)[:height], dim=1, dtype=torch.float32)
    return float(norms.sum() / (norms > 0).sum().clamp(min=1))


def rewrite_table(text_encoder: PreTrainedModel, change: Callable[[Tensor], Tensor]) -> None:
    """Replace the table of input embeddings, and the height that the model's configuration tells.

    Args:
        text_encoder: A text encoder.
        change: Gives the new table, (new height, D), for the old one, which it leaves alone.
    """
    with _tables_at_hand(text_encoder) as tables:
        old = tables[0].weight.data
        new = change(old)
        for table in tables:
            table.weight.data = new
            table.num_embeddings = len(new)
    config: Any = text_encoder.config.get_text_config()
    config.vocab_size += len(new) - len(old)
    if hasattr(text_encoder, "vocab_size"):  # an attribute that transformers sets when it resizes
        text_encoder.vocab_size = config.vocab_size


@contextmanager
def _tables_at_hand(text_encoder: PreTrainedModel) -> Iterator[list[nn.Embedding]]:
    """The input embedding and the modules tied to it, with their weights where they can be read and replaced.

    Args:
        text_encoder: A text encoder, with or without accelerate's offloading.

    Yields:
        The modules; the input embedding comes first.

    Raises:
        ModelError: diffusers' group offloading holds copies of the weights, which would overwrite a new table.
    """
    main = text_encoder.get_input_embeddings()
    if any(_is_group_offloaded(module) for module in text_encoder.modules()):
        raise ModelError(
            f"{type(text_encoder).__name__} is under diffusers' group offloading, which keeps its own copies of the "
            "weights. Load and unload concepts before enable_group_offload()."
        )
    alike = [
        module
        for module in text_encoder.modules()
        if isinstance(module, nn.Embedding) and module is not main and module.weight.shape == main.weight.shape
    ]
    with ExitStack() as stack:
        for module in (main, *alike):
            stack.enter_context(_onloaded(module))
        yield [main, *(module for module in alike if module.weight.data_ptr() == main.weight.data_ptr())]


@contextmanager
def _onloaded(module: nn.Module) -> Iterator[None]:
    """Bring a module's weights back from accelerate's sequential offloading for a while."""
    hook = getattr(module, "_hf_hook", None)
    if not (isinstance(hook, AlignDevicesHook) and hook.offload):
        yield
        return
    remove_hook_from_module(module)
    try:
        yield
    finally:
        hook.weights_map = hook.tied_params_map = None  # it takes the weights from the module anew
        add_hook_to_module(module, hook)


def _is_group_offloaded(module: nn.Module) -> bool:
    registry = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook("group_offloading") is not None
