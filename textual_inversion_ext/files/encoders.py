"""One tensor per text encoder, named by it: the community's layout for SDXL, and what newer models use.

kohya, invoke-training, ai-toolkit, OneTrainer and diffusers' advanced scripts write `clip_l` and `clip_g` for SDXL.
OneTrainer continues with `t5`, `llama`, `gemma`; ComfyUI looks for `t5xxl`.

Source: kohya-ss/sd-scripts `sdxl_train_textual_inversion.py`, comfyanonymous/ComfyUI `comfy/sd1_clip.py`
(`load_embed`), Nerogar/OneTrainer `modules/modelSaver/`.
"""

from __future__ import annotations

from ..concept import LearnedConcept
from ..errors import EmbeddingFileError
from .base import ENCODER_OF_KEY, Content, Format, Found, Part, in_order, single_token, without_outputs

__all__ = ["EncodersFormat"]

_KEYS = frozenset(ENCODER_OF_KEY) | {f"{key}_out" for key in ENCODER_OF_KEY}


class EncodersFormat(Format):
    """``{"clip_l": (n, 768), "clip_g": (n, 1280), "t5": (n, 4096), ...}``; the file's name is the trigger."""

    name = "encoders"
    description = (
        "one tensor per text encoder: clip_l, clip_g, t5 or t5xxl, llama, gemma; the file's name is the trigger"
    )

    def recognises(self, content: Content) -> bool:
        """Looks for names of text encoders only.

        Args:
            content: The file's content.

        Returns:
            Whether every tensor is named by an encoder.
        """
        return bool(content.tensors) and _KEYS.issuperset(content.tensors)

    def read(self, content: Content) -> list[Found]:
        """Takes the rows of every encoder.

        Args:
            content: The file's content.

        Returns:
            One concept.

        Raises:
            EmbeddingFileError: If one encoder is there by both of its names.
        """
        keys, left_out = without_outputs(content.tensors)
        vectors = {ENCODER_OF_KEY[key]: content.tensors[key] for key in keys}
        if len(vectors) < len(keys):
            raise EmbeddingFileError("it has both t5 and t5xxl, two names of one encoder; remove one of the two.")
        variant = "t5xxl" if "t5xxl" in keys else "sdxl" if set(keys) == {"clip_l", "clip_g"} else "+".join(keys)
        return [Found(single_token(content), vectors, left_out, "outputs" if left_out else variant)]

    def write(self, concept: LearnedConcept) -> list[Part]:
        """Lays a concept out as one tensor per encoder.

        Args:
            concept: The concept.

        Returns:
            One part.
        """
        keys = in_order(concept.vectors)
        return [Part({key: concept.vectors[key] for key in keys}, tuple(keys))]
