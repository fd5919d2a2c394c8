"""What every metric promises."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image

from tests.metric_parts import NearestExampleReader, mean_absolute_difference
from textual_inversion_ext.errors import DataError
from textual_inversion_ext.evaluation.metrics import DEFAULT_METRICS, METRICS, LpipsMetric, Metric, MetricParts, Scored
from textual_inversion_ext.pocket import CONCEPTS, render_concept

CAT, TEAPOT = "mochi", "brewster"
SEED = 5


@pytest.fixture(params=sorted(METRICS))
def kind(request: pytest.FixtureRequest) -> type[Metric]:
    return METRICS[request.param]


def built(kind: type[Metric], batch_size: int = 32) -> Metric:
    if kind is LpipsMetric:  # its package needs torchvision, which tests do without
        return LpipsMetric(mean_absolute_difference)
    return kind.build(MetricParts("pocket", "pocket", batch_size=batch_size, reader=NearestExampleReader()))


shared = cache(built)
"""For tests to which it is of no account what the metric has seen before."""


@pytest.fixture
def metric(kind: type[Metric]) -> Metric:
    return shared(kind)


@cache
def scored() -> Scored:
    """Two prompts, three samples each; all that a metric may need."""
    return Scored(
        images=tuple(render_concept(CAT, 6, seed=SEED)),
        prompts=("a photo of a cat",) * 3 + ("a photo of a striped cat in the snow",) * 3,
        references=tuple(render_concept(CAT)),
        truth=CONCEPTS[CAT].subject,
    )


def rearranged(case: Scored, order: list[int]) -> Scored:
    return replace(case, images=tuple(case.images[i] for i in order), prompts=tuple(case.prompts[i] for i in order))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_it_says_what_it_is(metric: Metric) -> None:
    assert METRICS[metric.key] is type(metric)
    assert metric.name == f"{metric.key} ({metric.backbone})" and metric.backbone
    documentation = type(metric).__doc__ or ""
    assert metric.title and "Source:" in documentation
    assert metric.citation.startswith("@") or "Source: ours" in documentation
    assert metric.citation.count("{") == metric.citation.count("}")
    assert metric.needs <= {"prompts", "references", "truth", "samples"}
    assert metric.aspect in ("likeness", "obedience", "diversity")


def test_one_number_for_each_picture(metric: Metric) -> None:
    scores = metric(scored())
    assert scores.shape == (6,) and scores.dtype == torch.float32 and scores.device.type == "cpu"
    assert scores.isfinite().all() and not scores.requires_grad


def test_it_is_deterministic(kind: type[Metric]) -> None:
    metric = built(kind)
    first = metric(scored())
    assert torch.equal(metric(scored()), first)
    assert torch.equal(built(kind)(scored()), first)


def test_scores_stand_in_the_order_of_the_pictures(metric: Metric) -> None:
    order = [4, 0, 5, 2, 1, 3]
    close(metric(rearranged(scored(), order)), metric(scored())[order])


def test_the_order_of_references_is_of_no_account(metric: Metric) -> None:
    close(metric(replace(scored(), references=scored().references[::-1])), metric(scored()))


def test_the_batch_is_of_no_account(kind: type[Metric]) -> None:
    expected = built(kind)(scored())
    for size in (1, 4):
        close(built(kind, size)(scored()), expected)


def test_a_duplicate_scores_like_its_original(metric: Metric) -> None:
    plain = metric(scored())
    doubled = metric(rearranged(scored(), [0, 1, 2, 3, 4, 5, 1]))
    close(doubled[6], doubled[1])
    others = [3, 4, 5] if metric.samples_matter else [0, 1, 2, 3, 4, 5]
    close(doubled[others], plain[others])
    if metric.samples_matter:
        assert (doubled[:3] - plain[:3]).abs().max() > 1e-4, "samples_matter is said and nothing comes of it"


def test_a_prompt_does_not_look_at_the_samples_of_another(metric: Metric) -> None:
    """Scored by themselves, pictures get what they get beside those of another prompt."""
    together = metric(scored())
    for order in ([0, 1, 2], [3, 4, 5]):
        close(metric(rearranged(scored(), order)), together[order])


def test_a_picture_alone_scores_the_same_unless_samples_matter(metric: Metric) -> None:
    if metric.samples_matter:
        return
    together = metric(scored())
    close(torch.cat([metric(rearranged(scored(), [index])) for index in range(6)]), together)


def test_what_it_does_not_need_changes_nothing(metric: Metric) -> None:
    least = Scored(scored().images)
    for field in ("prompts", "references", "truth"):
        if field in metric.needs or (field == "prompts" and metric.samples_matter):
            least = replace(least, **{field: getattr(scored(), field)})
    close(metric(least), metric(scored()))


def test_what_is_missing_is_named(metric: Metric) -> None:
    assert metric.lacks(scored()) == ()
    for field, empty in (("prompts", ()), ("references", ()), ("truth", None)):
        case = replace(scored(), **{field: empty})
        if field in metric.needs:
            assert metric.lacks(case) == (field,)
            with pytest.raises(DataError, match=field):
                metric(case)
        else:
            assert metric.lacks(case) == () and metric(case).shape == (6,)
    if "samples" in metric.needs:
        with pytest.raises(DataError, match="at least two pictures of each prompt"):
            metric(rearranged(scored(), [0, 1, 5]))


def test_nothing_to_score_is_an_error(metric: Metric) -> None:
    with pytest.raises(DataError, match="no pictures"):
        metric(replace(scored(), images=(), prompts=()))
    with pytest.raises(DataError, match="6 pictures and 2 prompts"):
        metric(replace(scored(), prompts=("a cat", "a cat")))


def test_it_tells_better_from_worse(metric: Metric) -> None:
    """By what it is about: pictures of another concept, of another prompt, or the same picture again and again."""
    good = scored()
    pictures = tuple(render_concept(TEAPOT, 6, seed=SEED))
    if metric.aspect == "diversity":
        pictures = tuple(picture for index in (0, 3) for picture in [good.images[index]] * 3)
    better, worse = metric(good), metric(replace(good, images=pictures))
    margin = (better - worse).mean() * (1 if metric.higher_is_better else -1)
    assert margin > 0.05, f"{better.mean():.3f} and {worse.mean():.3f}"


def test_the_concept_swapped_for_each_other_one(metric: Metric) -> None:
    """For likeness: no other shipped concept comes as near as the concept itself."""
    if metric.aspect != "likeness":
        return
    sign = 1 if metric.higher_is_better else -1
    own = sign * metric(scored()).mean()
    for name in [name for name, concept in CONCEPTS.items() if concept.subject is not None and name != CAT][::3]:
        swapped = replace(scored(), images=tuple(render_concept(name, 6, seed=SEED)))
        assert sign * metric(swapped).mean() < own - 0.05, name


def test_the_default_metrics_are_on_the_list_and_share_what_they_load() -> None:
    assert set(DEFAULT_METRICS) <= set(METRICS)
    parts = MetricParts("pocket")
    networks = {id(METRICS[key].build(parts).network) for key in DEFAULT_METRICS}  # type: ignore[attr-defined]
    assert networks == {id(parts.images_and_texts())}


def test_larger_pictures_are_scored_too(metric: Metric) -> None:
    large = [image.resize((96, 128), Image.Resampling.BICUBIC) for image in scored().images]
    assert metric(replace(scored(), images=tuple(large))).isfinite().all()
