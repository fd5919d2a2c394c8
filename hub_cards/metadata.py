"""The data of a card: what the Hub reads of it, in `huggingface_hub`'s own records.

Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md?plain=1 (model-index) and
https://huggingface.co/docs/hub/model-cards (base model, licence, widget).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

from huggingface_hub import CardData, EvalResult, ModelCardData

from hub_cards.contents import CardContents, License
from hub_cards.errors import CardError
from hub_cards.escape import address, one_line, whole
from hub_cards.facts import Score

__all__ = [
    "LICENSE_FIELDS",
    "eval_results",
    "inherited_license",
    "license_fields",
    "model_card_data",
    "with_kept_fields",
]

# What this package writes into a model's or a data set's metadata, and so replaces; everything else is the user's.
_WRITTEN = frozenset(
    ["base_model", "base_model_relation", "datasets", "library_name", "pipeline_tag", "tags", "instance_prompt"]
    + ["widget", "model-index", "model_name", "eval_results", "pretty_name", "size_categories", "task_categories"]
)
LICENSE_FIELDS = ("license", "license_name", "license_link")
"""Where the Hub reads a licence."""
_LOCAL_DATASET = "imagefolder"
_TASK = "text-to-image"
_MOST_WIDGETS = 8


def model_card_data(contents: CardContents) -> ModelCardData:
    """Builds the metadata of a model card.

    Args:
        contents: What the card tells.

    Returns:
        The metadata: no scores without measurements, no licence that nobody gave.
    """
    results = eval_results(contents)
    base = contents.base_model.hub_id
    widget = [
        {"text": whole(picture.prompt), "output": {"url": str(address(picture.path))}}
        for picture in contents.opening_pictures
        if picture.prompt
    ]
    return ModelCardData(
        **license_fields(contents.license),
        library_name="diffusers",
        base_model=base,
        base_model_relation=None if base is None else "adapter",
        pipeline_tag=_TASK,
        tags=_tags(contents),
        instance_prompt=", ".join(whole(token) for token in contents.tokens),
        datasets=list(contents.datasets) or None,
        widget=widget[:_MOST_WIDGETS] or None,
        model_name=_model_name(contents) if results else None,
        eval_results=results or None,
    )


def eval_results(contents: CardContents) -> list[EvalResult]:
    """Puts the scores of the learned words into the Hub's vocabulary.

    Baselines and single prompts stay in the text: a leaderboard would take them for the word's own.

    Args:
        contents: What the card tells.

    Returns:
        One result for each word and metric; none without measurements.
    """
    own = [score for score in contents.scores if score.subject == "word" and score.prompt is None]
    return [_eval_result(contents, score) for score in own if math.isfinite(score.mean)]


def license_fields(license: License | None) -> dict[str, Any]:
    """Spells a licence in the Hub's fields.

    Args:
        license: The licence; None when none is known.

    Returns:
        Keyword arguments of `ModelCardData` and `DatasetCardData`.
    """
    if license is None:
        return {}
    link = None if license.link is None else str(address(license.link))
    return {
        "license": license.id,
        "license_name": None if license.name is None else one_line(license.name),
        "license_link": link,
    }


def inherited_license(base_model: str, data: CardData | Mapping[str, Any]) -> License | None:
    """Takes the licence over that a base model's own card states.

    Args:
        base_model: The base model's repository.
        data: The metadata of its card.

    Returns:
        Its licence; None when its card states none, or several.
    """
    stated = data.get("license")
    if isinstance(stated, list) and len(stated) == 1:
        stated = stated[0]
    if not isinstance(stated, str):
        return None
    link = data.get("license_link")
    if isinstance(link, str) and not re.match(r"https?://", link):
        link = urljoin(f"https://huggingface.co/{base_model}/blob/main/", link)
    name = data.get("license_name")
    try:
        return License(
            stated,
            name=name if isinstance(name, str) else None,
            link=link if isinstance(link, str) else None,
            inherited_from=base_model,
        )
    except CardError:  # what its card calls a licence is no identifier
        return None


def with_kept_fields(data: CardData, previous: CardData) -> None:
    """Keeps what the user wrote into the metadata of the card that is replaced.

    Args:
        data: The new metadata; is changed. Gets the fields that it lacks: those that this package never writes
            (``language``, ``thumbnail``, ...), and the licence.
        previous: The metadata of the card that is replaced.
    """
    has_license = data.get("license") is not None
    for name, value in previous.to_dict().items():
        is_users = name not in _WRITTEN and name not in LICENSE_FIELDS and data.get(name) is None
        if is_users or (name in LICENSE_FIELDS and not has_license):
            data[name] = value


def _tags(contents: CardContents) -> list[str]:
    fixed = ["textual_inversion", _TASK, "diffusers"]
    family = contents.base_model.family or ""
    kinds = [f"textual-inversion-{word.learnable_property}" for word in contents.words]
    lora = ["lora"] if contents.lora_file else []
    tags = [one_line(tag) for tag in (*fixed, family, *kinds, *lora, *contents.tags)]
    return [tag for tag in dict.fromkeys(tags) if tag]


def _model_name(contents: CardContents) -> str:
    if contents.repo_id is not None:
        return contents.repo_id.split("/")[1]
    return one_line(contents.title or ", ".join(contents.tokens))


def _eval_result(contents: CardContents, score: Score) -> EvalResult:
    protocol, titles = contents.protocol, {metric.name: metric.title for metric in contents.metrics}
    token = score.token or contents.words[0].token
    config = None if protocol is None else one_line(protocol.name)
    if len(contents.words) > 1:
        # Results are told apart by task, data set and configuration; each word has its own reference pictures.
        config = " ".join(part for part in (config, one_line(token)) if part)
    error = score.standard_error
    facts = {
        "standard_error": error if error is not None and math.isfinite(error) else None,
        "pictures": score.n,
    }
    return EvalResult(
        task_type=_TASK,
        task_name="Text-to-image with a learned word",
        dataset_type=(protocol and protocol.dataset) or _LOCAL_DATASET,
        dataset_name=f"Reference pictures of {one_line(token)}",
        dataset_config=config,
        dataset_args=_protocol_facts(contents),
        metric_type=one_line(score.metric),
        metric_name=one_line(titles.get(score.metric) or score.metric),
        metric_value=float(score.mean),
        metric_args={name: value for name, value in facts.items() if value is not None} or None,
    )


def _protocol_facts(contents: CardContents) -> dict[str, Any] | None:
    protocol = contents.protocol
    if protocol is None:
        return None
    facts = {
        "protocol": one_line(protocol.name),
        "source": one_line(protocol.source),
        "prompts": protocol.prompts,
        "seeds": protocol.seeds,
        "steps": protocol.steps,
        "guidance_scale": protocol.guidance_scale,
        "text": one_line(protocol.text),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}
