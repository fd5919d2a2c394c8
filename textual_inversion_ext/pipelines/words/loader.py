"""diffusers' loader of learned words, right where that one is not.

The flow of a load: sources -> concepts (`concept_sources`) -> what would be added where, checked (`loading_plan`) ->
one resize of each text encoder (`vocabulary`) -> a note with the encoder (`registry`). ``docs/pipelines.md`` lists what
differs from diffusers.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from diffusers import DiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.files import save_concept
from textual_inversion_ext.pipelines.words.blending import BlendMethod, blend_vectors
from textual_inversion_ext.pipelines.words.concept_sources import ConceptSource, concepts_from
from textual_inversion_ext.pipelines.words.loading_plan import apply, plan_loading
from textual_inversion_ext.pipelines.words.operands import find_token, vectors_of
from textual_inversion_ext.pipelines.words.prompts import convert_arguments, converted
from textual_inversion_ext.pipelines.words.registry import loaded_concepts
from textual_inversion_ext.pipelines.words.slots import chosen_slots, slots_of
from textual_inversion_ext.pipelines.words.unloading import unload

PipelineT = TypeVar("PipelineT")


class ConceptLoaderMixin(TextualInversionLoaderMixin):
    """Loads learned words into a diffusers pipeline; put it before the pipeline's class.

    Drop-in for diffusers' `TextualInversionLoaderMixin`: the methods and arguments are the same. What is loaded lives
    in tokenizers and text encoders, so pipelines that share them share their words.
    """

    @property
    def concepts(self) -> Mapping[str, LearnedConcept]:
        """What is loaded: token -> concept."""
        return MappingProxyType(loaded_concepts(list(slots_of(self).values())))

    def load_textual_inversion(
        self,
        pretrained_model_name_or_path: ConceptSource | Sequence[ConceptSource],
        token: str | Sequence[str | None] | None = None,
        tokenizer: Any = None,
        text_encoder: Any = None,
        **kwargs: Any,
    ) -> None:
        """Load learned words into all text encoders of the pipeline; all of them, or after an error none.

        Args:
            pretrained_model_name_or_path: A file or folder, a Hub id, a tensor, a dict of tensors, a `LearnedConcept`,
                or a list of these. A list costs no more than one.
            token: The word to use instead of the file's own, or a list with one for each source.
            tokenizer: With `text_encoder`, or alone: load into this one only.
            text_encoder: Load into this one only.
            **kwargs: Where files come from: `weight_name`, `subfolder`, `revision`, `cache_dir`, `force_download`,
                `local_files_only`, `hf_token`. (`use_safetensors` is accepted; pickles are never run either way.)

        Raises:
            ConceptError: If a word is known already, or could be taken for another.
            EmbeddingFileError: If a source cannot be read, or was made for another kind of model.
            ConfigError: If the arguments do not go together.
        """
        slots = list(slots_of(self).values())
        chosen = chosen_slots(self, tokenizer, text_encoder)
        concepts = concepts_from(pretrained_model_name_or_path, token, chosen[0].key, kwargs)
        apply(plan_loading(concepts, chosen, slots))

    def unload_textual_inversion(
        self, tokens: str | Sequence[str] | None = None, tokenizer: Any = None, text_encoder: Any = None
    ) -> None:
        """Take words out again, with all of their vectors; without any left, the pipeline is as it was before loading.

        Args:
            tokens: One word or several; None for all.
            tokenizer: Unload from this one only.
            text_encoder: Unload from this one only.

        Raises:
            ConceptError: If a word is not loaded.
        """
        unload(chosen_slots(self, tokenizer, text_encoder), [tokens] if isinstance(tokens, str) else tokens)

    def maybe_convert_prompt(self, prompt: str | list[str], tokenizer: Any) -> str | list[str]:
        """Write learned words out as the tokens of all their vectors; doing it twice changes nothing.

        Args:
            prompt: A prompt or a list of them.
            tokenizer: The tokenizer that will read it.

        Returns:
            A prompt or a list, as given.
        """
        return converted(prompt, tokenizer)

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's own `encode_prompt`, with learned words written out and a warning about what is cut.

        Not every pipeline calls `maybe_convert_prompt` (Stable Diffusion 3 does not).

        Args:
            *args: As for the pipeline's own.
            **kwargs: As for the pipeline's own.

        Returns:
            What the pipeline's own returns.
        """
        encode: Any = super().encode_prompt
        signature = inspect.signature(encode)
        call = signature.bind(*args, **kwargs)
        convert_arguments(call.arguments, signature.parameters.keys(), slots_of(self))
        return encode(*call.args, **call.kwargs)

    def save_textual_inversion(
        self, token: str, path: str | os.PathLike[str], format: str = "diffusers"
    ) -> tuple[Path, ...]:
        """Write a loaded concept to an embedding file.

        Args:
            token: The word.
            path: A file, or a folder in which the tool's usual name is used.
            format: A tool, a key of `textual_inversion_ext.files.TARGETS`, or a layout, a key of `FORMATS`.

        Returns:
            The files that were written: one, or for diffusers one per text encoder.

        Raises:
            ConceptError: If the word is not loaded.
        """
        concepts = self.concepts
        found = find_token(token, concepts)
        if found is None:
            raise ConceptError(f"{token} is not loaded; loaded: {', '.join(concepts) or 'nothing'}.")
        return save_concept(concepts[found], path, format)

    def blend(
        self,
        first: str | LearnedConcept,
        second: str | LearnedConcept,
        t: float,
        token: str,
        method: BlendMethod = "slerp",
    ) -> LearnedConcept:
        """Load a word between two words: ``pipe.blend("<a>", "<b>", 0.3, "<ab>")``, ``pipe.blend("<a>", "dog", ...)``.

        Args:
            first: A loaded concept, any concept, or a word or phrase of the vocabulary; what t = 0 gives.
            second: Likewise; what t = 1 gives.
            t: Place between them, 0 to 1.
            token: Name of the new word.
            method: "slerp" or "lerp"; `textual_inversion_ext.pipelines.words.blending.blend_vectors` has the rules.

        Returns:
            The new concept, which is loaded.
        """
        slots, loaded = list(slots_of(self).values()), self.concepts
        vectors = blend_vectors(vectors_of(first, slots, loaded), vectors_of(second, slots, loaded), t, method)
        names = [side.token if isinstance(side, LearnedConcept) else side for side in (first, second)]
        concept = LearnedConcept(token, vectors, {"blend": f"{method} {names[0]} {names[1]} {t:g}"})
        self.load_textual_inversion(concept)
        return concept

    def with_strength(self, concept: str | LearnedConcept, strength: float, word: str, token: str) -> LearnedConcept:
        """Load a weaker form of a concept: ``pipe.with_strength("<a>", 0.6, "dog", "<a-60>")``.

        Args:
            concept: A loaded concept, or any.
            strength: 1 is the concept, 0 the plain word.
            word: What is left of the concept without its strength, usually its class.
            token: Name of the new word.

        Returns:
            The new concept, which is loaded.
        """
        return self.blend(word, concept, strength, token)

    def to_json_string(self) -> str:
        """The pipeline's configuration, naming diffusers' own class, so that plain diffusers loads what is saved.

        Returns:
            JSON.
        """
        config = json.loads(super().to_json_string())
        if type(self).__module__.split(".")[0] == __name__.split(".")[0]:
            config["_class_name"] = next(
                base.__name__
                for base in type(self).__mro__
                if issubclass(base, DiffusionPipeline) and base.__module__.split(".")[0] == "diffusers"
            )
        return json.dumps(config, indent=2, sort_keys=True) + "\n"


def add_concept_loading(pipeline: PipelineT) -> PipelineT:
    """Give a pipeline object the methods of `ConceptLoaderMixin`, whatever its class.

    Args:
        pipeline: Any object with `tokenizer` and `text_encoder` (and `tokenizer_2`, ...); it is changed in place.

    Returns:
        The same object.

    Raises:
        ModelError: If it has no tokenizer and text encoder.
    """
    slots_of(pipeline)
    if not isinstance(pipeline, ConceptLoaderMixin):
        plain = type(pipeline)
        # The name stays: diffusers finds a pipeline's relatives (AutoPipeline) and what to write on saving by it.
        members = {"__module__": plain.__module__, "__doc__": plain.__doc__}
        pipeline.__class__ = type(plain.__name__, (ConceptLoaderMixin, plain), members)
    return pipeline
