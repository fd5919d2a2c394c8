"""Scores worked out by hand from known features, the oracle of torchmetrics, and what metrics are built of."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.multimodal import clip_score

from tests.metric_parts import Reading, mean_absolute_difference, mean_colour_backbone, plain, pocket_clip
from textual_inversion_ext.errors import ConfigError, DataError, MissingDependencyError, ModelError
from textual_inversion_ext.evaluation.backbones import DEFAULT_CLIP, load_image_text_backbone
from textual_inversion_ext.evaluation.metrics import (
    ClipImageMetric,
    ClipTextMetric,
    ClipTextOfMeansMetric,
    DinoMetric,
    DiversityMetric,
    IdentityErrorMetric,
    LpipsMetric,
    MetricParts,
    Scored,
    build_metrics,
)
from textual_inversion_ext.evaluation.score import Score
from textual_inversion_ext.evaluation.texts import TEXT_MODES, scored_text
from textual_inversion_ext.evaluation.views import VIEWS, clipscore, percent, torchmetrics_clip_score, viewed
from textual_inversion_ext.pocket import render_concept
from textual_inversion_ext.pocket.reader import Reader
from textual_inversion_ext.pocket.specs import SubjectSpec

HALF = 0.5**0.5  # cosine of 45 degrees: yellow is as near to red as to green


def close(found: Tensor, *expected: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


# Likeness


@pytest.mark.parametrize("kind", [ClipImageMetric, DinoMetric])
def test_likeness_is_the_mean_over_references(kind: type[ClipImageMetric]) -> None:
    metric = kind(mean_colour_backbone())
    scores = metric(Scored(plain("red", "yellow"), references=plain("red", "green")))
    close(scores, 0.5, HALF)
    assert metric.name == f"{kind.key} (mean-colour)"


def test_its_mean_is_the_mean_over_all_pairs() -> None:
    made, references = render_concept("mochi", 4, seed=1), render_concept("mochi", 3)
    clip = pocket_clip()
    scores = ClipImageMetric(clip)(Scored(tuple(made), references=tuple(references)))
    cosines = [(a @ b).item() for a in clip.images(made) for b in clip.images(references)]
    assert scores.mean().item() == pytest.approx(sum(cosines) / 12, abs=1e-6)


def test_the_upper_bound_with_and_without_self_pairs() -> None:
    metric = ClipImageMetric(mean_colour_backbone())
    references = plain("red", "green", "yellow")
    close(metric.bound(references), (0 + HALF) / 2, (0 + HALF) / 2, HALF)
    close(metric.bound(references, self_pairs=True), (1 + HALF) / 3, (1 + HALF) / 3, (1 + 2 * HALF) / 3)
    shown = render_concept("mochi")
    clip = pocket_clip()
    features = clip.images(shown)
    cosines = [(features[i] @ features[j]).item() for i in range(5) for j in range(5) if i != j]
    assert ClipImageMetric(clip).bound(shown).mean().item() == pytest.approx(sum(cosines) / 20, abs=1e-6)


def test_a_single_reference_has_no_pairs() -> None:
    metric = ClipImageMetric(mean_colour_backbone())
    assert metric.bound(plain("red")).shape == (0,) and metric.bound(()).shape == (0,)
    close(metric.bound(plain("red"), self_pairs=True), 1.0)


# Obedience


def test_mean_of_cosines_and_cosine_of_means() -> None:
    """Two pictures, one prompt: a red and a green one of "something red"."""
    case = Scored(plain("red", "green"), ("something red",) * 2)
    network = mean_colour_backbone()
    close(ClipTextMetric(network)(case), 1.0, 0.0)
    close(ClipTextOfMeansMetric(network)(case), 1 / HALF, 0.0)
    mean = network.images(case.images).mean(0)
    cosine = mean @ network.texts(["red"])[0] / mean.norm()
    assert ClipTextOfMeansMetric(network)(case).mean().item() == pytest.approx(cosine.item()) == pytest.approx(HALF)


def test_each_picture_has_its_own_text() -> None:
    case = Scored(plain("red", "green", "yellow", "green"), ("red", "green", "red", "red"))
    close(ClipTextMetric(mean_colour_backbone())(case), 1.0, 1.0, HALF, 0.0)
    means = ClipTextOfMeansMetric(mean_colour_backbone())(case)
    features = torch.tensor([[1.0, 0, 0], [HALF, HALF, 0], [0, 1.0, 0]])
    length = features.mean(0).norm().item()
    close(means, 1 / length, 1.0, HALF / length, 0.0)


def test_spaces_where_the_word_was_are_of_no_account_to_clip(clip_tokenizer: Any) -> None:
    """Gal et al.'s code leaves two spaces, their paper prints one."""
    code, paper = "A photo of * on the moon".replace("*", ""), "A photo of on the moon"
    assert code != paper and clip_tokenizer(code)["input_ids"] == clip_tokenizer(paper)["input_ids"]
    pocket = pocket_clip()
    assert torch.equal(pocket.texts(["a photo of  on the beach"]), pocket.texts(["a photo of on the beach"]))


