"""From a trained word to a stranger's machine: published, found with an empty cache, and the same pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import calls, publish_calls
from tests.hub_server import Client, ClientError, HubServer

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "examples" / "concepts" / "clover"
PROMPT = "a photo of <clover> on the beach"
MODEL = "ann/pocket-model"


@pytest.fixture(scope="module")
def model(server: HubServer, lfs_client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that is on the hub, here."""
    folder = tmp_path_factory.mktemp("model")
    lfs_client.call(publish_calls.save_model, folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A small model\n", encoding="utf-8")
    lfs_client.call(calls.api, "create_repo", MODEL)
    lfs_client.call(calls.upload_folder, MODEL, folder)
    return folder


@pytest.fixture(scope="module")
def run(model: Path, lfs_client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word trained on a model of the hub, and evaluated."""
    place = tmp_path_factory.mktemp("published") / "my-run"
    words = ["train", "--pretrained_model_name_or_path", MODEL, "--train_data_dir", str(PICTURES)]
    words += ["--placeholder_token", "<clover>", "--initializer_token", "rabbit", "--output_dir", str(place)]
    words += ["--max_train_steps", "4", "--train_batch_size", "2", "--checkpointing_steps", "2"]
    assert lfs_client.call(publish_calls.command, *words)["code"] == 0, lfs_client.printed()
    words = [
        "evaluate",
        "--concept",
        str(place),
        "--backbone",
        "pocket",
        "--metrics",
        "clip_image",
        "clip_text",
        "--seeds",
        "1",
    ]
    words += ["--num_inference_steps", "2", "--baselines", "class_word", "initial_rows"]
    assert lfs_client.call(publish_calls.command, *words)["code"] == 0, lfs_client.printed()[-3000:]
    return place


def publish(client: Client, run: Path, *words: str) -> int:
    status: int = client.call(publish_calls.command, "publish", str(run), *words)["code"]
    return status


@pytest.fixture(scope="module")
def published(server: HubServer, lfs_client: Client, run: Path) -> str:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    server.log.clear()
    assert publish(lfs_client, run, "--repo_id", "ann/clover") == 0, lfs_client.printed()[-3000:]
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}, "the run is as it was"
    return "ann/clover"


@pytest.fixture(scope="module")
def stranger(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process of another user: no token, and a cache that is empty at first."""
    with Client(server.endpoint, tmp_path_factory.mktemp("stranger"), "xet") as client:
        yield client


def test_it_is_one_commit_with_what_belongs_there(server: HubServer, published: str) -> None:
    repository = server.repositories[published]
    assert [commit.title for commit in repository.history()] == ["Add <clover>", "initial commit"]
    files = set(repository.files())
    assert {
        "README.md",
        "learned_embeds.safetensors",
        "clover.safetensors",
        "config.json",
        "evaluation/report.json",
        "token_identifier.txt",
        "type_of_concept.txt",
    } <= files
    others = files - {".gitattributes"} - {path for path in files if path.startswith("pictures/")}
    assert len(others) == 7
    assert any(path.startswith("pictures/") for path in files)
    assert server.read(published, "token_identifier.txt") == b"<clover>"


def test_nothing_private_is_there(server: HubServer, published: str, run: Path, lfs_client: Client) -> None:
    """No token, no path of this machine, no training picture, no checkpoint."""
    contents = {path: server.read(published, path) for path in server.repositories[published].files()}
    for path, content in contents.items():
        for secret in (b"hf_ann", str(run).encode(), str(run.parent).encode(), str(Path.home()).encode() + b"/"):
            assert secret not in content, (path, secret)
    training = {file.read_bytes() for file in PICTURES.iterdir()}
    assert not training & set(contents.values())
    assert not [path for path in contents if "checkpoint" in path or path.endswith((".jsonl", ".pt", ".bin"))]
    assert "hf_ann_write" not in lfs_client.printed()


def test_a_stranger_gets_the_same_pictures(
    stranger: Client, published: str, run: Path, model: Path, lfs_client: Client
) -> None:
    """Plain diffusers, in a new process with an empty cache; the local ones come from the run's folder."""
    local = lfs_client.call(publish_calls.picture, str(model), str(run), PROMPT)
    other = lfs_client.call(publish_calls.picture, str(model), str(run), PROMPT.replace("<clover>", "rabbit"))
    assert local != other, "the word must matter"
    assert stranger.call(publish_calls.picture, MODEL, published, PROMPT) == local
    assert stranger.call(publish_calls.concept, published)["token"] == "<clover>"


def test_the_card_holds_the_scores(stranger: Client, published: str, run: Path) -> None:
    card = stranger.call(publish_calls.card, published)
    report = json.loads((run / "evaluation" / "report.json").read_text())
    wanted = [score["mean"] for score in report["scores"] if score["subject"] == "word" and score.get("prompt") is None]
    assert wanted
    assert sorted(card["scores"].values()) == pytest.approx(sorted(wanted), abs=1e-4)
    data = card["data"]
    assert data["base_model"] == MODEL
    assert data["license"] == "apache-2.0", "inherited from the base model's card"
    assert data["library_name"] == "diffusers"
    assert "textual_inversion" in data["tags"]
    assert data["instance_prompt"] == "<clover>"
    assert {entry["output"]["url"] for entry in data["widget"]}


def test_the_card_s_code_works_when_pasted(stranger: Client, published: str, tmp_path: Path) -> None:
    text = stranger.call(publish_calls.card, published)["text"]
    assert stranger.call(publish_calls.pasted, text, tmp_path / "desk") == ["clover.png"]


def test_publishing_again_changes_nothing(hub: HubServer, lfs_client: Client, published: str, run: Path) -> None:
    before = hub.repositories[published].head().oid
    assert publish(lfs_client, run, "--repo_id", published) == 0
    assert hub.repositories[published].head().oid == before


def test_our_own_commands_read_it(
    hub: HubServer, lfs_client: Client, published: str, run: Path, tmp_path: Path
) -> None:
    """`generate --concept user/name`; a revision; and the cache once the connection is gone."""
    words = ["generate", "--concept", published, "--pretrained_model_name_or_path", MODEL, "--prompt", PROMPT]
    words += ["--num_inference_steps", "2", "--output_dir", str(tmp_path / "pictures")]
    before = len(lfs_client.printed())
    assert lfs_client.call(publish_calls.command, *words)["code"] == 0, lfs_client.printed()[-3000:]
    assert "Warning" not in lfs_client.printed()[before:]
    assert list((tmp_path / "pictures").rglob("*.png"))
    rows = lfs_client.call(publish_calls.concept, str(run))["rows"]
    head = hub.repositories[published].head()
    for revision in ("main", head.oid):
        assert lfs_client.call(publish_calls.concept, published, revision=revision)["rows"] == rows
    with pytest.raises(ClientError, match="no embedding file"):
        lfs_client.call(publish_calls.concept, published, revision=head.parent)
    with Client(hub.endpoint, lfs_client.home, "lfs", HF_HUB_OFFLINE="1") as offline:
        hub.log.clear()
        assert offline.call(publish_calls.concept, published)["rows"] == rows
        assert hub.log.lines() == []


def test_a_private_word_needs_a_token(
    hub: HubServer, lfs_client: Client, stranger: Client, run: Path, model: Path
) -> None:
    assert publish(lfs_client, run, "--repo_id", "ann/secret-clover", "--private") == 0
    assert hub.repositories["ann/secret-clover"].private
    with pytest.raises(ClientError, match="none of this name, or it is private"):
        stranger.call(publish_calls.concept, "ann/secret-clover")
    found = stranger.call(publish_calls.concept, "ann/secret-clover", hf_token="hf_ann_read")
    assert found["token"] == "<clover>"
    local = lfs_client.call(publish_calls.picture, str(model), str(run), PROMPT)
    secret = stranger.call(publish_calls.picture, MODEL, "ann/secret-clover", PROMPT, hf_token="hf_ann_read")
    assert secret == local


def test_by_xet_the_same(hub: HubServer, lfs_client: Client, stranger: Client, run: Path) -> None:
    """And with a token that is typed, which is shown nowhere."""
    words = ["--repo_id", "ann/xet-clover", "--hub_token", "hf_ann_write", "--license", "mit"]
    assert publish(stranger, run, *words) == 0, stranger.printed()[-3000:]
    assert hub.log.lines("GET", "xet-write-token")
    assert "hf_ann_write" not in stranger.printed()
    rows = lfs_client.call(publish_calls.concept, str(run))["rows"]
    assert lfs_client.call(publish_calls.concept, "ann/xet-clover")["rows"] == rows
    assert len(hub.repositories["ann/xet-clover"].history()) == 2


def test_a_dry_run_asks_and_sends_nothing(hub: HubServer, lfs_client: Client, run: Path) -> None:
    assert publish(lfs_client, run, "--repo_id", "ann/dry", "--dry_run") == 0
    assert "ann/dry" not in hub.repositories
    assert hub.log.lines() == []
    assert "learned_embeds.safetensors" in lfs_client.printed()


def test_a_failure_is_told_with_the_command_to_try_again(hub: HubServer, lfs_client: Client, run: Path) -> None:
    hub.faults.add("status", "POST", "/commit/", status=403, body=b'{"error": "quota"}', times=None)
    printed = len(lfs_client.printed())
    assert publish(lfs_client, run, "--repo_id", "ann/again", "--license", "mit") != 0
    told = lfs_client.printed()[printed:]
    assert f"textual-inversion publish {run} --repo_id ann/again --license mit" in told.replace("\n", " "), told
    assert "quota" in told
    assert "Traceback" not in told


def test_the_training_pictures_only_when_asked(hub: HubServer, lfs_client: Client, stranger: Client, run: Path) -> None:
    """They come as a data set with its own card, which trains again."""
    assert publish(lfs_client, run, "--repo_id", "ann/with-pictures", "--with_dataset", "--license", "mit") == 0, (
        lfs_client.printed()[-3000:]
    )
    data = hub.repositories["datasets/ann/with-pictures-images"]
    assert len([path for path in data.files() if path.endswith((".png", ".jpg"))]) == len(list(PICTURES.iterdir()))
    assert stranger.call(publish_calls.card, "ann/with-pictures-images", "dataset")["data"]["license"] == "mit"
    assert stranger.call(publish_calls.card, "ann/with-pictures")["data"]["datasets"] == ["ann/with-pictures-images"]
    assert len(stranger.call(calls.load_dataset, "ann/with-pictures-images", streaming=False, captions=False)) == 5
