"""The single nameless tensor of the web interfaces: AUTOMATIC1111, Forge, ComfyUI, InvokeAI, kohya, invoke-training.

Source: kohya-ss/sd-scripts `train_textual_inversion.py` (`save_weights`), AUTOMATIC1111/stable-diffusion-webui
`modules/textual_inversion/textual_inversion.py` (`create_embedding_from_data`).
"""

from __future__ import annotations

from ..concept import LearnedConcept
from .base import Content, Format, Found, Part, encoder_of, only_encoder, single_token

__all__ = ["EmbParamsFormat"]

_KEY = "emb_params"


class EmbParamsFormat(Format):
    """``{"emb_params": (n, dim)}``; the file's name is the trigger word.

    Exactly one tensor is written and all else is metadata, because AUTOMATIC1111 refuses files with a second one.
    """

    name = "emb_params"
    description = "the one tensor 'emb_params'; the file's name is the trigger"

    def recognises(self, content: Content) -> bool:
        """Looks for the one tensor ``emb_params``.

        Args:
            content: The file's content.

        Returns:
            Whether it is the only tensor.
        """
        return set(content.tensors) == {_KEY}

    def read(self, content: Content) -> list[Found]:
        """Takes the one tensor.

        Args:
            content: The file's content.

        Returns:
            One concept, named by our metadata or the file's name, as those interfaces do.
        """
        rows = content.tensors[_KEY]
        return [Found(single_token(content), {encoder_of(rows, content): rows})]

    def write(self, concept: LearnedConcept) -> list[Part]:
        """Lays a concept out as one tensor.

        Args:
            concept: The concept, with rows for one text encoder.

        Returns:
            One part.
        """
        encoder, rows = only_encoder(concept, self.name)
        return [Part({_KEY: rows}, (encoder,))]
