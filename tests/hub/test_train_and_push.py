"""`accelerate launch` from a data set of the hub to a published word, as diffusers' users type it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub import calls, publish_calls
from tests.hub_server import Client, HubServer, settings

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "examples" / "concepts" / "clover"
DATASET = "ann/clover-pictures"
TOKEN = "hf_ann_write"
FLAGS = ["--pretrained_model_name_or_path", "pocket", "--placeholder_token", "<clover>"]
FLAGS += ["--initializer_token", "rabbit", "--max_train_steps", "2", "--train_batch_size", "2"]


@pytest.fixture(scope="module")
def dataset(server: HubServer, lfs_client: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pictures as a private data set, with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    names = sorted(file.name for file in PICTURES.glob("*.png"))
    for name in names:
        (folder / name).write_bytes((PICTURES / name).read_bytes())
    lines = [json.dumps({"file_name": name, "text": "a photo of a rabbit"}) for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    lfs_client.call(calls.api, "create_repo", DATASET, repo_type="dataset", private=True)
    lfs_client.call(calls.upload_folder, DATASET, folder, repo_type="dataset")
    return DATASET


def train(hub: HubServer, place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Train with the `accelerate launch` door, in a fresh home."""
    launch = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", *launch]
    command += [str(ROOT / "examples" / "train_textual_inversion.py")]
    command += [*FLAGS, "--output_dir", str(place / "out"), *words]
    return subprocess.run(
        command,
        env={**settings(hub.endpoint, place / "home", "lfs", TOKEN), "PYTHONPATH": str(ROOT)},
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )


def test_end_to_end(hub: HubServer, lfs_client: Client, dataset: str, tmp_path: Path) -> None:
    words = ["--dataset_name", dataset, "--push_to_hub", "--hub_model_id", "ann/trained-clover"]
    done = train(hub, tmp_path, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    repository = hub.repositories["ann/trained-clover"]
    assert [commit.title for commit in repository.history()] == ["Add <clover>", "initial commit"]
    files = repository.files()
    assert "learned_embeds.safetensors" in files
    assert not [path for path in files if path.startswith(("checkpoint", "logs"))]
    for path in files:
        assert TOKEN.encode() not in hub.read("ann/trained-clover", path)
        assert str(tmp_path).encode() not in hub.read("ann/trained-clover", path)
    assert TOKEN not in done.stdout + done.stderr
    here = lfs_client.call(publish_calls.concept, tmp_path / "out")
    there = lfs_client.call(publish_calls.concept, "ann/trained-clover")
    assert (there["token"], there["rows"]) == ("<clover>", here["rows"])
    card = lfs_client.call(publish_calls.card, "ann/trained-clover")
    assert card["data"]["datasets"] == [dataset]
    assert card["scores"] == {}, "nothing was measured"
    assert lfs_client.call(publish_calls.pasted, card["text"], tmp_path / "desk") == ["clover.png"]


def train_here(client: Client, place: Path, *words: str) -> tuple[int, str]:
    """The same command in a client's process; returns its exit status and what it printed."""
    before = len(client.printed())
    status = client.call(publish_calls.command, "train", *FLAGS, "--output_dir", str(place / "out"), *words)
    return status, client.printed()[before:]


def test_a_push_that_fails_leaves_the_run_and_says_how_to_go_on(
    hub: HubServer, lfs_client: Client, tmp_path: Path
) -> None:
    hub.faults.add("status", "POST", "/commit/", status=403, body=b'{"error": "quota"}', times=None)
    words = ["--train_data_dir", str(PICTURES), "--push_to_hub", "--hub_model_id", "ann/not-yet"]
    status, printed = train_here(lfs_client, tmp_path, *words)
    assert status != 0
    assert "quota" in printed
    assert f"textual-inversion publish {tmp_path / 'out'} --repo_id ann/not-yet" in printed
    assert "Traceback" not in printed
    hub.faults.clear()
    words = ["publish", str(tmp_path / "out"), "--repo_id", "ann/not-yet"]
    assert lfs_client.call(publish_calls.command, *words)["code"] == 0
    assert len(hub.repositories["ann/not-yet"].history()) == 2


@pytest.mark.parametrize(
    ("repo", "token", "says"),
    [
        ("ann/a b", TOKEN, "no name of a repository"),
        ("ann/x", "hf_nobodysays", "does not know this token"),
        ("ann/x", "hf_ann_read", "The token of ann may only read"),
        ("bob/x", TOKEN, "bob/x cannot be written to. You are ann and may publish under ann, lab"),
    ],
)
def test_what_cannot_be_pushed_is_said_before_training(
    hub: HubServer, lfs_client: Client, tmp_path: Path, repo: str, token: str, says: str
) -> None:
    words = ["--train_data_dir", str(PICTURES), "--push_to_hub", "--hub_model_id", repo, "--hub_token", token]
    status, printed = train_here(lfs_client, tmp_path, *words)
    assert status != 0
    assert says in printed
    assert token not in printed
    assert not (tmp_path / "out").exists()
