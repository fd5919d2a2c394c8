"""Files that mean harm, or are damaged: our error and no other, nothing executed, nothing written."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import EmbeddingFileError
from textual_inversion_ext.files import load_concept, load_concepts, save_concept

ROWS = torch.arange(8.0).reshape(2, 4)
quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Runs:
    """A pickle of this calls a function when it is loaded carelessly."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def by_torch(file: Path, value: object) -> None:
    torch.save(value, file)


def by_old_torch(file: Path, value: object) -> None:
    torch.save(value, file, _use_new_zipfile_serialization=False)


def by_pickle(file: Path, value: object) -> None:
    file.write_bytes(pickle.dumps(value, protocol=4))


def by_old_pickle(file: Path, value: object) -> None:
    file.write_bytes(pickle.dumps(value, protocol=0))


@pytest.mark.parametrize("save", [by_torch, by_old_torch, by_pickle, by_old_pickle])
@pytest.mark.parametrize("ending", ["pt", "bin", "safetensors"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda mark: Runs(os.mkdir, mark),
        lambda mark: {"<a>": ROWS, "x": Runs(os.mkdir, mark)},
        lambda mark: {"string_to_param": {"*": ROWS}, "name": Runs(exec, f"import os; os.mkdir({mark!r})")},
        lambda mark: OrderedDict([("<a>", ROWS), ("b", Runs(getattr, dict, "fromkeys"))]),
        lambda mark: {Runs(eval, f"__import__('os').mkdir({mark!r})"): ROWS},
        lambda mark: nn.ParameterDict({"a": nn.Parameter(ROWS)}).register_forward_hook(Runs(os.mkdir, mark)),
    ],
    ids=["alone", "value", "name", "getattr", "key", "hook"],
)
def test_a_malicious_pickle_runs_nothing(
    save: Callable[[Path, object], None], ending: str, harm: Callable[[str], object], tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    file = tmp_path / f"learned_embeds.{ending}"
    save(file, harm(str(mark)))
    before = sorted(tmp_path.iterdir())
    for place in (file, tmp_path):
        with pytest.raises(EmbeddingFileError) as caught:
            load_concept(place)
        assert str(file) in str(caught.value) and "weights_only" not in str(caught.value)
    assert not mark.exists() and sorted(tmp_path.iterdir()) == before


def test_a_malicious_pickle_is_called_that(tmp_path: Path) -> None:
    by_torch(tmp_path / "a.pt", {"<a>": Runs(os.mkdir, "x")})
    with pytest.raises(EmbeddingFileError, match=r"asks for `(posix|nt).mkdir`.*malicious.*Nothing of it was run"):
        load_concept(tmp_path / "a.pt")


def test_the_one_class_let_through_is_let_in_nowhere_else(tmp_path: Path) -> None:
    by_torch(tmp_path / "a.pt", {"<a>": ROWS})
    before = set(torch.serialization.get_safe_globals())
    assert load_concept(tmp_path / "a.pt") and nn.ParameterDict not in before
    assert set(torch.serialization.get_safe_globals()) == before


class Forged(nn.ParameterDict):
    """Pickled as a ParameterDict whose attributes are not what its methods expect."""

    def __reduce__(self) -> tuple[object, tuple[object, ...], dict[str, object]]:
        return nn.ParameterDict, (), {"_parameters": [1, 2], "_keys": "x", "__class__": "y"}


def test_a_forged_parameter_dict_is_harmless(tmp_path: Path) -> None:
    by_torch(tmp_path / "a.pt", {"string_to_param": Forged()})
    with pytest.raises(EmbeddingFileError):
        load_concept(tmp_path / "a.pt")


def test_a_tensor_that_claims_more_than_it_has(tmp_path: Path) -> None:
    """With a stride of 0 a file of some bytes holds 10^9 dimensions, or 10^6 vectors."""
    for shape in [(1, 10**9), (10**6, 768), (10**9, 10**9), (3, 2, 4)]:
        by_torch(tmp_path / "a.pt", {"<a>": torch.ones(1).expand(shape)})
        assert (tmp_path / "a.pt").stat().st_size < 10_000
        with pytest.raises(EmbeddingFileError, match="shape|claims to hold"):
            load_concept(tmp_path / "a.pt")


def test_one_tensor_a_thousand_times_is_not_copied(tmp_path: Path) -> None:
    by_torch(tmp_path / "a.pt", [torch.ones(1).expand(4096, 16384)] * 1000)
    with pytest.raises(EmbeddingFileError, match="claims to hold 67108864000 numbers in 1000 tensors"):
        load_concept(tmp_path / "a.pt")


class Hidden:
    """Pickled as a parameter whose methods are hidden behind attributes that the file sets."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        hidden = {
            name: "x" for name in ("detach", "to", "reshape", "numel", "float", "as_subclass", "is_floating_point")
        }
        return torch._utils._rebuild_parameter_with_state, (ROWS, True, OrderedDict(), hidden)


def test_attributes_on_a_tensor_do_not_matter(tmp_path: Path) -> None:
    by_torch(tmp_path / "a.pt", {"<a>": Hidden()})
    assert torch.equal(load_concept(tmp_path / "a.pt").vectors["clip_l"], ROWS)


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F8_E8M0", "C64", "U16", "BOOL"])
def test_exotic_number_types_are_read_or_refused(dtype: str, tmp_path: Path) -> None:
    bits = {"F4": 4, "F6_E2M3": 6, "F8_E8M0": 8, "C64": 64, "U16": 16, "BOOL": 8}[dtype]
    header = {"<a>": {"dtype": dtype, "shape": [2, 8], "data_offsets": [0, 2 * bits]}}
    text = json.dumps(header).encode()
    must_be_ours(tmp_path / "a.safetensors", len(text).to_bytes(8, "little") + text + bytes(2 * bits))


@pytest.mark.parametrize(
    "value",
    [
        {"<a>": ROWS.to_sparse()},
        {"<a>": torch.empty(2, 4, device="meta")},
        {"<a>": ROWS.to(torch.int64)},
        {"<a>": [[1.0, 2.0]]},
        {"<a>": None},
        {},
        [],
        "text",
        7,
        None,
    ],
    ids=lambda value: str(value)[:24].replace("\n", ""),
)
def test_pickles_without_plain_vectors_are_refused(value: object, tmp_path: Path) -> None:
    by_torch(tmp_path / "a.pt", value)
    with pytest.raises(EmbeddingFileError, match=r"a\.pt"):
        load_concept(tmp_path / "a.pt")


def test_values_without_an_end(tmp_path: Path) -> None:
    loop: list[object] = []
    loop.append(loop)
    wide: object = "x"
    for _ in range(7):
        wide = [wide] * 20
    deep: object = ROWS
    for _ in range(50):
        deep = {"a": deep}
    for value in (loop, wide, deep):
        by_torch(tmp_path / "a.pt", value)
        with pytest.raises(EmbeddingFileError, match="more than 20000 values or nests them more than 8 deep"):
            load_concept(tmp_path / "a.pt")


def bomb(file: Path, size: int) -> None:
    """What torch would read as a file of one large tensor, packed a thousand times smaller."""
    plain = io.BytesIO()
    torch.save({"<a>": torch.zeros(size // 4)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb(tmp_path / "a.pt", 40 * 1024**2)
    assert (tmp_path / "a.pt").stat().st_size < 100_000
    with pytest.raises(EmbeddingFileError, match=r"zip bomb\?.*Nothing was unpacked"):
        load_concept(tmp_path / "a.pt")


def test_a_zip_with_countless_entries_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for number in range(10_001):
            archive.writestr(str(number), b"")
    with pytest.raises(EmbeddingFileError, match="10001 entries"):
        load_concept(tmp_path / "a.pt")


def test_a_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    bomb(tmp_path / "a.pt", 40 * 1024**2)
    content = (tmp_path / "a.pt").read_bytes()
    for declared in (0, 1, 100):
        lying = content.replace(struct.pack("<I", 40 * 1024**2), struct.pack("<I", declared))
        assert lying != content
        (tmp_path / "a.pt").write_bytes(lying)
        with pytest.raises(EmbeddingFileError):
            load_concept(tmp_path / "a.pt")


def test_a_pickle_too_large_for_an_embedding(tmp_path: Path) -> None:
    with (tmp_path / "model.ckpt").open("wb") as stream:
        stream.write(b"PK\x03\x04")
        stream.truncate(300 * 1024**2)  # sparse: takes no space
    with pytest.raises(EmbeddingFileError, match="300 MiB.*looks like a model"):
        load_concept(tmp_path / "model.ckpt")


@pytest.mark.parametrize("token", ["a\nb", "\x1b[31m", "<\u202e>", "a\x00b"])
def test_names_that_would_break_a_terminal_are_escaped(token: str, tmp_path: Path) -> None:
    by_torch(tmp_path / "a.pt", {token: ROWS})
    with pytest.raises(EmbeddingFileError) as caught:
        load_concept(tmp_path / "a.pt")
    assert str(caught.value).isprintable()
    assert load_concept(tmp_path / "a.pt", token="<b>").token == "<b>"


def test_metadata_that_cannot_be_written_is_mended(tmp_path: Path) -> None:
    by_torch(tmp_path / "a.pt", {"string_to_param": {"*": ROWS}, "name": "x", "sd_checkpoint": "\ud800half"})
    concept = load_concept(tmp_path / "a.pt")
    again = load_concept(save_concept(concept, tmp_path / "b")[0])
    assert again.metadata["sd_checkpoint"] == concept.metadata["sd_checkpoint"] == "?half"


def sound_files(folder: Path) -> list[Path]:
    """A small file of each container."""
    concept = LearnedConcept("<a>", {"clip_l": ROWS, "clip_g": ROWS}, {"steps": "5"})
    files = [save_concept(concept, folder / "safe", "webui")[0]]
    by_torch(folder / "a.pt", {"string_to_param": {"*": ROWS}, "name": "x"})
    by_old_torch(folder / "b.bin", {"<a>": ROWS})
    by_torch(folder / "c.pt", {"string_to_param": nn.ParameterDict({"x": nn.Parameter(ROWS)})})
    info = PngInfo()
    info.add_text("sd-ti-embedding", "eyJzdHJpbmdfdG9fcGFyYW0iOiB7IioiOiB7IlRPUkNIVEVOU09SIjogW1sxLCAyXV19fX0=")
    Image.new("RGB", (8, 8)).save(folder / "d.png", pnginfo=info)
    return [*files, folder / "a.pt", folder / "b.bin", folder / "c.pt", folder / "d.png"]


def must_be_ours(file: Path, content: bytes) -> None:
    """Either concepts with sound rows, or our error; any other exception fails the test."""
    file.write_bytes(content)
    try:
        concepts = load_concepts(file)
    except EmbeddingFileError as error:
        assert str(file) in str(error) and len(str(error)) < 3000
    else:
        assert all(rows.isfinite().all() for concept in concepts for rows in concept.vectors.values())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    files = sound_files(tmp_path_factory.mktemp("sound"))
    for file in files:
        assert load_concept(file)
    return [(file.suffix, file.read_bytes()) for file in files]


@given(content=st.binary(max_size=400), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x89PNG\r\n\x1a\n"]))
@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".png"])
@quickly
def test_random_bytes(ending: str, start: bytes, content: bytes, tmp_path: Path) -> None:
    must_be_ours(tmp_path / f"a{ending}", start + content)


@given(
    header=st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
@quickly
def test_random_headers(header: object, tmp_path: Path) -> None:
    text = json.dumps({"<a>": header, "__metadata__": header} if isinstance(header, list) else header).encode()
    must_be_ours(tmp_path / "a.safetensors", len(text).to_bytes(8, "little") + text + bytes(64))


@given(data=st.data())
@pytest.mark.parametrize("which", range(5))
@quickly
def test_files_cut_at_any_place(
    which: int, data: st.DataObject, sound: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    ending, content = sound[which]
    must_be_ours(tmp_path / f"a{ending}", content[: data.draw(st.integers(0, len(content)))])


@given(data=st.data())
@pytest.mark.parametrize("which", range(5))
@quickly
def test_files_with_changed_bytes(
    which: int, data: st.DataObject, sound: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    ending, content = sound[which]
    changed = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        changed[place] = data.draw(st.integers(0, 255))
    must_be_ours(tmp_path / f"a{ending}", bytes(changed))
