from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import save_images
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.sources.collect import collect_samples, training_data_digest
from textual_inversion_ext.errors import DataError

CAPTIONED = TextualInversionConfig(captions="captions")


def captions(images: Any, **settings: Any) -> list[tuple[str, ...]]:
    config = TextualInversionConfig(**{"captions": "captions", **settings})
    return [sample.captions for sample in collect_samples(ConceptSpec("<corgi>", images), config)[0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_images(tmp_path / "corgi")


def write_json_lines(file: Path, *rows: dict[str, Any]) -> None:
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def test_a_text_beside_each_picture(folder: Path) -> None:
    (folder / "0.txt").write_text("a dog on a lawn")
    (folder / "1.caption").write_text("a dog in a car")
    assert captions(folder) == [("a dog on a lawn",), ("a dog in a car",), ()]
    assert captions([folder / "1.png", folder / "0.png"]) == [("a dog in a car",), ("a dog on a lawn",)]
    assert captions(folder / "0.png") == [("a dog on a lawn",)]


def test_captions_are_read_only_where_they_are_used(folder: Path) -> None:
    (folder / "0.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "metadata.jsonl").write_text("{")
    assert captions(folder, captions="templates") == [(), (), ()]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a dog", ("a dog",)),
        (b"\xef\xbb\xbfa dog\r\n", ("a dog",)),
        (b"  a dog\r\non\ta   lawn\n\n", ("a dog on a lawn",)),
        ("ein Hündchen".encode(), ("ein Hündchen",)),
        ("ein Hündchen".encode("utf-16"), ("ein Hündchen",)),
        ("ein Hu\u0308ndchen".encode(), ("ein H\u00fcndchen",)),
        ("a\u2028dog \ufeff".encode(), ("a dog",)),
        (b"", ()),
        (b" \n", ()),
    ],
)
def test_text_is_cleaned(content: bytes, expected: tuple[str, ...], folder: Path) -> None:
    (folder / "0.txt").write_bytes(content)
    assert captions(folder)[0] == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("ein Hündchen".encode("latin-1"), r"0\.txt is not UTF-8 text \(byte 5 is 0xFC\)"),
        ("a dog".encode("utf-16-le"), r"0\.txt holds null characters"),
        (b"\xff\xfea", r"0\.txt is not UTF-16 text"),
    ],
)
def test_other_encodings_are_named(content: bytes, says: str, folder: Path) -> None:
    (folder / "0.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"<corgi>: .*{says}"):
        captions(folder)


def test_a_folder_with_the_name_of_a_text_is_no_text(folder: Path) -> None:
    (folder / "0.txt").mkdir()
    assert captions(folder)[0] == ()


def test_json_lines(folder: Path) -> None:
    rows = [{"file_name": "1.png", "text": "one"}, {"file_name": "./0.png", "text": "zero", "width": 3}]
    write_json_lines(folder / "metadata.jsonl", *rows)
    assert captions(folder) == [("zero",), ("one",), ()]


def test_a_table(folder: Path) -> None:
    (folder / "metadata.csv").write_text('\ufefffile_name,text\n1.png,"a dog, on\na lawn"\n2.png,\n', encoding="utf-8")
    assert captions(folder) == [(), ("a dog, on a lawn",), ()]


def test_several_captions_of_people(folder: Path) -> None:
    table = {"0.png": ["a dog", "a small brown dog\nthat sits", ""], "1.png": "a dog in a car"}
    (folder / "captions.json").write_text(json.dumps(table))
    assert captions(folder) == [("a dog", "a small brown dog that sits"), ("a dog in a car",), ()]
    (sample, *_), _ = collect_samples(ConceptSpec("<corgi>", folder), CAPTIONED)
    assert sample.caption == "a dog"


def test_which_caption_wins(folder: Path) -> None:
    writers = [
        lambda: (folder / "0.caption").write_text("caption"),
        lambda: (folder / "0.txt").write_text("txt"),
        lambda: (folder / "metadata.csv").write_text("file_name,text\n0.png,csv"),
        lambda: write_json_lines(folder / "metadata.jsonl", {"file_name": "0.png", "text": "jsonl"}),
        lambda: (folder / "captions.json").write_text('{"0.png": "json"}'),
    ]
    for write, expected in zip(writers, ["caption", "txt", "csv", "jsonl", "json"], strict=True):
        write()
        assert captions(folder)[0] == (expected,)
    (folder / "captions.json").write_text('{"0.png": ""}')
    assert captions(folder)[0] == ("jsonl",)


def test_the_column_can_be_chosen(folder: Path) -> None:
    write_json_lines(folder / "metadata.jsonl", {"file_name": "0.png", "caption": "c", "title": "t"})
    assert captions(folder)[0] == ("c",)
    assert captions(folder, caption_column="title")[0] == ("t",)
    with pytest.raises(DataError, match=r"no column 'words' \(--caption_column\); it has: file_name, caption, title"):
        captions(folder, caption_column="words")


def test_pictures_in_sub_folders_are_found_through_metadata(tmp_path: Path) -> None:
    save_images(tmp_path / "all" / "sub")
    with pytest.raises(DataError, match="Sub-folders are not searched"):
        captions(tmp_path / "all")
    rows = [{"file_name": "sub/2.png", "text": "two"}, {"file_name": "sub\\0.png", "text": "zero"}]
    write_json_lines(tmp_path / "all" / "metadata.jsonl", *rows)
    assert captions(tmp_path / "all") == [("two",), ("zero",)]
    samples, _ = collect_samples(ConceptSpec("<corgi>", tmp_path / "all"))
    assert [Path(sample.name).name for sample in samples] == ["2.png", "0.png"]


def test_captions_for_pictures_that_are_not_there_are_mentioned(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "captions.json").write_text('{"0.png": "zero", "9.png": "mistyped"}')
    assert captions(folder) == [("zero",), (), ()]
    assert "9.png" in caplog.text and "0.png" not in caplog.text.replace("9.png", "")


BROKEN = {
    "no json": ("metadata.jsonl", "{'file_name': 1}", "line 1 is not valid JSON"),
    "no object": ("metadata.jsonl", '{"file_name": "0.png"}\n[1]', "line 2 must be an object"),
    "no name": ("metadata.jsonl", '{"text": "x"}', "line 1: no file_name"),
    "outside": ("metadata.jsonl", '{"file_name": "../0.png"}', "lies outside the folder"),
    "absolute": ("metadata.jsonl", '{"file_name": "/0.png"}', "lies outside the folder"),
    "twice": ("metadata.jsonl", '{"file_name": "0.png"}\n\n{"file_name": "./0.png"}', "line 3: .* has a row already"),
    "a number": ("metadata.jsonl", '{"file_name": "0.png", "text": 3}', "a caption is 3; it must be text"),
    "no header": ("metadata.csv", "0.png,a dog\n1.png,a cat", "line 2: no file_name"),
    "too many": ("metadata.csv", "file_name,text\n0.png,a,dog", "line 2: more values than columns"),
    "open quote": ("metadata.csv", 'file_name,text\n0.png,"a dog', "is not valid CSV"),
    "no captions": ("captions.json", "{", "captions.json is not valid JSON"),
    "a list": ("captions.json", "[]", "must be an object"),
    "deep": ("captions.json", '{"0.png": [["a"]]}', r"0\.png: a caption is \['a'\]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_say_where(case: str, folder: Path) -> None:
    name, content, says = BROKEN[case]
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=f"<corgi>: .*{says}") as caught:
        captions(folder)
    assert name in str(caught.value)


def test_the_digest_covers_captions_where_they_are_used(folder: Path) -> None:
    def digest(**settings: Any) -> str:
        config = TextualInversionConfig(**settings)
        return training_data_digest(collect_samples(ConceptSpec("<corgi>", folder), config)[0])

    plain = digest()
    assert digest(captions="captions") == plain
    (folder / "0.txt").write_text("a dog")
    one = digest(captions="captions")
    (folder / "0.txt").write_text("a cat")
    two = digest(captions="both")
    assert len({plain, one, two}) == 3 and digest() == plain
