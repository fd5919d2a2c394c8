"""The training pictures as a data set of their own: an imagefolder with captions and a card. Only when asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path

from hub_cards.card import Card
from hub_cards.contents import Picture
from hub_cards.dataset import DatasetContents
from hub_cards.publication import Publication
from textual_inversion_ext import __version__
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import PublishError, TextualInversionError
from textual_inversion_ext.publishing.cleaning import clean_text
from textual_inversion_ext.publishing.run import FinishedRun
from textual_inversion_ext.publishing.settings import PublishSettings

__all__ = ["dataset_place", "dataset_publication"]

_SHOWN = 4
# A picture with more pixels is written as JPEG: without loss, a camera's takes tens of megabytes.
_MOST_LOSSLESS = 1024 * 1024


def dataset_place(settings: PublishSettings) -> str:
    """Name the repository of the training pictures.

    Args:
        settings: How their concept is published.

    Returns:
        ``user/name``.
    """
    return settings.dataset_repo_id or f"{settings.repo_id}-images"


def dataset_publication(run: FinishedRun, settings: PublishSettings, previous: Card | None = None) -> Publication:
    """Lay the training pictures out as a data set.

    Args:
        run: The run; its settings say where the pictures are.
        settings: How it is published; the data set is private if the concept is, and goes to a branch of the same
            name. Its licence is the one asked for: a base model's says nothing about pictures.
        previous: The card that the data set has now; what its user wrote into it is kept.

    Returns:
        ``train/0001.png``, ..., ``train/metadata.jsonl`` where there are captions, and a card.

    Raises:
        PublishError: The pictures are not here any more, or are not those that were learned from.
        CardError: `previous` has text outside of its marked places.
    """
    repo_id = dataset_place(settings)
    files: dict[str, bytes | Path] = {}
    shown: list[Picture] = []
    lines = []
    for number, (content, ending, caption) in enumerate(_pictures(run), start=1):
        name = f"{number:04d}{ending}"
        files[f"train/{name}"] = content
        lines.append({"file_name": name, "text": caption})
        shown.append(Picture(f"train/{name}", caption))
    captions = sum(bool(line["text"]) for line in lines)
    if captions:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        files["train/metadata.jsonl"] = text.encode()
    contents = DatasetContents(
        title=f"Pictures of {run.concept.token}",
        images=len(lines),
        repo_id=repo_id,
        token=run.concept.token,
        model_repo_id=settings.repo_id,
        captions=captions,
        pictures=tuple(shown[:_SHOWN]),
        license=settings.asked_license,
        library=f"textual-inversion-ext {__version__}",
    )
    card = Card.of(contents, previous=previous, discard_edits=settings.discard_edits)
    return Publication(
        repo_id,
        card.beside(files),
        message=f"Add {len(lines)} pictures",
        repo_type="dataset",
        private=settings.private or None,
        create_pr=settings.create_pr,
        revision=settings.revision,
    )


def _pictures(run: FinishedRun) -> list[tuple[bytes, str, str]]:
    """Content, ending and caption of every training picture; upright, and nothing but pixels."""
    from textual_inversion_ext.data.sources.collect import collect_samples

    if not run.fields.get("images"):
        raise PublishError(
            "the run does not say where its pictures are, so they cannot be published; leave --with_dataset out."
        )
    config = run.config or TextualInversionConfig()
    # Masks and backgrounds belong to one training, not to the pictures.
    plain = TextualInversionConfig(
        image_column=config.image_column,
        caption_column=config.caption_column,
        captions=config.captions,
        skip_bad_images=config.skip_bad_images,
    )
    try:
        spec = ConceptSpec.from_dict(run.fields)
        samples, _ = collect_samples(spec, plain)
        _check_same(run, spec, config)
    except TextualInversionError as error:
        raise PublishError(f"the run's pictures cannot be published: {error} Or leave --with_dataset out.") from error
    found = []
    for sample in samples:
        picture = sample.open()
        written = io.BytesIO()
        lossless = picture.width * picture.height <= _MOST_LOSSLESS
        picture.info.clear()
        if lossless:
            picture.save(written, "PNG", optimize=True)
        else:
            picture.save(written, "JPEG", quality=95, subsampling=0)
        found.append((written.getvalue(), ".png" if lossless else ".jpg", clean_text(sample.caption or "")))
    return found


def _check_same(run: FinishedRun, spec: ConceptSpec, config: TextualInversionConfig) -> None:
    """Whatever lies in their place by now would be published, and look like what the word was learned from."""
    from textual_inversion_ext.data.sources.collect import learned_samples

    if learned_samples(spec, config, run.concept.metadata.get("training_data_digest")) == []:
        raise PublishError(
            f"where config.json says that the pictures of {run.concept.token} are, there are others than it was learned"
            " from, or they have other captions or masks. Put those back, or train again with these."
        )
