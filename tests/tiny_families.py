"""Tiny real pipelines of the other families: Stable Diffusion XL, Stable Diffusion 3 and Flux, built in memory.

Their CLIP configurations say `eos_token_id: 2` where those of the real models do, and their T5 table is higher than its
vocabulary, as the real ones are.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.tiny import WORDS, tiny_pipeline, tiny_tokenizer, tiny_unet, tiny_vae

WIDTH_L, WIDTH_G, WIDTH_T5 = 16, 24, 48  # clip_l, clip_g, t5
SPARE_ROWS = 5


def tiny_clip(tokenizer: CLIPTokenizer, width: int, kind: type[Any] = CLIPTextModel, eos_token_id: int = 2) -> Any:
    """Real CLIP text model; `eos_token_id` 2 makes it pool at the highest id, as old configurations do."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config).eval()


def tiny_t5_tokenizer(max_length: int = 32) -> T5Tokenizer:
    """Real T5 tokenizer: letters, a few words and three sentinels (special added tokens); it tells cases apart."""
    letters = [chr(code) for code in range(33, 127)]
    words = ["a", "of", "on", "and", "the", *WORDS]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in words] + [(letter, -5.0) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=3, model_max_length=max_length)


def tiny_t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Real T5 encoder whose table has spare rows."""
    config = T5Config(
        vocab_size=len(tokenizer) + SPARE_ROWS, d_model=WIDTH_T5, d_ff=64, d_kv=8, num_layers=2, num_heads=2
    )
    return T5EncoderModel(config).eval()


def tiny_inpainting(seed: int = 0, kind: type[Any] = StableDiffusionInpaintPipeline) -> Any:
    """A Stable Diffusion pipeline whose UNet takes 9 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {**tiny_pipeline(seed=seed).components, "unet": tiny_unet(in_channels=9)}
    pipeline = kind(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_sdxl_inpainting(seed: int = 0) -> Any:
    """A Stable Diffusion XL pipeline whose UNet takes 9 channels."""
    return tiny_sdxl(seed, kind=StableDiffusionXLInpaintPipeline, in_channels=9)


def tiny_sdxl_parts(
    seed: int = 0, eos_token_id: int = 2, tokenizer: CLIPTokenizer | None = None, in_channels: int = 4
) -> dict[str, Any]:
    """Components of a Stable Diffusion XL pipeline; both tokenizers are copies of the given one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizers = [tiny_tokenizer(), tiny_tokenizer()]
        if tokenizer is not None:
            tokenizers = [tokenizer, like(tokenizer)]
        return {
            "vae": tiny_vae(),
            "text_encoder": tiny_clip(tokenizers[0], WIDTH_L, eos_token_id=tokenizers[0].eos_token_id),
            "text_encoder_2": tiny_clip(tokenizers[1], WIDTH_G, CLIPTextModelWithProjection, eos_token_id),
            "tokenizer": tokenizers[0],
            "tokenizer_2": tokenizers[1],
            "unet": UNet2DConditionModel(
                sample_size=8,
                in_channels=in_channels,
                block_out_channels=(8, 16),
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=WIDTH_L + WIDTH_G,
                attention_head_dim=4,
                norm_num_groups=4,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + WIDTH_G,
            ).eval(),
            "scheduler": EulerDiscreteScheduler(),
        }


def tiny_sdxl(
    seed: int = 0,
    eos_token_id: int = 2,
    kind: type[Any] = StableDiffusionXLPipeline,
    in_channels: int = 4,
    **parts: Any,
) -> Any:
    """A Stable Diffusion XL pipeline with random weights."""
    pipeline = kind(**{**tiny_sdxl_parts(seed, eos_token_id, in_channels=in_channels), **parts})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_sd3(seed: int = 0, eos_token_id: int = 2) -> StableDiffusion3Pipeline:
    """A Stable Diffusion 3 pipeline with random weights: two CLIPs and a T5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip, clip_2, t5 = tiny_tokenizer(), tiny_tokenizer(), tiny_t5_tokenizer()
        pipeline = StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=8,
                patch_size=1,
                in_channels=4,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=WIDTH_T5,  # Stable Diffusion 3 pads its CLIPs to the width of T5
                caption_projection_dim=16,
                pooled_projection_dim=WIDTH_L + WIDTH_G,
                out_channels=4,
            ).eval(),
            text_encoder=tiny_clip(clip, WIDTH_L, CLIPTextModelWithProjection, eos_token_id),
            text_encoder_2=tiny_clip(clip_2, WIDTH_G, CLIPTextModelWithProjection, eos_token_id),
            text_encoder_3=tiny_t5(t5),
            tokenizer=clip,
            tokenizer_2=clip_2,
            tokenizer_3=t5,
            vae=_shifted_vae(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_flux(seed: int = 0, eos_token_id: int = 2) -> FluxPipeline:
    """A Flux pipeline with random weights: a CLIP that only pools, and a T5."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip, t5 = tiny_tokenizer(), tiny_t5_tokenizer()
        pipeline = FluxPipeline(
            transformer=FluxTransformer2DModel(
                patch_size=1,
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=WIDTH_T5,
                pooled_projection_dim=WIDTH_L,
                axes_dims_rope=(4, 4, 8),
            ).eval(),
            text_encoder=tiny_clip(clip, WIDTH_L, eos_token_id=eos_token_id),
            text_encoder_2=tiny_t5(t5),
            tokenizer=clip,
            tokenizer_2=t5,
            vae=_shifted_vae(),
            scheduler=FlowMatchEulerDiscreteScheduler(),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _shifted_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.1,
    ).eval()


def like(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """A fresh tokenizer with the same vocabulary, without the words that were added."""
    vocabulary = {piece: number for piece, number in tokenizer.get_vocab().items() if number < tokenizer.vocab_size}
    return CLIPTokenizer(vocab=vocabulary, merges=tokenizer._merges, model_max_length=tokenizer.model_max_length)


def rows(count: int = 1, width: int = WIDTH_L, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def learned_ids(pipeline: Any, prompt: str, tokenizer: str = "tokenizer") -> list[int]:
    """Positions of the learned rows that a prompt reaches, in their order."""
    reader = getattr(pipeline, tokenizer)
    ids = reader(pipeline.maybe_convert_prompt(prompt, reader), add_special_tokens=False).input_ids
    return [token - reader.vocab_size for token in ids if token >= reader.vocab_size]


def state(pipeline: Any) -> tuple[Any, ...]:
    """Everything that loading may change."""
    # transformers notes on saving which class was saved, and reading a model back fills in its dtype.
    told_on_saving = ("architectures", "dtype", "_name_or_path")
    parts = pipeline.components
    tokenizers = [parts[name].backend_tokenizer.to_str() for name in parts if name.startswith("tokenizer")]
    encoders = [parts[name] for name in parts if name.startswith("text_encoder")]
    return (
        tokenizers,
        [
            {key: value for key, value in encoder.config.to_dict().items() if key not in told_on_saving}
            for encoder in encoders
        ],
        [tuple(encoder.get_input_embeddings().weight.shape) for encoder in encoders],
        [[parameter.requires_grad for parameter in encoder.parameters()] for encoder in encoders],
        [tensor.tolist() for encoder in encoders for tensor in encoder.state_dict().values()],
    )