def test_torchmetrics_agrees() -> None:
    """Its CLIPScore, with the pocket CLIP in both: of each picture and its text, and of two pictures."""
    network = load_image_text_backbone("pocket")

    class Features:
        """As transformers 4 had it, which torchmetrics expects: the features themselves."""

        config = network.model.config

        def to(self, _: torch.device) -> Features:
            return self

        def get_image_features(self, pixels: Tensor) -> Tensor:
            return network.model.get_image_features(pixels).pooler_output

        def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
            return network.model.get_text_features(ids, mask).pooler_output

    def processor(images: Any = None, text: Any = None, **settings: Any) -> Any:
        return (
            network.image_processor(images, return_tensors="pt")
            if text is None
            else network.tokenizer(text, **settings)
        )

    def theirs(first: Any, second: Any) -> float:
        return float(clip_score(first, second, lambda: (Features(), processor)))

    pictures = tuple(render_concept("mochi", 2) + render_concept("brewster", 2))
    pixels = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]
    prompts = ("a photo of a cat", "a red car at night", "a photo of a teapot", "a green fish")
    with torch.no_grad():
        expected = [theirs(picture, prompt) for picture, prompt in zip(pixels, prompts, strict=True)]
        pairs = [theirs(pixels[i], pixels[3]) for i in range(3)]
    found = ClipTextMetric(network)(Scored(pictures, prompts)).tolist()
    assert [torchmetrics_clip_score(cosine) for cosine in found] == pytest.approx(expected, abs=1e-3)
    images = ClipImageMetric(network)(Scored(pictures[:3], references=pictures[3:])).tolist()
    assert [torchmetrics_clip_score(cosine) for cosine in images] == pytest.approx(pairs, abs=1e-3)


# Diversity


def test_diversity_is_the_mean_distance_to_the_other_samples() -> None:
    metric = DiversityMetric(mean_colour_backbone())
    close(metric(Scored(plain("red", "red", "green"))), 0.5, 0.5, 1.0)
    close(metric(Scored(plain("red", "red"))), 0.0, 0.0)
    two = Scored(plain("red", "red", "green", "yellow"), ("a", "b", "a", "b"))
    close(metric(two), 1.0, 1 - HALF, 1.0, 1 - HALF)


def test_lpips_takes_the_mean_over_all_pairs() -> None:
    metric = LpipsMetric(mean_absolute_difference)
    black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (255, 255, 255))
    close(metric(Scored((black, white, white))), 2.0, 1.0, 1.0)
    half = Image.new("RGB", (8, 8))
    half.paste((255, 255, 255), (0, 0, 4, 8))
    close(metric(Scored((black, half, white, white), ("a", "a", "b", "b"))), 1.0, 1.0, 0.0, 0.0)
    assert metric.name == "lpips (alex)"


def test_lpips_needs_samples_of_one_size() -> None:
    with pytest.raises(DataError, match="of one size"):
        LpipsMetric(mean_absolute_difference)(Scored((Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8)))))


@pytest.mark.skipif(importlib.util.find_spec("lpips") is not None, reason="lpips is installed")
def test_lpips_says_how_to_install_it() -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'textual-inversion-ext\[lpips\]'.*diversity"):
        build_metrics(["lpips"], MetricParts("pocket"))


