"""Data sets that `datasets` loads: in folders, and against the tests' own server."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from tests import hub_server
from tests.hub_server import HubServer
from tests.runs import rows_of, save_images, train_flags
from tests.tiny import tiny_images
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.concept import ConceptSpec, HubDataset
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import Sample, collect_samples
from textual_inversion_ext.data.sources.hub_datasets import load_hub_dataset
from textual_inversion_ext.errors import ConceptError, DataError, ImageError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def table(count: int = 3, **more: list[Any]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    columns = {
        "image": [{"bytes": png(image), "path": None} for image in tiny_images(count)],
        "text": [f"caption {n}" for n in range(count)],
    }
    data = datasets.Dataset.from_dict(columns, features=features)
    for name, values in more.items():
        data = data.add_column(name, values)
    return data


def parquet(folder: Path, **splits: int) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, count in splits.items():
        table(count).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def read(source: Any, **settings: Any) -> list[Sample]:
    return collect_samples(ConceptSpec("<corgi>", source), TextualInversionConfig(**settings))[0]


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "set", train=3)
    samples = read(HubDataset(str(folder)), captions="captions")
    assert [sample.caption for sample in samples] == ["caption 0", "caption 1", "caption 2"]
    assert [sample.open().tobytes() for sample in samples] == [image.tobytes() for image in tiny_images(3)]
    assert [sample.captions for sample in read(HubDataset(str(folder)))] == [(), (), ()]


def test_an_imagefolder_with_sub_folders_and_metadata(tmp_path: Path) -> None:
    inside = save_images(tmp_path / "set" / "train" / "pictures")
    rows = [{"file_name": f"pictures/{n}.png", "text": f"caption {n}"} for n in range(3)]
    (inside.parent / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = read(HubDataset(str(tmp_path / "set")), captions="captions")
    assert [sample.caption for sample in samples] == ["caption 0", "caption 1", "caption 2"]
    assert [sample.name for sample in samples] == ["row 0 (0.png)", "row 1 (1.png)", "row 2 (2.png)"]


def test_mask_files_of_an_imagefolder_are_no_pictures(tmp_path: Path) -> None:
    for part in ("one", "two"):
        inside = save_images(tmp_path / "set" / "train" / part, 2)
        Image.new("L", tiny_images(1)[0].size, 255).save(inside / "1_mask.png")
    source = HubDataset(str(tmp_path / "set"))
    assert [sample.name.partition("(")[2] for sample in read(source)] == ["0.png)", "1.png)"] * 2
    samples = read(source, masks="auto")
    assert [sample.mask is not None for sample in samples] == [False, True] * 2
    assert all(sample.open_mask() for sample in samples[1::2])
    with pytest.raises(ImageError, match=r"row 0 \(0\.png\) has no mask: no mask file lies beside it \(0_mask"):
        read(source, masks="files")


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    table(2).save_to_disk(tmp_path / "one")
    assert len(read(HubDataset(str(tmp_path / "one")))) == 2
    datasets.DatasetDict(train=table(1), test=table(2)).save_to_disk(tmp_path / "two")
    assert len(read(HubDataset(str(tmp_path / "two"), "test"))) == 2
    with pytest.raises(DataError, match="saved without splits"):
        read(HubDataset(str(tmp_path / "one"), "train"))


@pytest.mark.parametrize(
    ("split", "count"), [(None, 4), ("train", 4), ("test", 2), ("train[:2]", 2), ("train[50%:]+test", 4)]
)
def test_parts(split: str | None, count: int, tmp_path: Path) -> None:
    folder = parquet(tmp_path / "set", train=4, test=2)
    assert len(load_hub_dataset(HubDataset(str(folder), split))) == count


def test_the_only_split_is_taken_whatever_its_name(tmp_path: Path) -> None:
    assert len(load_hub_dataset(HubDataset(str(parquet(tmp_path / "set", validation=2))))) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"split": "dev"}, r"no split 'dev'; it has: test, validation"),
        ({}, r"no split 'train'; it has: test, validation\. Choose one with --dataset_split"),
        ({"split": "train[:x]"}, r"cannot be read \(.*train\[:x\]"),
        ({"revision": "v1"}, "no revisions; leave --dataset_revision out"),
        ({"config_name": "big"}, "choose a configuration with --dataset_config_name .*'default'"),
    ],
)
def test_parts_that_are_not_there(options: dict[str, str], says: str, tmp_path: Path) -> None:
    folder = parquet(tmp_path / "set", test=1, validation=1)
    with pytest.raises(DataError, match=f"<corgi>: the data set .*set' .*{says}") as caught:
        read(HubDataset(str(folder), **options))
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"no parquet")
    for name, says in [("empty", "cannot be read"), ("text", "no image column"), ("broken", "cannot be read")]:
        with pytest.raises(DataError, match=f"<corgi>: .*{says}"):
            read(HubDataset(str(tmp_path / name)))


def test_without_a_connection_both_readings_are_told() -> None:
    with pytest.raises(DataError, match="'user/corgis' cannot be read: it is no folder here, and the Hub"):
        read(HubDataset("user/corgis"))


def test_columns_can_be_named(tmp_path: Path) -> None:
    data = table(2).rename_columns({"image": "photo", "text": "title"}).add_column("views", [1, 2])
    samples = read(data, image_column="photo", caption_column="title", captions="captions")
    assert [sample.caption for sample in samples] == ["caption 0", "caption 1"]
    for settings, says in [
        ({"image_column": "picture"}, r"no column 'picture' \(--image_column\); it has: photo, title, views"),
        ({"image_column": "title"}, r"'title' \(--image_column\) does not hold pictures"),
        ({"caption_column": "words", "captions": "both"}, r"no column 'words' \(--caption_column\)"),
        ({"caption_column": "views", "captions": "both"}, r"'views' \(--caption_column\) does not hold text"),
        ({"masks": "column", "mask_column": "m"}, r"no column 'm' \(--mask_column\)"),
        ({"masks": "column", "mask_column": "title"}, r"'title' \(--mask_column\) does not hold pictures"),
    ]:
        with pytest.raises(DataError, match=says):
            read(data, **settings)


def test_a_column_of_several_captions_and_empty_cells() -> None:
    data = table(3).remove_columns("text").add_column("captions", [["a dog", " a\ndog "], [], None])
    assert [sample.captions for sample in read(data, captions="captions")] == [("a dog", "a dog"), (), ()]


def test_a_column_of_masks(tmp_path: Path) -> None:
    masks = [Image.new("L", image.size, 255) for image in tiny_images(2)]
    cells = [{"bytes": png(mask), "path": None} for mask in masks]
    data = table(2).add_column("mask", cells).cast_column("mask", datasets.Image())
    for settings in ({"masks": "column"}, {"masks": "auto"}, {"masks": "column", "mask_column": "mask"}):
        opened = [sample.open_mask() for sample in read(data, **settings)]
        assert [mask.tobytes() for mask in opened if mask] == [mask.tobytes() for mask in masks]
    assert [sample.mask for sample in read(data)] == [None, None]
    with pytest.raises(ImageError, match="row 0 has no mask: the column of masks"):
        read(table(1), masks="column")
    small = [{"bytes": png(Image.new("L", (3, 2), 255)), "path": None}]
    data = table(1).add_column("mask", small).cast_column("mask", datasets.Image())
    with pytest.raises(ImageError, match="the mask of row 0 is 3x2, but its picture is"):
        read(data, masks="column")


def test_a_hub_data_set_is_recorded_in_the_run(tmp_path: Path) -> None:
    spec = ConceptSpec("<corgi>", HubDataset("user/corgis", "train[:5]", None, "v1"))
    stored = json.loads(json.dumps(spec.to_dict()))
    assert ConceptSpec.from_dict(stored).images == spec.images
    for images in ({"dataset_name": 3}, {"dataset_name": " "}, {"dataset_name": "a/b", "token": "hf_secret"}):
        with pytest.raises(ConceptError, match="data set"):
            ConceptSpec("<corgi>", images)  # type: ignore[arg-type]


def test_training_on_a_data_set_repeats_from_its_run_file(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "set", train=3)
    flags = train_flags(tmp_path, dataset_name=folder, dataset_split="train")
    place = flags.index("--train_data_dir")
    assert main(flags[:place] + flags[place + 2 :]) == 0
    again = ["train", "--config", str(tmp_path / "out" / "config.json"), "--output_dir", str(tmp_path / "again")]
    assert main(again) == 0
    assert rows_of(tmp_path / "out").equal(rows_of(tmp_path / "again"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    folder = parquet(tmp_path / "source", train=2, test=1)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}
    with HubServer(tmp_path / "hub") as server:
        server.users.add("user")
        server.put("datasets/user/corgis", files)
        server.put("datasets/user/private", files, private=True)
        server.put("datasets/user/gated", files, gated=True)
        server.put("datasets/user/none", {"README.md": b"# nothing"})
        yield server


SCRIPT = """
import json, sys
from textual_inversion_ext import ConceptSpec, DataError, HubDataset, TextualInversionConfig
from textual_inversion_ext.data.sources.collect import collect_samples
for options in json.load(sys.stdin):
    spec = ConceptSpec("<corgi>", HubDataset(**options))
    try:
        samples, _ = collect_samples(spec, TextualInversionConfig(captions="captions"))
        print(json.dumps([sample.caption for sample in samples]))
    except DataError as error:
        print(json.dumps(str(error)))
