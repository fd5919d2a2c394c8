"""What a card tells, as plain records: filled by whoever knows the run, and turned into text and metadata elsewhere.

Nothing here is guessed later on: a field that is None or empty is left out of the card, or the card says that it is not
known. Every text may be anything at all; it is escaped where it is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hub_cards.errors import CardError
from hub_cards.facts import Metric, Protocol, Score, Training
from hub_cards.names import check_path, check_repo_id

__all__ = ["BaseModel", "CardContents", "EmbeddingFile", "License", "Picture", "Word"]

_LICENSE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """One file for diffusers.

    Attributes:
        path: Where it lies in the repository, e.g. ``"learned_embeds_2.safetensors"``.
        text_encoder: The pipeline's attribute that it is loaded into: ``"text_encoder"``, ``"text_encoder_2"``, ...
    """

    path: str
    text_encoder: str = "text_encoder"

    def __post_init__(self) -> None:
        check_path(self.path)
        if not re.fullmatch(r"text_encoder(_\d)?", self.text_encoder):
            raise CardError(
                f"{self.path} is for the pipeline's {self.text_encoder!r}; allowed: text_encoder, text_encoder_2, ..."
            )


@dataclass(frozen=True, slots=True)
class Word:
    """One learned word.

    Attributes:
        token: What one types in a prompt.
        files: Its files for diffusers, one per text encoder that learned it; none where diffusers cannot load them.
        ui_file: Its file for AUTOMATIC1111, ComfyUI and InvokeAI; None where there is none.
        num_vectors: How many rows the word stands for.
        learnable_property: ``"object"`` or ``"style"``.
        class_name: Coarse word for the thing, e.g. ``"dog"``.
        initializer: What its rows started from.
        load_lines: Lines of Python that load it into ``pipe``; None for diffusers' own, one per file. They are copied
            as they are, so they must come from code, never from what somebody typed.
    """

    token: str
    files: tuple[EmbeddingFile, ...] = ()
    ui_file: str | None = None
    num_vectors: int = 1
    learnable_property: str = "object"
    class_name: str | None = None
    initializer: str | None = None
    load_lines: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.token.strip():
            raise CardError("a word's token is empty; give the placeholder as it is typed in prompts.")
        if self.ui_file is not None:
            check_path(self.ui_file)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of the repository.

    Attributes:
        path: Where it lies in the repository, or an ``https://`` address.
        prompt: The prompt that it was made from.
        seed: The seed that it was made from.
    """

    path: str
    prompt: str = ""
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.path.startswith("https://"):
            check_path(self.path)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that learned the words.

    Attributes:
        name: How to call it in text; a folder's name, not its whole path, for a model that is on no Hub.
        hub_id: Its repository on the Hub; None when it has none.
        revision: Branch, tag or commit, when a certain one was used.
        family: ``"stable-diffusion"``, ``"stable-diffusion-xl"``, ...; becomes a tag.
        load_lines: Lines of Python that leave the loaded pipeline in ``pipe``; None for the usual two of diffusers.
            They are copied as they are, so they must come from code, never from what somebody typed.
    """

    name: str
    hub_id: str | None = None
    revision: str | None = None
    family: str | None = None
    load_lines: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.hub_id is not None:
            check_repo_id(self.hub_id)


@dataclass(frozen=True, slots=True)
class License:
    """Under which licence the files may be used: asked for by the publisher, or taken over from the base model.

    Attributes:
        id: The Hub's identifier, e.g. ``"apache-2.0"``; ``"other"`` for one that the Hub does not list.
        name: What a licence that the Hub does not list is called.
        link: Where its text is.
        inherited_from: The base model whose licence this is; None when the publisher asked for it.
    """

    id: str
    name: str | None = None
    link: str | None = None
    inherited_from: str | None = None

    def __post_init__(self) -> None:
        if not _LICENSE_ID.fullmatch(self.id):
            raise CardError(
                f"licence {self.id!r} is no identifier of the Hub. Use one of "
                "https://huggingface.co/docs/hub/repositories-licenses, e.g. 'mit', or 'other' with a name and a link."
            )
        if self.id == "other" and self.name is None and self.inherited_from is None:
            raise CardError("licence 'other' needs a name, so that readers know which one is meant.")


@dataclass(frozen=True, slots=True)
class CardContents:
    """All that the card of one repository tells.

    Attributes:
        words: The learned words.
        base_model: The model that learned them.
        repo_id: ``"user/name"``; None for a card that stays on the disk.
        title: The card's heading; None for the tokens.
        description: What the words mean, in the publisher's own words.
        license: The licence; None when none is known. It is never guessed.
        pictures: Generated pictures, the best ones first; the first of each prompt open the card.
        references: Training pictures that are published, too.
        lora_file: A LoRA in the same repository that was trained beside the word.
        scores: What was measured; empty when nothing was.
        metrics: How to read the scores' metrics, in the order of the table's columns.
        protocol: How the scored pictures were made.
        datasets: Data sets on the Hub that the pictures came from.
        training: How the words were learned.
        limits: What the numbers of this run do not show, one sentence each; the general limits are there anyway.
        citations: BibTeX of what was used.
        library: Program that wrote this, with its version.
        tags: More tags.
    """

    words: tuple[Word, ...]
    base_model: BaseModel
    repo_id: str | None = None
    title: str | None = None
    description: str = ""
    license: License | None = None
    pictures: tuple[Picture, ...] = ()
    references: tuple[Picture, ...] = ()
    lora_file: str | None = None
    scores: tuple[Score, ...] = ()
    metrics: tuple[Metric, ...] = ()
    protocol: Protocol | None = None
    datasets: tuple[str, ...] = ()
    training: Training = field(default_factory=Training)
    limits: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()
    library: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.words:
            raise CardError("a card needs at least one word.")
        compared_with = None if self.protocol is None else self.protocol.dataset
        for name in (self.repo_id, compared_with, *self.datasets):
            if name is not None:
                check_repo_id(name)
        if self.lora_file is not None:
            check_path(self.lora_file)

    @property
    def tokens(self) -> tuple[str, ...]:
        """What one types in prompts."""
        return tuple(word.token for word in self.words)

    @property
    def opening_pictures(self) -> tuple[Picture, ...]:
        """The first picture of each prompt; those without a prompt are all there."""
        first = {picture.prompt or index: picture for index, picture in reversed(list(enumerate(self.pictures)))}
        return tuple(sorted(first.values(), key=self.pictures.index))