@pytest.fixture
def alexnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for torchvision's weights that holds none yet."""
    pytest.importorskip("lpips")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"


def test_lpips_itself_with_an_untrained_alexnet(alexnet: Path) -> None:
    import torchvision

    alexnet.parent.mkdir()
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), alexnet)
    (metric,) = build_metrics(["lpips"], MetricParts("pocket"))
    pictures = tuple(render_concept("mochi", 3))
    assert (metric(Scored(pictures)) > 0).all()
    close(metric(Scored((pictures[0],) * 2)), 0.0, 0.0)


def test_weights_of_lpips_that_cannot_be_had_say_where_they_belong(alexnet: Path) -> None:
    alexnet.parent.write_text("a file where a folder has to be", encoding="utf-8")
    with pytest.raises(ModelError, match=r"AlexNet of the metric 'lpips'.*copy that file into .*'diversity'"):
        build_metrics(["lpips"], MetricParts("pocket"))


# Identity


TRUTH = SubjectSpec("cat", (255, 0, 0), (0, 0, 0), aspect=0.5, feature=-1.0, accessory="bow")


class Told:
    """A reader that sees what it is told."""

    def __init__(self, **seen: Any) -> None:
        self.seen = {"main": (1, 0, 0), "accent": (0, 0, 0), "aspect": (0.5,), "feature": (-1.0,), "accessory": "bow"}
        self.seen |= seen

    def read(self, images: list[Image.Image]) -> Reading:
        numbers = {
            name: np.array([value] * len(images), float) for name, value in self.seen.items() if name != "accessory"
        }
        return Reading({"accessory": [self.seen["accessory"]] * len(images)}, numbers)


@pytest.mark.parametrize(
    ("seen", "errors"),
    [
        ({}, {}),
        ({"main": (0, 1, 1)}, {"main": 1.0}),
        ({"accent": (0, 0, 1)}, {"accent": 3**-0.5}),
        ({"aspect": (-0.5,)}, {"aspect": 0.5}),
        ({"feature": (1.5,)}, {"feature": 1.0}),
        ({"accessory": "none"}, {"accessory": 1.0}),
        ({"accessory": "hat", "aspect": (0.0,)}, {"accessory": 1.0, "aspect": 0.25}),
    ],
)
def test_identity_error_is_the_mean_over_attributes(seen: dict[str, Any], errors: dict[str, float]) -> None:
    metric = IdentityErrorMetric(Told(**seen))
    case = Scored(plain("red", "green"), truth=TRUTH)
    found = metric.errors(case)
    assert set(found) == {"main", "accent", "aspect", "feature", "accessory"}
    for name, values in found.items():
        close(values, *[errors.get(name, 0.0)] * 2)
    close(metric(case), *[sum(errors.values()) / 5] * 2)
    assert not metric.higher_is_better and metric.name == "identity_error (Told)"


@pytest.mark.parametrize(("pattern", "error"), [("plain", 1.0), ("spotted", 1.0), ("striped", 0.0), ("checkered", 0.0)])
def test_colours_that_have_no_place_of_their_own_may_be_exchanged(pattern: str, error: float) -> None:
    """But not against a worse order: what is seen in its place stays there."""
    truth = replace(TRUTH, main=(0, 0, 0), accent=(255, 255, 255), pattern=pattern)
    errors = IdentityErrorMetric(Told(main=(1, 1, 1), accent=(0, 0, 0))).errors(Scored(plain("red"), truth=truth))
    close(errors["main"], error)
    close(errors["accent"], error)
    errors = IdentityErrorMetric(Told(main=(0, 0, 0), accent=(1, 1, 0))).errors(Scored(plain("red"), truth=truth))
    close(errors["main"], 0.0)
    close(errors["accent"], 3**-0.5)


def test_a_subject_without_accessory_should_have_none() -> None:
    bare = Scored(plain("red"), truth=replace(TRUTH, accessory=None))
    close(IdentityErrorMetric(Told(accessory="none"))(bare), 0.0)
    close(IdentityErrorMetric(Told(accessory="bow"))(bare), 0.2)


