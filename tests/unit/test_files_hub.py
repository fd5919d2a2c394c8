"""Concepts on the Hub: what a user may type, and what happens against the tests' own server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.hub_server import HubServer, settings
from tests.hub_server.objects import Blob
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import EmbeddingFileError
from textual_inversion_ext.files import load_concept, save_concept
from textual_inversion_ext.files.places import HubPlace, parse_hub


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("sd-concepts-library/cat-toy", HubPlace("sd-concepts-library/cat-toy")),
        ("user/repo/file.safetensors", HubPlace("user/repo", "file.safetensors")),
        ("user/repo/folder/file.pt", HubPlace("user/repo", "folder/file.pt")),
        ("user/repo/", HubPlace("user/repo")),
        ("https://huggingface.co/user/repo", HubPlace("user/repo")),
        ("https://huggingface.co/user/repo/", HubPlace("user/repo")),
        ("https://hf.co/user/repo/tree/main", HubPlace("user/repo", "", "main")),
        ("https://huggingface.co/user/repo/blob/main/a%20b.pt", HubPlace("user/repo", "a b.pt", "main")),
        ("https://huggingface.co/user/repo/resolve/v1/x/a.pt?download=true", HubPlace("user/repo", "x/a.pt", "v1")),
        ("./user/repo", None),
        ("../repo", None),
        ("/user/repo", None),
        ("~/repo", None),
        ("user/../repo", None),
        ("learned_embeds.safetensors", None),
        ("embeddings/cat.pt", None),
        ("user\\repo", None),
        ("my folder/x", None),
        ("word", None),
        ("", None),
    ],
)
def test_what_a_user_may_type(text: str, place: HubPlace | None) -> None:
    assert parse_hub(text) == place


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://civitai.com/models/1", "not on the Hugging Face Hub .*download the file and give its path"),
        ("https://huggingface.co/datasets/user/repo", "no page of a model"),
        ("https://huggingface.co/user", "no page of a model"),
        ("https://huggingface.co/", "no page of a model"),
        ("http://[::1/x", "no address"),
    ],
)
def test_other_addresses_are_refused(text: str, says: str) -> None:
    with pytest.raises(EmbeddingFileError, match=says):
        load_concept(text)


def test_without_a_connection_both_readings_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EmbeddingFileError, match=r"'user/concept' is no existing path, .*Hub.*offline"):
        load_concept("user/concept")


def test_an_existing_path_is_never_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    LearnedConcept("<a>", {"clip_l": torch.ones(1, 4)}).save("user/repo")
    assert load_concept("user/repo").token == "<a>"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    pair = save_concept(
        LearnedConcept("<xl>", {"clip_l": torch.ones(1, 4), "clip_g": torch.ones(1, 6)}), tmp_path / "xl"
    )
    cat, dog = (
        save_concept(LearnedConcept(f"<{name}>", {"clip_l": torch.ones(1, 4)}), tmp_path, "webui")[0].read_bytes()
        for name in ("cat", "dog")
    )
    with HubServer(tmp_path / "hub") as server:
        server.users.add("ann")
        server.put("user/xl", {**{file.name: file.read_bytes() for file in pair}, "README.md": b"# x"})
        library = {"learned_embeds.safetensors": cat, "token_identifier.txt": b"<cat>", "photo.jpeg": b"x"}
        server.put("user/cat", library)
        server.put("user/two", {"cat.safetensors": cat, "dog.safetensors": dog})
        server.put("user/deep", {"README.md": b"", "embeddings/cat.safetensors": cat})
        server.put("user/none", {"README.md": b""})
        server.put("user/model", {"model.ckpt": Blob.large("0" * 64, 2**32)})
        server.put("user/gated", library, gated=True)
        yield server


SCRIPT = """
import json, sys
from textual_inversion_ext.errors import EmbeddingFileError
from textual_inversion_ext.files import load_concept
for place, options in json.load(sys.stdin):
    try:
        concept = load_concept(place, **options)
        print(json.dumps([concept.token, {k: list(v.shape) for k, v in concept.vectors.items()}, concept.metadata]))
    except EmbeddingFileError as error:
        print(json.dumps(str(error)))
"""


def test_downloading_from_a_server(hub: HubServer, tmp_path: Path) -> None:
    """In a process of its own: the client reads its settings once, and this one is offline."""
    questions: list[tuple[str, dict[str, str], str]] = [
        ("user/xl", {}, "<xl>"),
        ("user/cat", {"hf_token": "hf_ann_read"}, "<cat>"),
        ("user/two/dog.safetensors", {}, "<dog>"),
        ("user/two", {"token": "<cat>"}, "<cat>"),
        (f"{hub.endpoint}/user/two/blob/main/cat.safetensors", {}, "<cat>"),
        ("user/deep/embeddings", {}, "<cat>"),
        ("user/two", {}, "holds 2 concepts: '<cat>' in cat.safetensors, '<dog>'"),
        ("user/deep", {}, "Other folders do, for example user/deep/embeddings/cat.safetensors"),
        ("user/none", {}, "no embedding file; it holds: README.md"),
        ("user/model", {}, "4096 MiB; .*nothing was downloaded"),
        ("user/missing", {}, "none of this name, or it is private"),
        ("user/gated", {}, "it is gated; accept its terms"),
        ("user/cat", {"revision": "v9"}, "no revision 'v9'"),
        ("user/cat/other.pt", {}, "user/cat/other.pt on the Hub has no embedding file"),
    ]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([(place, options) for place, options, _ in questions]),
        env=settings(hub.endpoint, tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    for (place, options, expected), answer in zip(questions, answers, strict=True):
        if expected.startswith("<"):
            assert answer[0] == expected, (place, options, answer)
        else:
            assert isinstance(answer, str)
            assert re.search(expected, answer), (place, answer)
    assert answers[0][1] == {"clip_l": [1, 4], "clip_g": [1, 6]}
    assert answers[1][2]["token_identifier"] == "<cat>"
    assert "hf_ann_read" in [entry.token for entry in hub.log.entries()]
    assert not hub.log.lines(pattern="model.ckpt|photo.jpeg")
