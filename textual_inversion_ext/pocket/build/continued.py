"""Going on from the weights of an earlier build when the world has grown: new words, pictures of the same kind."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

_TOKENS = "text_model.embeddings.token_embedding.weight"


@torch.no_grad()
def continue_clip(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> CLIPModel:
    """Take over everything but the rows of words that the earlier build did not know.

    Args:
        model: From `clip.build_clip`, for the new vocabulary.
        tokenizer: The new tokenizer.
        folder: Weights of the earlier build, as the recipe exports them.

    Returns:
        The model; new words start at the old vocabulary's mean plus noise of its spread.
    """
    before, known = _clip_state(folder), _vocabulary(folder)
    state = model.state_dict()
    for name, tensor in state.items():
        if name != _TOKENS:
            tensor.copy_(before[name])
    old, new = before[_TOKENS], state[_TOKENS]
    new.copy_(old.mean(0) + old.std() * torch.randn(new.shape))
    for token, place in tokenizer.get_vocab().items():
        if token in known:
            new[place] = old[known[token]]
    return model


def earlier_vae(folder: Path) -> AutoencoderKL:
    """Load the earlier VAE, scaling factor included: the pictures are of the same kind.

    Args:
        folder: Weights of the earlier build.

    Returns:
        In float32, for evaluation.
    """
    return AutoencoderKL.from_pretrained(folder / "pipeline" / "vae").float().eval()


def earlier_unet(folder: Path) -> UNet2DConditionModel:
    """Load the earlier denoiser.

    Args:
        folder: Weights of the earlier build.

    Returns:
        In float32.
    """
    return UNet2DConditionModel.from_pretrained(folder / "pipeline" / "unet").float()


def _clip_state(folder: Path) -> dict[str, Tensor]:
    text = CLIPTextModel.from_pretrained(folder / "pipeline" / "text_encoder", dtype=torch.float32)
    state = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in text.state_dict().items()}
    return state | {name: tensor.float() for name, tensor in load_file(folder / "clip" / "vision.safetensors").items()}


def _vocabulary(folder: Path) -> dict[str, int]:
    return CLIPTokenizer.from_pretrained(folder / "pipeline" / "tokenizer").get_vocab()
