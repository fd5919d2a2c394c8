"""What a user asks to be learned (`ConceptSpec`) and what comes out of it (`LearnedConcept`).

Importing this module imports no torch, so the console's ``--help`` and configuration errors stay instant.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args
from unicodedata import normalize

from textual_inversion_ext.errors import ConceptError
from textual_inversion_ext.placeholders import check_placeholder, file_stem, vector_tokens

if TYPE_CHECKING:
    import datasets
    from PIL import Image
    from torch import Tensor

ImageFile: TypeAlias = "str | os.PathLike[str] | Image.Image"
ImageSource: TypeAlias = "ImageFile | Sequence[ImageFile] | datasets.Dataset | HubDataset"
LearnableProperty: TypeAlias = Literal["object", "style"]

LEARNABLE_PROPERTIES: tuple[str, ...] = get_args(LearnableProperty)


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set that `datasets.load_dataset` finds: on the Hugging Face Hub, or in a folder of this machine.

    A private one is read with the login of this machine (``hf auth login``) or the environment variable ``HF_TOKEN``;
    a token is never part of this record.

    Attributes:
        dataset_name: ``"user/name"``, or a folder of parquet files, of an imagefolder, or of ``save_to_disk``.
        split: The part to learn from, e.g. ``"train"`` or ``"train[:10]"``; None for ``"train"``, or the only one.
        config_name: Which of several configurations (subsets), if there are several.
        revision: Branch, tag or commit.

    Raises:
        ConceptError: If a field is no text, or the name is empty.
    """

    dataset_name: str
    split: str | None = None
    config_name: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, str) and not (value is None and item.name != "dataset_name"):
                raise ConceptError(f"a data set's {item.name} is {value!r}; it must be text.")
        if not self.dataset_name.strip():
            raise ConceptError("a data set's dataset_name is empty; give 'user/name' or a folder.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HubDataset:
        """Builds it from its fields.

        Args:
            values: Field names and values.

        Returns:
            The record.

        Raises:
            ConceptError: If a field is unknown, missing, or of a wrong kind.
        """
        known = [item.name for item in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown or "dataset_name" not in values:
            raise ConceptError(
                f"a data set is described by {', '.join(known)}, of which dataset_name is needed; got "
                f"{', '.join(map(str, values)) or 'nothing'}."
            )
        return cls(**values)


@dataclass(frozen=True, slots=True)
class ConceptSpec:
    """One new word to learn, and the pictures to learn it from.

    Attributes:
        placeholder_token: The new word as it is typed in prompts, e.g. ``"<corgi>"``.
        images: A folder, one picture, a list of paths or PIL images, a `HubDataset` (or its fields as a dict), or a
            ``datasets.Dataset`` with an image column.
            None in a concept read back from a run whose pictures were in memory; it cannot be trained without them.
        initializer: Where the rows start: a word or phrase of the vocabulary, or the path of an embedding file.
            Empty means `class_name`.
        num_vectors: How many embedding rows the word stands for.
        learnable_property: ``"object"`` or ``"style"``; decides which prompt templates are used.
        class_name: Coarse word for the thing, e.g. ``"dog"``; used wherever a prompt without the new word is needed.
        initialization: How `initializer` is read, e.g. ``"file"`` for a repository of the Hub; None for what the run's
            setting of this name says.

    Raises:
        ConceptError: If a field cannot work; the message says what was got and what is allowed.
    """

    placeholder_token: str
    # Neither compared nor hashed: PIL images and data sets have no cheap meaningful equality.
    images: ImageSource | None = field(compare=False)
    initializer: str = ""
    num_vectors: int = 1
    learnable_property: LearnableProperty = "object"
    class_name: str | None = None
    initialization: str | None = None

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder_token)
        object.__setattr__(self, "placeholder_token", normalize("NFC", self.placeholder_token))
        if not any(character.isalpha() for character in self.placeholder_token):
            raise ConceptError(
                f"placeholder token {self.placeholder_token!r} has no letter. Numbers and punctuation alone are split "
                f"apart by tokenizers; use a name such as '<corgi>'."
            )
        if isinstance(self.num_vectors, bool) or not isinstance(self.num_vectors, int) or self.num_vectors < 1:
            raise ConceptError(
                f"{self.placeholder_token}: num_vectors is {self.num_vectors!r}; it must be a whole number, 1 or more."
            )
        if self.learnable_property not in LEARNABLE_PROPERTIES:
            raise ConceptError(
                f"{self.placeholder_token}: learnable_property is {self.learnable_property!r}; "
                f"allowed: {', '.join(LEARNABLE_PROPERTIES)}."
            )
        if isinstance(self.initializer, os.PathLike):
            object.__setattr__(self, "initializer", os.fspath(self.initializer))
        for name in ("initializer", "class_name", "initialization"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (name != "initializer" and value is None):
                raise ConceptError(f"{self.placeholder_token}: {name} is {value!r}; it must be text.")
        if type(self.images) is dict and "dataset_name" in self.images:
            object.__setattr__(self, "images", HubDataset.from_dict(self.images))

    @property
    def name(self) -> str:
        """File stem of the concept: the token without ``<>``, safe on every file system."""
        return file_stem(self.placeholder_token)

    @property
    def vector_tokens(self) -> tuple[str, ...]:
        """The token of every row, as diffusers names them: ``("<tok>", "<tok>_1", ...)``."""
        return vector_tokens(self.placeholder_token, self.num_vectors)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values; ``images`` only when it is a path, a list of paths or a `HubDataset`."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "images"}
        if isinstance(self.images, HubDataset):
            return {**values, "images": asdict(self.images)}
        paths = _paths_as_text(self.images)
        return values if paths is None else {**values, "images": paths}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, images: ImageSource | None = None) -> ConceptSpec:
        """Builds a concept from what `to_dict` returned.

        Args:
            values: Field names and values.
            images: Replaces the stored images; needed when they had been given in memory.

        Returns:
            The concept.

        Raises:
            ConceptError: If a field is unknown or missing.
        """
        known = [item.name for item in fields(cls)]
        if not isinstance(values, Mapping):
            raise ConceptError(f"a concept is stored as fields and values ({', '.join(known)}); got {values!r}.")
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConceptError(f"unknown field(s) of a concept: {', '.join(unknown)}. Known: {', '.join(known)}.")
        if "placeholder_token" not in values:
            raise ConceptError(f"a concept needs placeholder_token; got only {', '.join(values) or 'nothing'}.")
        return cls(**{"images": None, **values, **({} if images is None else {"images": images})})


@dataclass(frozen=True, slots=True, eq=False)
class LearnedConcept:
    """What an embedding file holds and a pipeline loads.

    The tensors are copied on construction, so later training steps cannot change a finished concept, and a saved
    row never drags the storage of a whole embedding table into the file.

    Attributes:
        token: The word as it is typed in prompts.
        vectors: Text encoder key (``"clip_l"``, ``"clip_g"``, ``"t5"``) to rows of shape (n, dim), float32, on the CPU.
            Every encoder has the same n.
        metadata: Free text about the training (base model, steps, ...), stored in the file.

    Raises:
        ConceptError: If there are no rows, or rows that are not finite floating-point numbers of shape (n, dim).
    """

    token: str
    vectors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_placeholder(self.token)
        object.__setattr__(self, "token", normalize("NFC", self.token))
        if not self.vectors:
            raise ConceptError(f"{self.token}: no vectors. A concept needs rows for at least one text encoder.")
        rows = {key: _clean_rows(self.token, key, tensor) for key, tensor in self.vectors.items()}
        counts = {key: len(tensor) for key, tensor in rows.items()}
        if len(set(counts.values())) > 1:
            raise ConceptError(f"{self.token}: every text encoder needs the same number of vectors; got {counts}.")
        wrong = [key for key, value in self.metadata.items() if not (isinstance(key, str) and isinstance(value, str))]
        if wrong:
            raise ConceptError(f"{self.token}: metadata must be text; convert the value(s) of {wrong} with str().")
        object.__setattr__(self, "vectors", rows)
        object.__setattr__(self, "metadata", dict(self.metadata))

    @property
    def name(self) -> str:
        """File stem of the concept: the token without ``<>``, safe on every file system."""
        return file_stem(self.token)

    @property
    def num_vectors(self) -> int:
        """How many rows the token stands for."""
        return len(next(iter(self.vectors.values())))

    @property
    def vector_tokens(self) -> tuple[str, ...]:
        """The token of every row, as diffusers names them: ``("<tok>", "<tok>_1", ...)``."""
        return vector_tokens(self.token, self.num_vectors)

    def save(self, path: str | os.PathLike[str], format: str = "diffusers") -> Path:
        """Writes the concept to an embedding file.

        Args:
            path: A ``.safetensors`` file, or a folder in which the format's usual file name is used.
            format: A key of `textual_inversion_ext.files.TARGETS`.

        Returns:
            The file that was written; the first one where there is one per text encoder.
        """
        # The one upward import: files/ builds LearnedConcepts, and users expect concept.save() all the same.
        from textual_inversion_ext.files import save_concept

        return save_concept(self, path, format)[0]

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        create_pr: bool = False,
        revision: str | None = None,
        license: str | None = None,
        description: str = "",
        token: str | None = None,
    ) -> str:
        """Publishes the concept with a model card. `TextualInversionTrainer.push_to_hub` tells of the training, too.

        Args:
            repo_id: ``user/name``, or ``name`` for the account's own.
            private: Make a new repository private.
            create_pr: Send a pull request instead of a commit.
            revision: The branch; None for main.
            license: The Hub's identifier of the licence; None to take over the one that the base model's card states.
            description: What the concept is, for the card.
            token: Access token; None for the one of `hf auth login`. It is neither stored nor shown.

        Returns:
            Address of the repository or pull request.

        Raises:
            PublishError: It did not succeed; the message says why and what to do.
        """
        from textual_inversion_ext.publishing import PublishSettings, publish_concept

        settings = PublishSettings(
            repo_id,
            private=private,
            create_pr=create_pr,
            revision=revision,
            license=license,
            description=description,
        )
        return publish_concept(self, settings, token=token).url


