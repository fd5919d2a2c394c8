"""What is added to the loss: one file per idea, and this table is the only list.

The weight of each is the setting ``<name>_weight``; only those with a weight above 0 are built.
"""

from __future__ import annotations

from textual_inversion_ext.regularizers.anchor import AnchorRegularizer
from textual_inversion_ext.regularizers.base import Regularizer, RegularizerContext
from textual_inversion_ext.regularizers.context import ContextRegularizer
from textual_inversion_ext.regularizers.initial_l2 import InitialL2Regularizer
from textual_inversion_ext.regularizers.norm_pull import NormPullRegularizer

__all__ = [
    "REGULARIZERS",
    "AnchorRegularizer",
    "ContextRegularizer",
    "InitialL2Regularizer",
    "NormPullRegularizer",
    "Regularizer",
    "RegularizerContext",
]

REGULARIZERS: dict[str, type[Regularizer]] = {
    InitialL2Regularizer.name: InitialL2Regularizer,
    NormPullRegularizer.name: NormPullRegularizer,
    ContextRegularizer.name: ContextRegularizer,
    AnchorRegularizer.name: AnchorRegularizer,
}
