"""Publishing to a real server on this machine: one commit or none, whatever goes wrong, and one clear error each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.hub import calls, publish_calls
from tests.hub_server import Client, ClientError, HubServer
from tests.publishing_runs import write_run
from textual_inversion_ext.publishing import write_card

CARD = "---\ntags:\n- textual_inversion\n---\n# A word\n"
FILES = {"README.md": CARD, "learned_embeds.safetensors": "rows\0" * 100, "token_identifier.txt": "<corgi>"}


def titles(hub: HubServer, repo_id: str) -> list[str]:
    return [commit.title for commit in hub.repositories[repo_id].history()]


def added(hub: HubServer, repo_id: str) -> int:
    """Commits beside the one that a new repository begins with."""
    return titles(hub, repo_id).count("Publish")


def test_a_push_is_one_commit(hub: HubServer, lfs_client: Client) -> None:
    pushed = lfs_client.call(calls.push_texts, "ann/one", FILES)
    assert pushed["repo_id"] == "ann/one"
    assert pushed["changed"]
    assert pushed["url"] == f"{hub.endpoint}/ann/one"
    assert added(hub, "ann/one") == 1
    for name, text in FILES.items():
        assert hub.read("ann/one", name).decode() == text
    again = lfs_client.call(calls.push_texts, "ann/one", FILES)
    assert (again["changed"], again["commit"]) == (False, pushed["commit"])
    assert added(hub, "ann/one") == 1


def test_a_name_alone_is_the_accounts_own(hub: HubServer, lfs_client: Client) -> None:
    assert lfs_client.call(calls.push_texts, "shy", FILES, private=True)["repo_id"] == "ann/shy"
    assert hub.repositories["ann/shy"].private


LOOKUPS = [("GET", "/api/models/lab/base$"), ("GET", "/api/models/ann/"), ("HEAD", "README.md"), ("GET", "README.md")]


@pytest.mark.parametrize("kind", ["status", "cut", "lose", "truncate"])
@pytest.mark.parametrize("request_", LOOKUPS, ids=lambda request: f"{request[0]}{request[1][-12:]}")
def test_one_fault_while_looking_things_up(
    hub: HubServer, lfs_client: Client, tmp_path: Path, kind: str, request_: tuple[str, str]
) -> None:
    """What is asked before the card can be written: the licence, and the card that is there."""
    place = f"ann/lookup-{LOOKUPS.index(request_)}-{kind}"
    lfs_client.call(calls.push_texts, "lab/base", {"README.md": "---\nlicense: openrail++\n---\n# Base\n"})
    folder = write_run(tmp_path / "run", pretrained_model_name_or_path="lab/base")
    flags = ["publish", str(folder), "--repo_id", place]
    assert lfs_client.call(publish_calls.command, *flags)["code"] == 0
    (folder / "previews" / "step-000040.png").unlink()
    fault = hub.faults.add(kind, *request_)  # type: ignore[arg-type]
    done = lfs_client.call(publish_calls.command, *flags)
    assert done["code"] == 0, done["text"]
    assert fault.met == 1
    assert "license: openrail++" in hub.read(place, "README.md").decode()
    assert len(titles(hub, place)) == 3


def test_a_commit_that_never_succeeds_leaves_no_half(hub: HubServer, lfs_client: Client) -> None:
    hub.faults.add("status", "POST", "/commit/", times=None, status=503)
    with pytest.raises(ClientError, match=r"trouble at the moment \(503"):
        lfs_client.call(calls.push_texts, "ann/never", FILES)
    assert added(hub, "ann/never") == 0
    assert len(hub.log.lines("POST", "/commit/")) == 4
    hub.faults.clear()
    assert lfs_client.call(calls.push_texts, "ann/never", FILES)["changed"]
    assert added(hub, "ann/never") == 1


def test_a_lost_answer_is_found_again_and_not_sent_twice(hub: HubServer, lfs_client: Client) -> None:
    lfs_client.call(calls.push_texts, "ann/lost", FILES)
    hub.log.clear()
    hub.faults.add("lose", "POST", "/commit/")
    files = {**FILES, "token_identifier.txt": "<other>"}
    pushed = lfs_client.call(calls.push_texts, "ann/lost", files)
    assert len(hub.log.lines("POST", "/commit/")) == 1, "the branch was looked at before anything was sent again"
    assert pushed["commit"] == hub.repositories["ann/lost"].history()[0].oid
    assert added(hub, "ann/lost") == 2


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"status": 413}, "larger than the Hub takes"),
        ({"status": 400, "body": b'{"error": "odd file"}'}, "refused ann/said.*odd file"),
        ({"status": 429, "headers": {"Retry-After": "600"}}, "a pause .*of 601 seconds"),
        ({"status": 403, "body": b'{"error": "no: hf_ann_write"}'}, r"403: no: \*\*\*"),
    ],
)
def test_refusals_of_the_commit_are_explained(
    hub: HubServer, lfs_client: Client, fault: dict[str, object], says: str
) -> None:
    hub.faults.add("status", "POST", "/commit/", times=None, **fault)
    with pytest.raises(ClientError, match=says) as error:
        lfs_client.call(calls.push_texts, "ann/said", FILES)
    assert len(hub.log.lines("POST", "/commit/")) == 1, "tried once"
    assert "hf_ann" not in error.value.text


def test_a_short_pause_is_made(hub: HubServer, lfs_client: Client) -> None:
    headers = {"RateLimit": '"api";r=0;t=0', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hub.faults.add("status", "POST", "/commit/", status=429, headers=headers)
    lfs_client.call(calls.push_texts, "ann/pause", FILES)
    assert added(hub, "ann/pause") == 1


def test_a_card_that_the_hub_does_not_take_stops_everything(hub: HubServer, lfs_client: Client) -> None:
    refusal = b'{"errors": [{"message": "\\"license\\" must be one of ..."}], "warnings": []}'
    hub.faults.add("status", "POST", "validate-yaml", status=400, body=refusal)
    with pytest.raises(ClientError, match="does not accept the card.*license"):
        lfs_client.call(calls.push_texts, "ann/bad-metadata", FILES)
    assert "ann/bad-metadata" not in hub.repositories
    for text, says in {"# no metadata": "no metadata", "---\na: [\n---\n": "cannot be read"}.items():
        with pytest.raises(ClientError, match=says):
            lfs_client.call(calls.push_texts, "ann/bad-metadata", {"README.md": text})


def test_a_public_repository_does_not_take_what_should_be_private(hub: HubServer, lfs_client: Client) -> None:
    lfs_client.call(calls.push_texts, "ann/public", FILES)
    with pytest.raises(ClientError, match="exists and is public; nothing was sent"):
        lfs_client.call(calls.push_texts, "ann/public", {**FILES, "a.txt": "a"}, private=True)
    assert added(hub, "ann/public") == 1


def test_the_command_publishes_a_run(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", report=True)
    flags = ["publish", str(folder), "--repo_id", "ann/corgi", "--private", "--with_dataset", "--license", "mit"]
    hub.faults.add("status", "POST", "/api/models/ann/corgi/commit/", status=403)
    failed = lfs_client.call(publish_calls.command, *flags)
    assert failed["code"] == 1
    assert re.search(
        "you may not write to ann/corgi .*is as it was.\nTry again: textual-inversion publish", failed["text"]
    )
    again = lfs_client.call(publish_calls.command, *flags)
    assert again["code"] == 0, again["text"]
    assert f"Published {hub.endpoint}/ann/corgi " in again["text"]
    assert len(hub.repositories["datasets/ann/corgi-images"].history()) == len(titles(hub, "ann/corgi")) == 2
    assert hub.repositories["datasets/ann/corgi-images"].private
    files = hub.repositories["ann/corgi"].files()
    assert {"README.md", "corgi.safetensors", "evaluation/report.json", "pictures/02.png"} <= set(files)
    assert not [name for name in files if "checkpoint" in name or "training" in name or name.endswith(".pt")]
    assert json.loads(hub.read("ann/corgi", "config.json"))["concepts"][0]["images"]["dataset_name"] == (
        "ann/corgi-images"
    )
    assert "hf_ann" not in lfs_client.printed() + failed["text"] + again["text"]


def test_a_card_that_was_edited_on_the_hub_is_kept_or_not_touched(
    hub: HubServer, lfs_client: Client, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run")
    flags = ["publish", str(folder), "--repo_id", "ann/edited", "--license", "mit"]
    assert lfs_client.call(publish_calls.command, *flags)["code"] == 0
    text = hub.read("ann/edited", "README.md").decode()
    mark = "<!-- own section: about (kept when this card is written again) -->\n"
    lfs_client.call(calls.push_texts, "ann/edited", {"README.md": text.replace(mark, f"{mark}Good dog.\n")})
    (folder / "previews" / "step-000040.png").unlink()
    assert lfs_client.call(publish_calls.command, *flags)["code"] == 0
    text = hub.read("ann/edited", "README.md").decode()
    assert "Good dog." in text
    lfs_client.call(calls.push_texts, "ann/edited", {"README.md": text.replace("## Training", "## My training")})
    count = len(titles(hub, "ann/edited"))
    refused = lfs_client.call(publish_calls.command, *flags)
    assert "marked places" in refused["text"]
    lfs_client.call(calls.push_texts, "ann/edited", {"README.md": text})
    write_card(folder)
    refused = lfs_client.call(publish_calls.command, *flags)
    assert re.search(r"holds text that .*card/README.md does not \(own section about\)", refused["text"])
    assert len(titles(hub, "ann/edited")) == count + 1
    assert lfs_client.call(publish_calls.command, *flags, "--discard_edits")["code"] == 0
    assert "Good dog." not in hub.read("ann/edited", "README.md").decode()


def test_metadata_that_were_chosen_on_the_hub_stay_beside_a_local_card(
    hub: HubServer, lfs_client: Client, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run")
    flags = ["publish", str(folder), "--repo_id", "ann/chosen"]
    assert lfs_client.call(publish_calls.command, *flags, "--license", "mit")["code"] == 0
    text = hub.read("ann/chosen", "README.md").decode()
    lfs_client.call(calls.push_texts, "ann/chosen", {"README.md": text.replace("---\n", "---\nlanguage: en\n", 1)})
    write_card(folder)
    (folder / "previews" / "step-000040.png").unlink()
    done = lfs_client.call(publish_calls.command, *flags)
    assert done["code"] == 0, done["text"]
    text = hub.read("ann/chosen", "README.md").decode()
    assert "license: mit" in text
    assert "language: en" in text
    assert "No licence was given" not in text


def test_a_licence_is_taken_over_from_the_base_model(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    card = {"README.md": "---\nlicense: openrail++\n---\n# Base\n"}
    lfs_client.call(calls.push_texts, "lab/base", card)
    lfs_client.call(calls.push_texts, "lab/bare", {"README.md": "---\ntags:\n- a\n---\n# Base\n"})
    for base, says in {"lab/base": "license: openrail++", "lab/bare": None, "lab/missing": None}.items():
        folder = write_run(tmp_path / base, pretrained_model_name_or_path=base)
        place = f"ann/of-{base[4:]}"
        done = lfs_client.call(publish_calls.command, "publish", str(folder), "--repo_id", place)
        assert done["code"] == 0, done["text"]
        text = hub.read(place, "README.md").decode()
        assert f"base_model: {base}" in text
        assert (says or "license:") in text if says else "license:" not in text
        assert ("states no licence to take over" in done["text"]) == (says is None)


def test_a_collection_goes_on_where_it_stopped(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    for name in ("fox", "hen"):
        write_run(tmp_path / "runs" / name, f"<{name}>", report=True)
    flags = ["publish", "--collection", str(tmp_path / "runs"), "--repo_id", "ann/animals", "--license", "mit"]
    hub.faults.add("status", "POST", "/ann/hen/commit/", status=403)
    assert lfs_client.call(publish_calls.command, *flags)["code"] == 1
    assert "ann/animals" not in hub.repositories
    done = lfs_client.call(publish_calls.command, *flags)
    assert done["code"] == 0, done["text"]
    assert "was there already" in done["text"].lower()
    assert [len(titles(hub, place)) for place in ("ann/fox", "ann/hen", "ann/animals")] == [2, 2, 2]
    index = hub.read("ann/animals", "README.md").decode()
    assert "ann/fox" in index
    assert "ann/hen" in index


def test_a_lora_that_cannot_be_asked_for_is_not_taken_for_missing_in_silence(
    hub: HubServer, lfs_client: Client
) -> None:
    hub.put("user/word", {"learned_embeds.safetensors": b"x"})
    hub.put("user/pair", {"pytorch_lora_weights.safetensors": b"x"})
    for method in ("HEAD", "GET"):
        hub.faults.add("status", method, "pytorch_lora_weights", status=503, times=None)
        if method == "HEAD":
            assert lfs_client.call(publish_calls.lora, "user/pair")["name"] is None
            assert (
                "cannot be asked whether user/pair has a LoRA"
                in lfs_client.call(publish_calls.lora, "user/pair")["said"]
            )
        else:
            with pytest.raises(
                ClientError, match="LoRA .* of user/pair cannot be downloaded .*try again later"
            ) as refused:
                lfs_client.call(publish_calls.lora, "user/pair")
            assert refused.value.classes[0] == "EmbeddingFileError"
        hub.faults.clear()
    assert lfs_client.call(publish_calls.lora, "user/pair")["name"] == "pytorch_lora_weights.safetensors"
    assert lfs_client.call(publish_calls.lora, "user/word") == {"name": None, "said": ""}
    hub.faults.add("status", "HEAD", "pytorch_lora_weights", status=503, times=None)
    assert lfs_client.call(publish_calls.lora, "user/word") == {"name": None, "said": ""}, "it was said before"
    assert lfs_client.call(publish_calls.lora, "user/pair")["name"] == "pytorch_lora_weights.safetensors"