def check_distinct(concepts: Sequence[ConceptSpec]) -> None:
    """Refuses concepts of one run that would share a token or a file name.

    diffusers names the rows of a multi-vector token ``<tok>``, ``<tok>_1``, ...; a second concept called ``<tok>_1``
    would silently be merged with the first when both are loaded.

    Args:
        concepts: The concepts of one run.

    Raises:
        ConceptError: If two concepts collide.
    """
    for position, concept in enumerate(concepts):
        for other in concepts[:position]:
            pair = f"concepts {other.placeholder_token!r} and {concept.placeholder_token!r}"
            # Loaders lower-case some tokens, so names that differ only in case are the same name there.
            rows = {token.casefold() for token in concept.vector_tokens}
            shared = [token for token in other.vector_tokens if token.casefold() in rows]
            if shared:
                raise ConceptError(f"{pair} both use the token {shared[0]!r}; rename one of them.")
            if other.name.casefold() == concept.name.casefold():
                raise ConceptError(f"{pair} would both be saved as {concept.name!r}; rename one of them.")


def _clean_rows(token: str, key: str, tensor: Tensor) -> Tensor:
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ConceptError(
            f"{token}: rows for {key!r} have shape {tuple(tensor.shape)}; expected (vectors, dim), each 1 or more."
        )
    if not tensor.is_floating_point():
        raise ConceptError(f"{token}: rows for {key!r} are {tensor.dtype}; embeddings are floating-point numbers.")
    rows = tensor.detach().float().cpu().clone().contiguous()
    if not bool(rows.isfinite().all()):
        raise ConceptError(f"{token}: rows for {key!r} hold NaN or infinite numbers; the embedding is broken.")
    return rows


def _paths_as_text(images: ImageSource | None) -> str | list[str] | None:
    if isinstance(images, str | os.PathLike):
        return os.fspath(images)
    if isinstance(images, list | tuple) and all(isinstance(image, str | os.PathLike) for image in images):
        return [os.fspath(image) for image in images]
    return None
