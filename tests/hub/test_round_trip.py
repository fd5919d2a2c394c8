"""What was published comes back: into plain diffusers, into this library, into `generate`, and as a data set."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from tests.hub import calls, publish_calls
from tests.hub_server import Client, HubServer
from tests.publishing_runs import write_run
from tests.runs import rows_of, save_images, save_model, train_flags
from textual_inversion_ext.evaluation.report import EvaluationReport

ANN = "hf_ann_write"


def test_a_training_publishes_itself_and_comes_back(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    flags = train_flags(tmp_path, hub_model_id="ann/tok", hub_token=ANN, validation_prompt="a photo of <tok>")
    done = lfs_client.call(publish_calls.command, *flags, "--push_to_hub", "--hub_private_repo")
    assert done["code"] == 0, done["text"]
    assert f"Published {hub.endpoint}/ann/tok" in done["text"]
    published = hub.repositories["ann/tok"]
    assert published.private
    assert len(published.history()) == 2
    assert not [name for name in published.files() if "checkpoint" in name or "steps" in name]
    assert ModelCard(hub.read("ann/tok", "README.md").decode()).data.instance_prompt == "<tok>"
    everything = b"".join(hub.read("ann/tok", name) for name in published.files())
    assert str(tmp_path).encode() not in everything
    assert ANN.encode() not in everything + done["text"].encode() + (tmp_path / "out" / "config.json").read_bytes()

    mine = rows_of(tmp_path / "out").tolist()
    found = lfs_client.call(publish_calls.concept, "ann/tok")
    assert (found["token"], found["rows"]) == ("<tok>", {"clip_l": mine})
    assert lfs_client.call(publish_calls.rows_in_diffusers, "ann/tok", str(tmp_path / "model")) == mine[0]


def test_a_training_that_cannot_be_published_is_not_lost(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    flags = [*train_flags(tmp_path, hub_model_id="ann/refused", max_train_steps=1), "--push_to_hub"]
    unknown = lfs_client.call(publish_calls.command, *flags, "--hub_token", "hf_nobody")
    assert "does not know this token" in unknown["text"]
    assert not (tmp_path / "out").exists(), "found out before the training"
    only_reads = lfs_client.call(publish_calls.command, *flags, "--hub_token", "hf_ann_read")
    assert "may only read" in only_reads["text"]
    assert not (tmp_path / "out").exists()
    hub.faults.add("status", "POST", "/ann/refused/commit/", status=403)
    done = lfs_client.call(publish_calls.command, *flags)
    again = f"textual-inversion publish {tmp_path / 'out'} --repo_id ann/refused"
    assert (done["code"], again in done["text"]) == (1, True), done["text"]
    assert lfs_client.call(publish_calls.command, *again.split()[1:])["code"] == 0
    found = lfs_client.call(publish_calls.concept, "ann/refused")
    assert found["rows"] == {"clip_l": rows_of(tmp_path / "out").tolist()}


def test_a_revision_is_that_of_the_commit(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name) for name in ("first", "second"))
    publishing = ("--repo_id", "ann/twice", "--license", "mit")
    assert lfs_client.call(publish_calls.command, "publish", str(first), *publishing)["code"] == 0
    old = hub.repositories["ann/twice"].history()[0].oid
    file = second / "learned_embeds.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x40")
    assert lfs_client.call(publish_calls.command, "publish", str(second), *publishing)["code"] == 0
    of_old = lfs_client.call(publish_calls.concept, "ann/twice", revision=old)["rows"]
    of_new = lfs_client.call(publish_calls.concept, "ann/twice")["rows"]
    assert of_old == {"clip_l": rows_of(first).tolist()}
    assert of_new == {"clip_l": rows_of(second).tolist()}
    assert of_old != of_new


def test_generate_takes_a_repository(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    flags = train_flags(tmp_path, lora_rank=2, max_train_steps=2)
    assert lfs_client.call(publish_calls.command, *flags)["code"] == 0
    publish = ["publish", str(tmp_path / "out"), "--repo_id", "ann/lora", "--license", "mit"]
    assert lfs_client.call(publish_calls.command, *publish)["code"] == 0
    assert "pytorch_lora_weights.safetensors" in hub.repositories["ann/lora"].files()
    pictures = {}
    for concept in ("ann/lora", str(tmp_path / "out")):
        folder = tmp_path / concept.replace("/", "-")
        done = lfs_client.call(
            publish_calls.command,
            *("generate", "--concept", concept, "--prompt", "a <tok>", "--seed", "1", "--num_inference_steps", "2"),
            *("--pretrained_model_name_or_path", str(tmp_path / "model"), "--output_dir", str(folder)),
        )
        assert done["code"] == 0, done["text"]
        assert "With the LoRA" in done["text"]
        pictures[concept] = (folder / "contact_sheet.png").read_bytes()
    assert len(set(pictures.values())) == 1


def test_evaluate_takes_a_repository_with_its_lora(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    flags = train_flags(tmp_path, lora_rank=2, max_train_steps=1)
    assert lfs_client.call(publish_calls.command, *flags)["code"] == 0
    publish = ["publish", str(tmp_path / "out"), "--repo_id", "ann/scored", "--license", "mit"]
    assert lfs_client.call(publish_calls.command, *publish)["code"] == 0
    few = ["--baselines", "none", "--backbone", "pocket", "--metrics", "clip_image", "--seeds", "1"]
    few += ["--num_inference_steps", "1", "--guidance_scale", "1", "--references", str(tmp_path / "images")]
    few += ["--pretrained_model_name_or_path", str(tmp_path / "model")]
    file = "ann/scored/learned_embeds.safetensors"
    for number, place in enumerate(("ann/scored", f"{hub.endpoint}/ann/scored", file)):
        out = tmp_path / str(number)
        done = lfs_client.call(publish_calls.command, "evaluate", "--concept", place, *few, "--output_dir", str(out))
        assert done["code"] == 0, done["text"]
        report = EvaluationReport.load(out)
        # One file of a repository is the word alone, as for `generate`.
        assert report.settings.get("lora_scale") == (None if place == file else 1.0)


def test_a_word_alone_is_published_with_a_card(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    url = lfs_client.call(
        publish_calls.push_concept, "alone", str(folder / "learned_embeds.safetensors"), license="mit"
    )
    assert url == f"{hub.endpoint}/ann/alone"
    files = set(hub.repositories["ann/alone"].files()) - {".gitattributes"}
    assert files == {
        *("README.md", "learned_embeds.safetensors", "corgi.safetensors"),
        *("token_identifier.txt", "type_of_concept.txt"),
    }
    card = ModelCard(hub.read("ann/alone", "README.md").decode())
    assert (card.data.license, card.data.instance_prompt) == ("mit", "<corgi>")
    assert lfs_client.call(publish_calls.concept, "ann/alone")["rows"] == {"clip_l": rows_of(folder).tolist()}


def test_a_trainer_with_several_words_publishes_a_list(hub: HubServer, lfs_client: Client, tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    save_images(tmp_path / "images")
    assert lfs_client.call(publish_calls.train_and_push, str(tmp_path), "words", ANN) == f"{hub.endpoint}/ann/words"
    for name in ("ab", "cd"):
        assert f"ann/{name}" in hub.read("ann/words", "README.md").decode()
        found = lfs_client.call(publish_calls.concept, f"ann/{name}")
        rows = {"clip_l": rows_of(tmp_path / "two" / name).tolist()}
        assert (found["token"], found["rows"]) == (f"<{name}>", rows)


def test_the_training_pictures_load_as_a_data_set(lfs_client: Client, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    flags = ["--repo_id", "ann/seen", "--license", "mit", "--with_dataset", "--dataset_repo_id", "ann/pictures"]
    done = lfs_client.call(publish_calls.command, "publish", str(folder), *flags)
    assert done["code"] == 0, done["text"]
    assert len(lfs_client.call(calls.load_dataset, "ann/pictures", streaming=False, captions=False)) == 3
    learned = lfs_client.call(
        publish_calls.command,
        *train_flags(tmp_path)[:3],
        *("--dataset_name", "ann/pictures", "--placeholder_token", "<again>", "--initializer_token", "cat"),
        *("--output_dir", str(tmp_path / "again"), "--max_train_steps", "1", "--train_batch_size", "1"),
    )
    assert learned["code"] == 0, learned["text"]
