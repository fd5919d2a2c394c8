from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from textual_inversion_ext.concept import ConceptSpec, HubDataset
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import collect_samples, training_data_digest
from textual_inversion_ext.errors import DataError, ImageError

SKIPPING = TextualInversionConfig(skip_bad_images=True)


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def spec(images: Any) -> ConceptSpec:
    return ConceptSpec("<corgi>", images)


def names(images: Any) -> list[str]:
    return [Path(sample.name).name for sample in collect_samples(spec(images))[0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(["img10.png", "img2.png", "IMG1.PNG"]):
        picture(seed).save(tmp_path / name)
    return tmp_path


def test_a_folder_is_read_in_natural_order(folder: Path) -> None:
    assert names(folder) == names(str(folder)) == ["IMG1.PNG", "img2.png", "img10.png"]


def test_what_lies_beside_the_pictures_is_passed_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (".hidden.png", "._img2.png", "img2.txt", "Thumbs.db", "desktop.ini", "metadata.jsonl", ".DS_Store"):
        (folder / name).write_text("not a picture")
    for name in ("sub", "__MACOSX", "sub.png"):
        (folder / name).mkdir()
        picture(9).save(folder / name / "inside.png")
    assert names(folder) == ["IMG1.PNG", "img2.png", "img10.png"]
    assert not caplog.text


def test_files_that_someone_may_have_meant_as_pictures_are_mentioned(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "clip.mp4").write_bytes(b"x")
    assert len(names(folder)) == 3
    assert "clip.mp4" in caplog.text


def test_a_column_of_a_folder_is_mentioned(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples, _ = collect_samples(spec(folder), TextualInversionConfig(image_column="photo"))
    assert len(samples) == 3
    assert "--image_column photo names a column of a data set" in caplog.text


def test_samples_know_their_picture(folder: Path) -> None:
    samples, skipped = collect_samples(spec(folder), concept=4)
    assert not skipped and {sample.concept for sample in samples} == {4}
    assert samples[0].size == (12, 10) and samples[0].name == str(folder / "IMG1.PNG")
    assert samples[0].open().tobytes() == picture(2).tobytes()


def test_lists_keep_their_order_and_may_mix_paths_and_pictures(folder: Path) -> None:
    images = [folder / "img2.png", picture(7), str(folder / "img10.png"), folder / "img2.png"]
    samples, _ = collect_samples(spec(images))
    assert [Path(sample.name).name for sample in samples] == [
        "img2.png",
        "picture 2 of the list",
        "img10.png",
        "img2.png",
    ]
    assert samples[1].open().tobytes() == picture(7).tobytes()


def test_one_picture_is_a_source_too(folder: Path) -> None:
    assert names(folder / "img2.png") == ["img2.png"]
    assert len(names(picture(0))) == 1


def test_the_home_folder_sign_is_understood(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert len(names(f"~/{folder.name}")) == 3


@pytest.mark.parametrize("images", ["~no-such-user/x", ["~no-such-user/x.png"], HubDataset("~no-such-user/x")])
def test_the_home_folder_of_nobody(images: Any) -> None:
    with pytest.raises(DataError, match="<corgi>: .*~no-such-user/x.*no user of this name.*full path"):
        collect_samples(spec(images))


BAD: dict[str, Callable[[Path], Any]] = {
    "zero bytes": lambda path: path.write_bytes(b""),
    "no picture": lambda path: path.write_bytes(b"hello"),
    "cut": lambda path: path.write_bytes(png(picture(0, (64, 64)))[:500]),
    "dangling link": lambda path: path.symlink_to(path.parent / "nowhere"),
    "moving": lambda path: picture(0).save(path, "GIF", save_all=True, append_images=[picture(1)]),
}


@pytest.mark.parametrize("damage", BAD)
def test_one_bad_picture_names_itself_or_is_skipped(damage: str, folder: Path) -> None:
    BAD[damage](folder / "img3.png")
    with pytest.raises(ImageError, match=r"img3\.png.*--skip_bad_images"):
        collect_samples(spec(folder))
    samples, skipped = collect_samples(spec(folder), SKIPPING)
    assert [Path(sample.name).name for sample in samples] == ["IMG1.PNG", "img2.png", "img10.png"]
    assert [item.name for item in skipped] == [str(folder / "img3.png")] and skipped[0].name in skipped[0].reason


def test_only_bad_pictures_are_an_error_even_when_skipping(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="<corgi>: no usable picture among 20") as caught:
        collect_samples(spec(tmp_path), SKIPPING)
    assert str(caught.value).count("zero bytes") == 8


def test_a_missing_folder_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="<corgi>: folder 'user/corgis' does not exist") as caught:
        collect_samples(spec("user/corgis"))
    assert str(tmp_path / "user" / "corgis") in str(caught.value)


def test_places_that_are_read_in_another_way_say_how(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"")
    for images, says in [
        ("user/corgis", r"--dataset_name USER/NAME, in Python as HubDataset"),
        (tmp_path, f"--dataset_name {tmp_path}"),
    ]:
        with pytest.raises(DataError, match=says):
            collect_samples(spec(images))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        collect_samples(spec(tmp_path))


def test_a_folder_without_pictures_says_what_it_holds_and_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "dog").mkdir()
    picture(0).save(tmp_path / "dog" / "1.png")
    with pytest.raises(DataError) as caught:
        collect_samples(spec(tmp_path))
    for expected in ("notes.txt", ".hidden.png", "dog/", ".jpg", ".webp", str(tmp_path / "dog")):
        assert expected in str(caught.value)


@pytest.mark.parametrize("images", [None, "", 3, b"photos", {"a": 1}, [], (), iter([])])
def test_sources_that_are_none_are_refused(images: Any) -> None:
    with pytest.raises(DataError, match="<corgi>"):
        collect_samples(spec(images))


@pytest.mark.parametrize("item", [3, None, b"x", np.zeros((4, 4, 3), np.uint8)])
def test_items_that_are_no_pictures_are_named(item: Any) -> None:
    with pytest.raises(ImageError):
        collect_samples(spec([picture(0), item]))


def table(**columns: Any) -> datasets.Dataset:
    features = {
        name: datasets.Image() if values[0] is not None else datasets.Value("string")
        for name, values in columns.items()
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.mark.parametrize("column", ["image", "photo"])
def test_a_data_set_with_one_image_column(column: str) -> None:
    data = table(**{column: [picture(0), picture(1)], "text": [None, None]})
    samples, _ = collect_samples(spec(data))
    assert [sample.name for sample in samples] == ["row 0", "row 1"]
    assert samples[1].open().tobytes() == picture(1).tobytes()


def test_a_column_called_image_is_preferred() -> None:
    samples, _ = collect_samples(spec(table(mask=[picture(0)], image=[picture(1)])))
    assert samples[0].open().tobytes() == picture(1).tobytes()


def test_a_data_set_of_files_chosen_rows_and_other_formats(folder: Path) -> None:
    data = table(image=[str(folder / "img2.png"), str(folder / "img10.png")]).with_format("numpy").select([1])
    samples, _ = collect_samples(spec(data))
    assert [sample.name for sample in samples] == ["row 0 (img10.png)"] and samples[0].size == (12, 10)


def test_a_bad_row_names_itself() -> None:
    cells = [{"bytes": png(picture(0)), "path": None}, {"bytes": b"hello", "path": "dog.png"}, None]
    data = table(image=cells)
    with pytest.raises(ImageError, match=r"row 1 \(dog.png\)"):
        collect_samples(spec(data))
    samples, skipped = collect_samples(spec(data), SKIPPING)
    assert [sample.name for sample in samples] == ["row 0"]
    assert [item.name for item in skipped] == ["row 1 (dog.png)", "row 2"]


def test_data_sets_that_leave_a_choice_open_say_which() -> None:
    one = table(image=[picture(0)])
    for data, says in [
        (table(a=[picture(0)], b=[picture(1)]), r"several image columns \(a, b\)"),
        (table(text=[None]), r"no image column; it has text \(Value\)"),
        (datasets.DatasetDict({"train": one}), r"data\['train'\]"),
        (one.to_iterable_dataset(), "streaming"),
    ]:
        with pytest.raises(DataError, match=says):
            collect_samples(spec(data))


def test_the_digest_is_of_pixels_and_order_only(folder: Path) -> None:
    def digest(images: Any) -> str:
        return training_data_digest(collect_samples(spec(images))[0])

    files = [folder / name for name in ("IMG1.PNG", "img2.png", "img10.png")]
    (folder / "other").mkdir()
    same = folder / "other" / "same.bmp"
    picture(2).save(same)
    assert digest(folder) == digest(files) == digest([picture(2), *files[1:]]) == digest([same, *files[1:]])
    assert len({digest(folder), digest(files[::-1]), digest(files[:2]), digest(files + files[:1])}) == 4
    flat = Image.new("RGB", (4, 2))
    assert digest([flat]) != digest([flat.resize((2, 4))])
