"""The single tensor that OneTrainer writes for Stable Diffusion 1 and 2, with its spelling.

Source: Nerogar/OneTrainer `modules/modelSaver/stableDiffusion/StableDiffusionEmbeddingSaver.py`.
"""

from __future__ import annotations

from ..concept import LearnedConcept
from .base import Content, Format, Found, Part, encoder_of, only_encoder, single_token, without_outputs

__all__ = ["EmpParamsFormat"]

_KEY = "emp_params"


class EmpParamsFormat(Format):
    """``{"emp_params": (n, dim)}``, beside which ``emp_params_out`` may stand; the file's name is the trigger."""

    name = "emp_params"
    description = "the one tensor 'emp_params' of OneTrainer; the file's name is the trigger"

    def recognises(self, content: Content) -> bool:
        """Looks for ``emp_params`` and ``emp_params_out``.

        Args:
            content: The file's content.

        Returns:
            Whether it holds one of them or both, and nothing else.
        """
        return bool(content.tensors) and set(content.tensors) <= {_KEY, f"{_KEY}_out"}

    def read(self, content: Content) -> list[Found]:
        """Takes the input embedding.

        Args:
            content: The file's content.

        Returns:
            One concept.
        """
        _, left_out = without_outputs(content.tensors)
        rows = content.tensors[_KEY]
        variant = "outputs" if left_out else ""
        return [Found(single_token(content), {encoder_of(rows, content): rows}, left_out, variant)]

    def write(self, concept: LearnedConcept) -> list[Part]:
        """Lays a concept out as one tensor.

        Args:
            concept: The concept, with rows for one text encoder.

        Returns:
            One part.
        """
        encoder, rows = only_encoder(concept, self.name)
        return [Part({_KEY: rows}, (encoder,))]