"""


def ask(hub: HubServer, home: Path, questions: list[dict[str, str]], token: str | None = None) -> list[Any]:
    """In a process of its own: the client reads its settings once, and this one is offline."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(questions),
        env=hub_server.settings(hub.endpoint, home, token=token),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "hf_user" not in result.stdout + result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_loading_from_a_server(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.repositories["datasets/user/corgis"].head().oid
    questions: list[tuple[dict[str, str], str | list[str]]] = [
        ({"dataset_name": "user/corgis"}, ["caption 0", "caption 1"]),
        ({"dataset_name": "user/corgis", "split": "test"}, ["caption 0"]),
        ({"dataset_name": "user/corgis", "revision": commit, "split": "train[1:]"}, ["caption 1"]),
        ({"dataset_name": "user/corgis", "split": "dev"}, "no split 'dev'; it has: "),
        ({"dataset_name": "user/corgis", "revision": "v9"}, r"no revision 'v9' \(--dataset_revision\)"),
        ({"dataset_name": "user/corgis", "config_name": "big"}, "choose a configuration .*'default'"),
        ({"dataset_name": "user/missing"}, "none of this name on the Hub .*or it is private; .*HF_TOKEN"),
        ({"dataset_name": "user/private"}, "none of this name on the Hub .*or it is private; .*HF_TOKEN"),
        ({"dataset_name": "user/gated"}, "it is gated; accept its terms"),
        ({"dataset_name": "user/none"}, "cannot be read"),
    ]
    answers = ask(hub, tmp_path / "home", [options for options, _ in questions])
    for (options, expected), answer in zip(questions, answers, strict=True):
        if isinstance(expected, list):
            assert answer == expected, options
        else:
            assert isinstance(answer, str) and re.search(expected, answer), (options, answer)


def test_a_private_data_set_is_read_with_the_token_of_the_environment(hub: HubServer, tmp_path: Path) -> None:
    (answer,) = ask(hub, tmp_path / "home", [{"dataset_name": "user/private"}], token="hf_user_read")
    assert answer == ["caption 0", "caption 1"]
    assert "hf_user_read" in [entry.token for entry in hub.log.entries()]
    written = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and b"hf_user" in path.read_bytes()]
    assert written == []