def test_the_reader_of_pocket_pictures_fits() -> None:
    """An untrained one: that its readings are understood, not that they are right."""
    torch.manual_seed(0)
    metric = IdentityErrorMetric(Reader())
    errors = metric.errors(Scored(tuple(render_concept("mochi", 3)), truth=TRUTH))
    assert all(values.shape == (3,) and values.isfinite().all() for values in errors.values())
    assert all(((values >= 0) & (values <= 1)).all() for values in errors.values())


def test_identity_errors_need_a_reader_and_a_truth() -> None:
    with pytest.raises(ConfigError, match=r"--reader benchmarks/reader\.safetensors"):
        build_metrics(["identity_error"], MetricParts("pocket"))
    with pytest.raises(DataError, match="truth"):
        IdentityErrorMetric(Told()).errors(Scored(plain("red")))


# What they are built of


def test_metrics_by_name_share_one_network() -> None:
    parts = MetricParts("pocket", "pocket", dtype=torch.bfloat16)
    keys = ["clip_text", "clip_image", "clip_text", "dino", "diversity"]
    metrics = build_metrics(keys, parts)
    assert [metric.name for metric in metrics] == [f"{key} (pocket)" for key in keys[:2] + keys[3:]]
    assert len({id(metric.network) for metric in metrics}) == 1  # type: ignore[attr-defined]
    assert parts.images_and_texts().model.dtype == torch.bfloat16


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    parts = MetricParts("no-such/model", "no-such/dino", reader=Told())
    assert [metric.key for metric in build_metrics(["identity_error"], parts)] == ["identity_error"]
    with pytest.raises(ModelError, match="no-such/model"):
        build_metrics(["clip_image"], parts)
    with pytest.raises(ModelError, match="no-such/dino"):
        build_metrics(["dino"], parts)


def test_an_unknown_metric_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'fid'; the metrics are: clip_image, clip_text"):
        build_metrics(["clip_image", "fid"], MetricParts("no-such/model"))


def test_the_default_backbone_is_the_one_of_the_papers() -> None:
    assert MetricParts().clip == DEFAULT_CLIP == "openai/clip-vit-base-patch32"
    assert MetricParts().dino == "facebook/dino-vits16"


def test_views_of_a_cosine() -> None:
    assert percent(0.31) == pytest.approx(31) and percent(-0.1) == pytest.approx(-10)
    assert clipscore(0.31) == pytest.approx(0.775) and clipscore(-0.1) == 0
    assert torchmetrics_clip_score(0.31) == pytest.approx(31) and torchmetrics_clip_score(-0.1) == 0
    assert list(VIEWS) == ["percent", "clipscore", "torchmetrics"]


def test_a_score_is_shown_in_the_scale_that_is_asked_for() -> None:
    """The view is taken of each picture: a cosine below 0 counts as none."""
    score = Score.of("clip_text (pocket)", "word", [0.4, -0.2])
    assert viewed(score, "raw") == "0.100 ± 0.300"
    assert viewed(score, "percent") == "10.00 ± 30.00"
    assert viewed(score, "clipscore") == "0.500 ± 0.500"
    assert viewed(score, "torchmetrics") == "20.00 ± 20.00"
    for name in ("dino (x)", "own_similarity of (a) (x)", "cross_similarity of <b> (x)"):
        assert viewed(Score(metric=name, subject="word", mean=0.5, n=1), "percent") == "50.00"
    distance = Score.of("diversity (pocket)", "word", [0.4, 0.2], independent=False)
    assert viewed(distance, "percent") == "0.300" and distance.standard_error is None


# The texts that pictures are held against


def test_the_word_is_left_out_as_gals_code_does_it_or_replaced_by_its_class() -> None:
    assert scored_text("A photo of {} on the moon") == "A photo of  on the moon"
    assert scored_text("A photo of {} on the moon", "class", "a dog") == "A photo of a dog on the moon"
    assert scored_text("{} beside {}", "class", "cat") == "cat beside cat"
    assert TEXT_MODES == ("omit", "class")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a photo of a cat",), "no place for the word"),
        (("a photo of {}", "class"), "needs the class word"),
        (("a photo of {}", "class", ""), "needs the class word"),
        (("a photo of {}", "tidy"), "no text mode 'tidy'; the modes are: omit, class"),
    ],
)
def test_texts_that_cannot_be_made_say_why(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scored_text(*arguments)
