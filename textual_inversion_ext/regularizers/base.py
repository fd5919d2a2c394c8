"""The contract of a regularizer: what is added to the loss of each concept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from textual_inversion_ext.records import Conditioning

Encode: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Conditioning]
"""A family adapter's ``encode``: prompt ids and rows, each by encoder key, to the conditioning."""


@dataclass(frozen=True, slots=True)
class RegularizerContext:
    """What a regularizer may know beside the rows. All tensors are on the training device.

    Letters: ``C`` concepts of the run, ``S`` of them in this step, ``N`` rows of all concepts, ``D`` width of an
    encoder, ``P`` prompts, ``L`` tokens of a prompt.

    Attributes:
        initial: encoder key -> (N, D) float32, where each row started.
        mean_norm: encoder key -> mean norm of the vocabulary's rows.
        prompt_length: encoder key -> L.
        row_concept: (N,) int64, the concept that owns a row.
        concepts: (S,) int64, the concepts of this step.
        present: (C,) bool, the same as a mask.
        clock: (C,) int64, updates that each concept has had.
        encode: encodes prompts with some rows in place.
        class_rows: encoder key -> (N, D) float32, the class word's embedding in place of each row of a concept's word;
            empty unless a regularizer of the run says ``needs_class_word``.
        is_word: (N,) bool, rows that belong to a concept's word (not to a single picture of it).
        prompts: encoder key -> (C, P, L) int64, varied sentences with each concept's word; empty like ``class_rows``.
        in_word: encoder key -> (C, P, L) bool, where in them the word stands; empty like ``class_rows``.
    """

    initial: Mapping[str, Tensor]
    mean_norm: Mapping[str, float]
    prompt_length: Mapping[str, int]
    row_concept: Tensor
    concepts: Tensor
    present: Tensor
    clock: Tensor
    encode: Encode
    class_rows: Mapping[str, Tensor]
    is_word: Tensor
    prompts: Mapping[str, Tensor]
    in_word: Mapping[str, Tensor]

    def by_concept(self, per_row: Tensor) -> Tensor:
        """Add up what each row contributes.

        Args:
            per_row: (N,) float32.

        Returns:
            (C,) float32, sums over the rows of each concept of this step; 0 for the others.
        """
        shown = torch.where(self.present[self.row_concept], per_row, 0.0)
        return torch.zeros(self.present.shape, device=per_row.device).index_add(0, self.row_concept, shown)


class Regularizer(ABC):
    """A penalty on the rows of each concept, added to its loss with a weight.

    The penalty of a concept depends on its own rows only. It is computed once per optimizer step, without synchronising
    the host, and it has no state: what changes over time follows ``RegularizerContext.clock``.

    Attributes:
        name: key in ``REGULARIZERS``; its weight is the setting ``<name>_weight``.
        citation: BibTeX of the paper, for cards.
        needs_class_word: whether every concept has to have a class word.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""
    needs_class_word: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, rows: Mapping[str, Tensor], context: RegularizerContext) -> Tensor:
        """Penalty of every concept.

        Args:
            rows: encoder key -> (N, D) float32, the rows as the text encoders see them; gradients flow to them.
            context: what else there is to know.

        Returns:
            (C,) float32, at least 0; 0 for concepts that are not in this step.
        """
