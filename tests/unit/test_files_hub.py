"""Concepts on the Hub: what a user may type, and what happens against a small real server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import EmbeddingFileError
from textual_inversion_ext.files import load_concept, save_concept
from textual_inversion_ext.files.places import HubPlace, parse_hub

SHA = "0123456789abcdef0123456789abcdef01234567"


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


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a download needs: listing with sizes, and files."""

    repositories: dict[str, dict[str, bytes]] = {}
    asked: list[str] = []

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def answer(self, *, body: bool) -> None:
        path = [unquote(part) for part in urlsplit(self.path).path.split("/") if part]
        Hub.asked.append(f"{self.command} {'/'.join(path)} {self.headers.get('Authorization', '')}".strip())
        if path[:2] == ["api", "models"]:
            self.listing("/".join(path[2:4]), path[5] if len(path) > 5 else "main", body)
        elif len(path) > 4 and path[2] == "resolve":
            content = Hub.repositories.get("/".join(path[:2]), {}).get("/".join(path[4:]))
            self.send(200 if content is not None else 404, content or b"", "EntryNotFound", body)
        else:
            self.send(404, b"", "RepoNotFound", body)

    def listing(self, repository: str, revision: str, body: bool) -> None:
        if repository == "user/gated":
            return self.send(403, b"", "GatedRepo", body)
        files = Hub.repositories.get(repository)
        if files is None:
            return self.send(404, b"", "RepoNotFound", body)
        if revision not in ("main", SHA):
            return self.send(404, b"", "RevisionNotFound", body)
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        siblings = [entry if entry["rfilename"] != "model.ckpt" else {**entry, "size": 2**32} for entry in siblings]
        return self.send(200, json.dumps({"id": repository, "sha": SHA, "siblings": siblings}).encode(), "", body)

    def send(self, status: int, content: bytes, error: str, body: bool) -> None:
        self.send_response(status)
        if status != 200:
            self.send_header("X-Error-Code", error)
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    pair = save_concept(
        LearnedConcept("<xl>", {"clip_l": torch.ones(1, 4), "clip_g": torch.ones(1, 6)}), tmp_path / "xl"
    )
    xl = {file.name: file.read_bytes() for file in pair}
    cat, dog = (
        save_concept(LearnedConcept(f"<{name}>", {"clip_l": torch.ones(1, 4)}), tmp_path, "webui")[0].read_bytes()
        for name in ("cat", "dog")
    )
    Hub.repositories = {
        "user/xl": {**xl, "README.md": b"# x"},
        "user/cat": {"learned_embeds.safetensors": cat, "token_identifier.txt": b"<cat>", "photo.jpeg": b"x"},
        "user/two": {"cat.safetensors": cat, "dog.safetensors": dog},
        "user/deep": {"README.md": b"", "embeddings/cat.safetensors": cat},
        "user/none": {"README.md": b""},
        "user/model": {"model.ckpt": b"x"},
    }
    Hub.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


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


def test_downloading_from_a_server(hub: str, tmp_path: Path) -> None:
    """In a process of its own: the client reads its settings once, and this one is offline."""
    questions: list[tuple[str, dict[str, str], str]] = [
        ("user/xl", {}, "<xl>"),
        ("user/cat", {"hf_token": "hf_secret"}, "<cat>"),
        ("user/two/dog.safetensors", {}, "<dog>"),
        ("user/two", {"token": "<cat>"}, "<cat>"),
        (f"{hub}/user/two/blob/main/cat.safetensors", {}, "<cat>"),
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
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    settings |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([(place, options) for place, options, _ in questions]),
        env={**kept, **settings},
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
    assert any("Bearer hf_secret" in line for line in Hub.asked)
    assert not [line for line in Hub.asked if "model.ckpt" in line or "photo.jpeg" in line]
