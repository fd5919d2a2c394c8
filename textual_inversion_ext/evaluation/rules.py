"""A protocol in which nothing is left open any more."""

from __future__ import annotations

from dataclasses import dataclass, replace

from textual_inversion_ext.evaluation.material import Material
from textual_inversion_ext.evaluation.metric_parts import MetricParts
from textual_inversion_ext.evaluation.metrics import Metric
from textual_inversion_ext.evaluation.protocols import Protocol, ProtocolPrompt
from textual_inversion_ext.evaluation.protocols.protocol import Scheduler
from textual_inversion_ext.evaluation.texts import TextMode
from textual_inversion_ext.pipelines.sampling import SampleSettings
from textual_inversion_ext.run_file import full_path

__all__ = ["Rules", "with_class_word"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A protocol in which nothing is left open.

    Attributes:
        protocol: The protocol, for the model.
        prompts: Its prompts for the concept.
        seeds: Seeds of each prompt's pictures.
        settings: How pictures are made.
        text_mode: What a text score reads where the word stood.
        scheduler: Sampler that the protocol names.
        baselines: What the word is measured against.
        metrics: What pictures are scored by.
        parts: What the metrics are built of.
    """

    protocol: Protocol
    prompts: tuple[ProtocolPrompt, ...]
    seeds: tuple[int, ...]
    settings: SampleSettings
    text_mode: TextMode
    scheduler: Scheduler | None
    baselines: tuple[str, ...]
    metrics: tuple[Metric, ...]
    parts: MetricParts

    def notes(self, material: Material, model: str) -> tuple[str, ...]:
        """What a reader has to know that is not in the protocol.

        Args:
            material: The concept.
            model: What the pictures are made with.

        Returns:
            Sentences.
        """
        found, learned_on = [], material.concept.metadata.get("base_model", "")
        if len(self.seeds) != self.protocol.seeds:
            found.append(f"Pictures per prompt: {len(self.seeds)}; the protocol has {self.protocol.seeds}.")
        if model and learned_on not in ("", "unknown") and full_path(learned_on) != full_path(model):
            found.append(f"The word was learned on {learned_on} and evaluated on {model}.")
        if material.trained is not None and not material.own_references:
            found.append("The real pictures are not known to be those that the word was learned from.")
        return tuple(found)


def with_class_word(material: Material, protocol: Protocol) -> Material:
    """Fill in the class word of a subject of the protocol's data set.

    Args:
        material: A concept; its name is that of the subject's folder.
        protocol: The protocol.

    Returns:
        The material, with its own class word where it has one.
    """
    known = dict(protocol.classes).get(material.concept.name)
    return material if material.class_word or known is None else replace(material, class_word=known)
