"""The single-tensor layout of the web interfaces: AUTOMATIC1111, Forge, ComfyUI, InvokeAI, kohya.

Source: kohya-ss/sd-scripts `train_textual_inversion.py` (`save_weights`), AUTOMATIC1111/stable-diffusion-webui
`modules/textual_inversion/textual_inversion.py` (`create_embedding_from_data`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..concept import LearnedConcept
from .base import DEFAULT_ENCODER, Format, as_rows, file_metadata, only_encoder

__all__ = ["WebuiFormat"]

_KEY = "emb_params"


class WebuiFormat(Format):
    """``{"emb_params": (n, dim)}``; the file's name is the trigger word.

    Exactly one tensor is written and all else is metadata, because AUTOMATIC1111 refuses files with a second one.
    """

    name = "webui"
    description = "<name>.safetensors with the one tensor 'emb_params'; its file name is the trigger in web interfaces"

    def recognises(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
        """Looks for the one tensor ``emb_params``.

        Args:
            tensors: All tensors of the file.
            metadata: Not used.

        Returns:
            Whether it is the only tensor.
        """
        return set(tensors) == {_KEY}

    def token(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], stem: str) -> str:
        """Takes our metadata, else the file name, as those interfaces do.

        Args:
            tensors: Not used.
            metadata: The file's metadata.
            stem: The file's name without ending.

        Returns:
            The token; spaces in a file name become ``_``, because a token is one word.
        """
        return metadata.get("token") or "_".join(stem.split())

    def vectors(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
        """Takes the one tensor.

        Args:
            tensors: All tensors of the file.
            metadata: May name the encoder.

        Returns:
            Encoder key to rows.
        """
        return {metadata.get("encoder", DEFAULT_ENCODER): as_rows(tensors[_KEY])}

    def write(self, concept: LearnedConcept) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Lays a concept out as one tensor.

        Args:
            concept: The concept, with rows for one text encoder.

        Returns:
            Tensors and metadata.
        """
        encoder, rows = only_encoder(concept, self.name)
        return {_KEY: rows}, file_metadata(concept, encoder)

    def file_name(self, concept: LearnedConcept) -> str:
        """Names the file after the concept.

        Args:
            concept: The concept.

        Returns:
            ``<name>.safetensors``.
        """
        return f"{concept.name}.safetensors"
