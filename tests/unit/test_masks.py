from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests.runs import rows_of, save_images, train_flags
from tests.tiny import tiny_images
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import Sample, collect_samples, training_data_digest
from textual_inversion_ext.errors import ConfigError, DataError, ImageError, MissingDependencyError, ModelError

SIZE = (24, 16)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def left_half(size: tuple[int, int] = SIZE, inside: int = 255) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(inside, (0, 0, size[0] // 2, size[1]))
    return mask


def read(images: Any, class_name: str | None = None, **settings: Any) -> list[Sample]:
    spec = ConceptSpec("<corgi>", images, class_name=class_name)
    return collect_samples(spec, TextualInversionConfig(**settings))[0]


def same(mask: Image.Image | None, expected: Image.Image) -> bool:
    return mask is not None and (mask.mode, mask.size, mask.tobytes()) == ("L", expected.size, expected.tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(0).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b.jpg")
    left_half().save(tmp_path / "a_mask.png")
    left_half().save(tmp_path / "B.mask.png")
    return tmp_path


@pytest.mark.parametrize("kind", ["files", "auto"])
def test_mask_files(kind: str, folder: Path) -> None:
    samples = read(folder, masks=kind)
    assert [Path(sample.name).name for sample in samples] == ["a.png", "b.jpg"]
    assert all(same(sample.open_mask(), left_half()) for sample in samples)
    listed = read([folder / "b.jpg", folder / "a.png"], masks=kind)
    assert all(same(sample.open_mask(), left_half()) for sample in listed)
    assert same(read(folder / "a.png", masks=kind)[0].open_mask(), left_half())


def test_mask_files_are_never_training_pictures(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        samples = read(folder)
    assert [Path(sample.name).name for sample in samples] == ["a.png", "b.jpg"]
    assert [sample.mask for sample in samples] == [None, None]
    assert "2 mask file(s) beside the pictures are not used" in caplog.text
    found = sorted(folder.iterdir())  # what a search for files gives
    assert [Path(sample.name).name for sample in read(found)] == ["a.png", "b.jpg"]


def test_a_picture_that_is_only_called_like_a_mask_is_a_picture(tmp_path: Path) -> None:
    picture().save(tmp_path / "venetian_mask.png")
    assert len(read(tmp_path)) == 1
    assert len(read([tmp_path / "venetian_mask.png"])) == 1


def cut_out(tmp_path: Path) -> Path:
    image = picture().convert("RGBA")
    image.putalpha(left_half())
    image.save(tmp_path / "cut.png")
    return tmp_path / "cut.png"


def test_the_alpha_channel_is_turned_with_its_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(cut_out(tmp_path)) as image:
        image.save(tmp_path / "cut.png", exif=exif)
    (sample,) = read(tmp_path, masks="alpha")
    assert sample.size == SIZE[::-1]
    assert same(sample.open_mask(), left_half().transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize("kind", ["alpha", "auto"])
def test_the_alpha_channel(kind: str, tmp_path: Path) -> None:
    (sample,) = read(cut_out(tmp_path), masks=kind)
    assert same(sample.open_mask(), left_half())
    # what is hidden never shows: it is white, as without masks
    assert sample.open().getpixel((20, 8)) == (255, 255, 255)
    with Image.open(cut_out(tmp_path)) as image:
        (sample,) = read(image, masks=kind)
    assert same(sample.open_mask(), left_half())


def test_the_first_that_has_one(folder: Path) -> None:
    cut_out(folder).replace(folder / "a.png")
    left_half(inside=0).save(folder / "a_mask.png")
    mask = Image.new("L", SIZE, 255)
    mask.save(folder / "a_mask.png")
    picture(3).save(folder / "c.png")
    file, _, nothing = read(folder, masks="auto")
    assert same(file.open_mask(), mask) and nothing.open_mask() is None
    (folder / "a_mask.png").unlink()
    assert same(read(folder, masks="auto")[0].open_mask(), left_half())


def test_a_mask_is_turned_by_its_own_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "a.jpg", exif=exif)
    left_half().save(tmp_path / "a_mask.jpg", exif=exif, quality=100)
    (sample,) = read(tmp_path, masks="files")
    mask = sample.open_mask()
    assert mask is not None and mask.size == sample.size == SIZE[::-1]
    assert mask.getpixel((4, 2)) > 250 and mask.getpixel((4, 20)) < 5  # the left half is on top now
    (tmp_path / "a_mask.jpg").unlink()
    left_half().save(tmp_path / "a_mask.png")
    with pytest.raises(ImageError, match=r"a_mask\.png .*is 24x16, but its picture is 16x24 upright; .*EXIF rotation"):
        read(tmp_path, masks="files")


VALUES: dict[str, Image.Image] = {
    "1 bit": left_half().convert("1"),
    "RGB": left_half().convert("RGB"),
    "0 and 1": left_half(inside=1),
    "16 bits": Image.fromarray(np.asarray(left_half(), dtype=np.uint16) * 257),
    "transparent outside": Image.merge("LA", (Image.new("L", SIZE, 255), left_half())),
    "palette": left_half().convert("P"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_masks_as_programs_write_them(kind: str, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    VALUES[kind].save(tmp_path / "a_mask.png")
    assert same(read(tmp_path, masks="files")[0].open_mask(), left_half())


def test_grey_edges_stay_grey(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    soft = Image.linear_gradient("L").resize(SIZE)
    soft.save(tmp_path / "a_mask.png")
    assert same(read(tmp_path, masks="files")[0].open_mask(), soft)


def test_masks_that_cannot_be_used_name_their_file(folder: Path) -> None:
    broken: list[tuple[Any, str]] = [
        (lambda file: left_half((12, 8)).save(file), "is 12x8, but its picture is 24x16 upright; save it as large"),
        (lambda file: Image.new("L", SIZE).save(file), "is black everywhere"),
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_bytes(b"hello"), "no picture that can be read"),
    ]
    for write, says in broken:
        write(folder / "a_mask.png")
        with pytest.raises(ImageError, match=rf"a_mask\.png.*{says}.*--skip_bad_images"):
            read(folder, masks="files")
        assert [Path(sample.name).name for sample in read(folder, masks="files", skip_bad_images=True)] == ["b.jpg"]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("files", r"no mask file lies beside it \(c_mask\.png or c\.mask\.png\)"),
        ("alpha", "no transparent pixels"),
        ("column", "column of masks .* holds nothing for it"),
    ],
)
def test_a_missing_mask_says_what_was_looked_for(kind: str, says: str, tmp_path: Path) -> None:
    picture().convert("RGBA").save(tmp_path / "c.png")  # opaque, as most screenshots are
    with pytest.raises(ImageError, match=rf"c\.png has no mask: .*{says}.*--masks auto"):
        read(tmp_path, masks=kind)
    assert read(tmp_path, masks="auto")[0].mask is None


def test_masks_named_in_metadata(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    left_half().save(tmp_path / "masks" / "1.png")
    row = '{{"file_name": "a.png", "mask_file_name": "{}"}}'
    (tmp_path / "metadata.jsonl").write_text(row.format("masks/1.png"))
    (sample,) = read(tmp_path, masks="column")
    assert same(sample.open_mask(), left_half())
    left_half().save(tmp_path / "cover.png")
    (tmp_path / "metadata.jsonl").write_text(row.format("cover.png"))
    (sample,) = read(tmp_path, masks="column")  # so cover.png is no picture
    assert same(sample.open_mask(), left_half())
    (tmp_path / "metadata.jsonl").write_text(row.format("nothing.png"))
    (tmp_path / "cover.png").unlink()
    with pytest.raises(ImageError, match=r"nothing\.png .*cannot be opened"):
        read(tmp_path, masks="column")
    with pytest.raises(DataError, match=r"no column 'area_file_name' or 'area' \(--mask_column\)"):
        read(tmp_path, masks="column", mask_column="area")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mask_column": "m"}, r"--mask_column has no effect with masks=none; add --masks column or auto"),
        ({"mask_column": "m", "masks": "files"}, "--mask_column has no effect with masks=files"),
        ({"mask_model": "m", "masks": "alpha"}, "--mask_model has no effect with masks=alpha"),
        ({"blur_background": 3}, "--blur_background has no effect with masks=none"),
        ({"fill_background": "white"}, "--fill_background has no effect"),
        ({"masks": "model"}, "needs --mask_model"),
        ({"masks": "auto", "mask_label": "dog"}, "--mask_label names a label of --mask_model, which is missing"),
        ({"masks": "auto", "fill_background": "no colour"}, "fill_background is 'no colour'; it must be a colour"),
        ({"masks": "auto", "fill_background": "white", "blur_background": 1}, "replace the same pixels"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], says: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        read(folder, **settings)


@pytest.mark.parametrize("settings", [{"masks": "mask"}, {"blur_background": -1}, {"masks": None}])
def test_values_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        TextualInversionConfig(**settings)


def test_a_filled_background(tmp_path: Path) -> None:
    size = (64, 64)
    picture(0, size).save(tmp_path / "a.png")
    left_half(size).save(tmp_path / "a_mask.png")
    (sample,) = read(tmp_path, masks="files", fill_background="#ff8000")
    result, before = np.asarray(sample.open()), np.asarray(picture(0, size))
    assert (result[:, :30] == before[:, :30]).all()
    assert (result[:, 34:] == [255, 128, 0]).all()
    assert read(tmp_path, masks="files")[0].open().tobytes() == picture(0, size).tobytes()


def test_a_blurred_background_has_no_halo(tmp_path: Path) -> None:
    """White subject, surroundings of two dark greys: blurring mixes the greys, never the white into them."""
    size = (64, 64)
    image = Image.new("RGB", size, (40, 40, 40))
    image.paste((80, 80, 80), (48, 0, 64, 64))
    image.paste("white", (0, 0, 32, 64))
    image.save(tmp_path / "a.png")
    left_half(size).save(tmp_path / "a_mask.png")
    (sample,) = read(tmp_path, masks="files", blur_background=40)
    result = np.asarray(sample.open().convert("L"), dtype=int)
    assert (result[:, :31] == 255).all()
    outside = result[32, 34:]
    assert outside.min() >= 38 and outside.max() <= 82
    assert (np.diff(outside) >= 0).all() and (np.diff(outside) <= 8).all()  # the step of 40 is gone


def test_a_mask_of_ones_changes_nothing(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    Image.new("L", SIZE, 255).save(tmp_path / "a_mask.png")
    for settings in ({"blur_background": 30.0}, {"fill_background": "red"}):
        (sample,) = read(tmp_path, masks="files", **settings)
        assert sample.open().tobytes() == picture().tobytes()


def test_pictures_without_a_mask_keep_their_background(folder: Path) -> None:
    picture(3).save(folder / "c.png")
    assert read(folder, masks="auto", fill_background="red")[2].open().tobytes() == picture(3).tobytes()


def test_the_digest_covers_masks_and_backgrounds_where_they_are_used(folder: Path) -> None:
    def digest(**settings: Any) -> str:
        return training_data_digest(read(folder, **settings))

    plain, masked = digest(), digest(masks="files")
    filled = digest(masks="files", fill_background="red")
    left_half(inside=128).save(folder / "a_mask.png")
    assert digest(masks="files") == masked  # two values: the same mask
    Image.linear_gradient("L").resize(SIZE).save(folder / "a_mask.png")
    other = digest(masks="files")
    blurred = [digest(masks="files", blur_background=radius) for radius in (1, 2)]
    assert len({plain, masked, filled, other, *blurred}) == 6
    assert digest() == plain
    for file in ("a_mask.png", "B.mask.png"):
        (folder / file).unlink()
    assert digest(masks="auto", fill_background="red") == plain  # nothing was found, so nothing was used


def test_settings_reach_a_training(tmp_path: Path) -> None:
    images = save_images(tmp_path / "pictures")
    for number, image in enumerate(tiny_images(3)):
        left_half(image.size).save(images / f"{number}_mask.png")
    rows = {}
    for name, more in {"plain": {}, "filled": {"masks": "files", "fill_background": "white"}}.items():
        flags = train_flags(tmp_path, train_data_dir=images, output_dir=tmp_path / name, **more)
        assert main(flags) == 0
        rows[name] = rows_of(tmp_path / name)
    assert not rows["plain"].equal(rows["filled"])


# Masks by a model


BANDS = ("black", "red", "white")


def bands() -> Image.Image:
    image = Image.new("RGB", SIZE)
    for number, colour in enumerate(BANDS):
        image.paste(colour, (8 * number, 0, 8 * number + 8, 16))
    return image


def band(*numbers: int) -> np.ndarray[Any, Any]:
    expected = np.zeros((16, 24), dtype=bool)
    for number in numbers:
        expected[:, 8 * number : 8 * number + 8] = True
    return expected


def agreement(sample: Sample, expected: np.ndarray[Any, Any]) -> float:
    mask = sample.open_mask()
    assert mask is not None and mask.mode == "L" and mask.size == sample.size
    return float(((np.asarray(mask) == 255) == expected).mean())


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SegFormer that has learned three colours: black is background, red a cat, white a dog."""
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if release < (5, 23):
        pytest.skip("releases before, such as the last for Python 3.10, load no Segformer without torchvision")
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=1, depths=[1], sr_ratios=[1], hidden_sizes=[8], patch_sizes=[3], strides=[1],
        num_attention_heads=[1], mlp_ratios=[1], decoder_hidden_size=8, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, drop_path_rate=0.0, classifier_dropout_prob=0.0,
        id2label={0: "background", 1: "cat, kitten", 2: "Dog"}, label2id={"background": 0, "cat, kitten": 1, "Dog": 2},
    )  # fmt: skip
    model = SegformerForSemanticSegmentation(config).train()
    processor = SegformerImageProcessorPil(size={"height": 16, "width": 24}, do_reduce_labels=False)
    pixels = processor(images=[bands()], return_tensors="pt")["pixel_values"]
    labels = torch.tensor([0] * 8 + [1] * 8 + [2] * 8).repeat(16, 1)[None]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        model(pixel_values=pixels, labels=labels).loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("segmenter")
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("class_name", "label", "parts"),
    [("dog", None, (2,)), ("kitten", None, (1,)), ("cat", "dog", (2,)), (None, "cat, dog", (1, 2))],
)
def test_a_model_makes_the_masks(
    class_name: str | None, label: str | None, parts: tuple[int, ...], segmenter: Path, tmp_path: Path
) -> None:
    bands().save(tmp_path / "a.png")
    (sample,) = read(tmp_path, class_name, masks="model", mask_model=str(segmenter), mask_label=label)
    assert agreement(sample, band(*parts)) > 0.95
    again = read(tmp_path, class_name, masks="model", mask_model=str(segmenter), mask_label=label)
    assert training_data_digest([sample]) == training_data_digest(again)


def test_a_model_fills_in_what_has_no_mask(segmenter: Path, tmp_path: Path) -> None:
    bands().save(tmp_path / "a.png")
    bands().save(tmp_path / "b.png")
    left_half().save(tmp_path / "a_mask.png")
    own, made = read(tmp_path, "dog", masks="auto", mask_model=str(segmenter), fill_background="blue")
    assert same(own.open_mask(), left_half())
    assert agreement(made, band(2)) > 0.95
    assert made.open().getpixel((2, 8)) == (0, 0, 255)


def test_a_picture_in_which_a_model_finds_nothing(segmenter: Path, tmp_path: Path) -> None:
    bands().save(tmp_path / "a.png")
    Image.new("RGB", SIZE).save(tmp_path / "night.png")
    settings = {"masks": "model", "mask_model": str(segmenter)}
    with pytest.raises(ImageError, match=r"night\.png: mask_model .* finds no Dog in it, only background"):
        read(tmp_path, "dog", **settings)
    assert len(read(tmp_path, "dog", skip_bad_images=True, **settings)) == 1


def relabelled(segmenter: Path, folder: Path, *labels: str) -> Path:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    model = AutoModelForSemanticSegmentation.from_pretrained(segmenter)
    model.config.id2label = dict(enumerate(labels))
    model.save_pretrained(folder)
    AutoImageProcessor.from_pretrained(segmenter).save_pretrained(folder)
    return folder


def test_a_model_that_knows_one_thing_needs_no_name(segmenter: Path, tmp_path: Path) -> None:
    bands().save(tmp_path / "a.png")
    model = relabelled(segmenter, tmp_path / "model", "background", "unlabeled", "salient")
    (sample,) = read(tmp_path / "a.png", "corgi", masks="model", mask_model=str(model))
    assert agreement(sample, band(2)) > 0.95


@pytest.mark.parametrize(
    ("class_name", "label", "says"),
    [
        (None, None, "no class_name is given. Say --mask_label .*: background, cat, kitten, Dog"),
        ("corgi", None, "class_name is 'corgi', which is none of them"),
        ("dog", "corgi", "mask_label is 'corgi'; the labels of .* are: background, cat, kitten, Dog"),
        ("dog", "", "mask_label is ''"),
    ],
)
def test_labels_that_are_not_there(
    class_name: str | None, label: str | None, says: str, segmenter: Path, tmp_path: Path
) -> None:
    bands().save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=says):
        read(tmp_path, class_name, masks="model", mask_model=str(segmenter), mask_label=label)


@pytest.mark.skipif(importlib.util.find_spec("scipy") is not None, reason="what the model lacks is installed")
def test_a_model_that_needs_another_package_says_which(tmp_path: Path) -> None:
    """MaskFormer needs scipy, which is no dependency of ours."""
    from safetensors.torch import save_file
    from transformers import MaskFormerConfig
    from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil

    MaskFormerConfig(architectures=["MaskFormerForInstanceSegmentation"]).save_pretrained(tmp_path / "model")
    MaskFormerImageProcessorPil().save_pretrained(tmp_path / "model")
    save_file({"x": torch.zeros(1)}, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    bands().save(tmp_path / "a.png")
    with pytest.raises(MissingDependencyError, match=r"mask_model .*model' needs a package .*pip install scipy"):
        read(tmp_path, "dog", masks="model", mask_model=str(tmp_path / "model"))


def test_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    bands().save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for model in (str(tmp_path / "empty"), "user/model"):
        with pytest.raises(ModelError, match="Cannot load the mask_model"):
            read(tmp_path, "dog", masks="model", mask_model=model)
