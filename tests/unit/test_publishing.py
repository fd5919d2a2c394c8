"""What publishing would send, and what it never does: no server is asked here."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open
from safetensors.torch import save_file

from hub_cards.publication import Publication, check
from hub_cards.push import PushError
from tests.publishing_runs import SECRET, write_run
from textual_inversion_ext.cli.main import main
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import PublishError
from textual_inversion_ext.files import load_concept, save_concept
from textual_inversion_ext.publishing import (
    PublishSettings,
    command_for,
    describe,
    prepare_collection,
    prepare_run,
    write_card,
)
from textual_inversion_ext.publishing.citations import citations
from textual_inversion_ext.publishing.cleaning import clean_picture, clean_text
from textual_inversion_ext.run_file import load_run

SETTINGS = PublishSettings("ann/corgi")
ALONE = {"learned_embeds.safetensors", "corgi.safetensors", "token_identifier.txt", "type_of_concept.txt"}


def contents(folder: Path, settings: PublishSettings = SETTINGS) -> dict[str, bytes]:
    (publication,) = prepare_run(folder, settings, online=False)
    return {
        name: content if isinstance(content, bytes) else content.read_bytes()
        for name, content in publication.files.items()
    }


def listing(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_only_what_belongs_to_the_concept_is_chosen(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", report=True)
    (folder / "pytorch_lora_weights.safetensors").write_bytes((folder / "learned_embeds.safetensors").read_bytes())
    before = listing(tmp_path)
    found = contents(folder)
    pictures = {"pictures/01.png", "pictures/02.png"}
    others = {"README.md", "config.json", "evaluation/report.json", "pytorch_lora_weights.safetensors"}
    assert set(found) == ALONE | pictures | others
    assert found["token_identifier.txt"] == b"<corgi>"
    assert found["type_of_concept.txt"] == b"object"
    assert listing(tmp_path) == before, "the run's folder is only read"


def test_nothing_private_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    prompt = f"see {tmp_path}/notes.txt, {SECRET} and hf_mine, Bearer abcdefgh123"
    folder = write_run(tmp_path / "run", report=True, tokenizer_name=str(tmp_path / "tokenizer"))
    run = json.loads((folder / "config.json").read_text())
    run["config"]["validation_prompt"] = prompt
    (folder / "config.json").write_text(json.dumps(run))
    for name, content in contents(folder).items():
        text = content.decode("utf-8", errors="replace")
        for private in (SECRET, "hf_mine", "abcdefgh123", str(folder)):
            assert private not in text, (name, private)
    config, concepts = load_run(write(tmp_path / "published.json", contents(folder)["config.json"]))
    assert config.tokenizer_name == "tokenizer"
    assert (config.output_dir, config.logging_dir) == (TextualInversionConfig.output_dir, "logs")
    assert config.validation_prompt == "see notes.txt, *** and ***, ***"
    assert concepts[0]["initializer"] == "start.safetensors"
    assert "images" not in concepts[0]


def write(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def test_a_lora_says_nothing_private_and_keeps_its_numbers(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    lora = folder / "pytorch_lora_weights.safetensors"
    save_file({"unet.a": torch.arange(6.0)}, lora, {"base_model": str(folder), "rank": "2", "hub_token": "x"})
    published = write(tmp_path / "lora.safetensors", contents(folder)[lora.name])
    with safe_open(published, "pt") as file:
        assert file.metadata() == {"base_model": "run", "rank": "2"}
        assert file.get_tensor("unet.a").equal(torch.arange(6.0))
    lora.write_bytes(b"no safetensors")
    with pytest.raises(PublishError, match="pytorch_lora_weights.safetensors cannot be read"):
        contents(folder)


def test_a_word_of_two_text_encoders_has_a_file_for_each(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    rows = {"clip_l": torch.ones(2, 8), "clip_g": torch.ones(2, 12)}
    save_concept(
        LearnedConcept("<corgi>", rows, {"learnable_property": "style"}), folder / "learned_embeds.safetensors"
    )
    found = contents(folder)
    assert {"learned_embeds.safetensors", "learned_embeds_2.safetensors", "corgi.safetensors"} <= set(found)
    assert found["type_of_concept.txt"] == b"style"
    assert "text_encoder=pipe.text_encoder_2" in found["README.md"].decode()
    for name in ("learned_embeds.safetensors", "learned_embeds_2.safetensors"):
        write(tmp_path / name, found[name])
    assert set(load_concept(tmp_path / "learned_embeds.safetensors").vectors) == {"clip_l", "clip_g"}


def test_a_file_that_no_concept_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    large = tmp_path / "model.ckpt"
    with open(large, "wb") as stream:
        stream.truncate(2 * 1024**3 + 1)  # a hole: it takes no room
    for files, says in {
        ("model.ckpt", large): "has 2.0 GiB; files of a concept have at most 2 GiB",
        ("../model.ckpt", b""): "no path inside a repository",
        ("a.txt", tmp_path / "missing"): "missing is no file",
    }.items():
        with pytest.raises(PushError, match=says):
            check(Publication("ann/corgi", dict([files]), "-"))


def test_the_rows_arrive_bit_for_bit(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    found = contents(folder)
    mine = load_concept(folder / "learned_embeds.safetensors")
    theirs = load_concept(write(tmp_path / "x.safetensors", found["learned_embeds.safetensors"]))
    assert theirs.token == "<corgi>"
    assert theirs.vectors["clip_l"].equal(mine.vectors["clip_l"])
    told = json.loads(theirs.metadata["recipe"])
    assert told == {"tokenizer_name": "tokenizer", "learning_rate": 0.005}
    assert theirs.metadata["training_data_digest"] == mine.metadata["training_data_digest"]


def test_pictures_hold_nothing_but_pixels(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    photo = Image.new("RGB", (20, 10), "red")
    exif = photo.getexif()
    exif[0x0112], exif[0x010E] = 6, f"taken at {SECRET}"  # lies on its side; description
    photo.save(folder / "photo.jpg", exif=exif)
    found = contents(folder, PublishSettings("ann/corgi", image=(folder / "photo.jpg",)))
    upright = Image.open(write(tmp_path / "upright.jpg", found["pictures/01.jpg"]))
    assert upright.size == (10, 20)
    assert not upright.getexif()
    preview = Image.open(write(tmp_path / "preview.png", contents(folder)["pictures/01.png"]))
    assert preview.getpixel((0, 0)) == (40, 0, 0), "the last preview"
    assert preview.info == {}


@pytest.mark.parametrize("place", [*range(16), "comment", "behind the end"])
def test_a_jpeg_has_no_place_for_text(place: int | str, tmp_path: Path) -> None:
    """Pillow mentions few of the segments that a file may hold, and nothing of what lies behind its end."""
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (32, 16), "red").save(photo)
    start, rest = photo.read_bytes()[:2], photo.read_bytes()[2:]
    if place == "behind the end":
        rest += b"Jane Doe\xff\xd9"
    else:
        mark = 0xFE if place == "comment" else 0xE0 + int(place)
        start += bytes([0xFF, mark, 0, 2 + 8]) + b"Jane Doe"
    photo.write_bytes(start + rest)
    content, ending = clean_picture(photo)
    assert ending == ".jpg"
    assert b"Jane" not in content
    clean = Image.open(write(tmp_path / "clean.jpg", content))
    assert clean.size == (32, 16)
    assert clean.getextrema() == Image.open(photo).getextrema()


def test_only_our_own_pictures_tell_their_prompts(tmp_path: Path) -> None:
    """ComfyUI writes its whole workflow under the name of the prompt."""
    folder = write_run(tmp_path / "run")
    for name, program in {"ours": "textual-inversion-ext 0.1.0", "theirs": "Paint", "nobody": None}.items():
        told = PngInfo()
        told.add_itxt("prompt", f"from {name}")
        if program is not None:
            told.add_text("Software", program)
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png", pnginfo=told)
    pictures = tuple(tmp_path / f"{name}.png" for name in ("ours", "theirs", "nobody"))
    card = ModelCard(contents(folder, PublishSettings("ann/corgi", image=pictures))["README.md"].decode())
    assert "from ours" in card.content
    assert "from theirs" not in card.content
    assert "from nobody" not in card.content


def test_a_picture_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16 // 2 - 1)
    with pytest.raises(PublishError, match="step-000040.png cannot be read as a picture .*leave it out"):
        contents(folder, PublishSettings("ann/corgi", image=(folder / "previews" / "step-000040.png",)))


def test_the_card_holds_the_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", report=True)
    found = contents(folder)
    card = ModelCard(found["README.md"].decode())
    scores = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert sorted(scores.values()) == [0.25, 0.75]
    assert [entry["output"]["url"] for entry in card.data.widget] == ["pictures/01.png", "pictures/02.png"]
    assert [entry["text"] for entry in card.data.widget] == ["a photo of <corgi>", "<corgi> on the moon"]
    assert "Only 4 pictures" in card.text
    report = json.loads(found["evaluation/report.json"])
    assert report["scores"][0]["mean"] == 0.75
    assert report["settings"]["cache"] == "gallery"


def test_without_evaluation_the_card_claims_nothing(tmp_path: Path) -> None:
    found = contents(write_run(tmp_path / "run"))
    assert "evaluation/report.json" not in found
    card = ModelCard(found["README.md"].decode())
    assert card.data.eval_results is None
    assert "No scores were measured" in card.text
    assert "Imaginary GPU 9000" in card.text


@pytest.mark.parametrize(
    ("model", "base"),
    [("user/model", "user/model"), ("pocket", None), ("/models/secret-place/mine", None), ("./mine", None)],
)
def test_only_a_model_of_the_hub_is_a_base_model(tmp_path: Path, model: str, base: str | None) -> None:
    found = contents(write_run(tmp_path / "run", pretrained_model_name_or_path=model))
    assert ModelCard(found["README.md"].decode()).data.base_model == base
    assert b"secret-place" not in b"".join(found.values())


def test_a_dry_run_lists_files_and_sizes_and_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", report=True)
    before = listing(tmp_path)
    assert main(["publish", str(folder), "--repo_id", "ann/corgi", "--license", "mit", "--dry_run"]) == 0
    shown = capsys.readouterr()
    found = contents(folder, PublishSettings("ann/corgi", license="mit"))
    for name, content in found.items():
        assert any(name in line and f"{len(content):,} bytes" in line for line in shown.out.splitlines()), name
    assert found["README.md"].decode() in shown.out
    assert "license: mit" in shown.out
    assert "Nothing was sent" in shown.err
    assert listing(tmp_path) == before


def test_own_sections_of_the_local_card_are_published(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", report=True)
    file, text = write_card(folder, PublishSettings("ann/corgi"))
    assert file == folder / "card" / "README.md"
    assert (folder / "card" / "pictures" / "01.png").is_file()
    mark = "<!-- own section: about (kept when this card is written again) -->\n"
    assert mark in text
    file.write_text(text.replace(mark, f"{mark}She is a good dog.\n"), encoding="utf-8")
    assert b"She is a good dog." in contents(folder)["README.md"]
    assert "She is a good dog." in write_card(folder)[1]
    file.write_text(file.read_text(encoding="utf-8").replace("## Training", "## Trainings"), encoding="utf-8")
    with pytest.raises(PublishError, match="(?s)marked places.*Try again: textual-inversion publish"):
        contents(folder)
    assert contents(folder, PublishSettings("ann/corgi", discard_edits=True))


@pytest.mark.parametrize(("private", "says"), [("{folder}/a", "a path of this machine"), (SECRET, "access token")])
def test_what_a_user_wrote_is_not_changed_but_looked_at(tmp_path: Path, private: str, says: str) -> None:
    folder = write_run(tmp_path / "run")
    file, text = write_card(folder)
    mark = "<!-- own section: about (kept when this card is written again) -->\n"
    file.write_text(text.replace(mark, f"{mark}See {private.format(folder=folder)}.\n"), encoding="utf-8")
    with pytest.raises(PublishError, match=f"README.md holds.*{says}") as error:
        contents(folder)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("~50/50 mix", "~50/50 mix"),
        (r"of \\alpha and \\beta", r"of \\alpha and \\beta"),
        ("of ~jane/photos/corgi and ~/photos/corgi", "of corgi and corgi"),
        (r"a \\server\share\jane\x, b", "a x, b"),
        (r"\\server\share\x", "x"),
        (r"a C:\Users\jane\x b", "a x b"),
    ],
)
def test_paths_are_cut_to_their_last_name(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def test_the_card_verb_writes_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    assert main(["card", str(folder), "--repo_id", "ann/corgi", "--description", "A good *dog*."]) == 0
    shown = capsys.readouterr()
    assert (folder / "card" / "README.md").read_text(encoding="utf-8") in shown.out
    assert 'load_textual_inversion("ann/corgi")' in shown.out
    assert "README.md" in shown.err


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda folder: folder, "holds no finished run: there is no learned_embeds.safetensors"),
        (lambda folder: write_run(folder / "a").parent, r"holds 1 concepts \(a\); publish one of them"),
        (lambda folder: _spoiled(write_run(folder / "a"), "config.json"), "settings cannot be read"),
        (lambda folder: _spoiled(write_run(folder / "a", report=True), "evaluation/report.json"), "evaluate again"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, prepare: object, says: str) -> None:
    folder = prepare(tmp_path)  # type: ignore[operator]
    with pytest.raises(PublishError, match=f"(?s){says}.*Try again: textual-inversion publish .* --dry_run$"):
        prepare_run(folder, SETTINGS, online=False)
    with pytest.raises(PublishError, match=f"(?s){says}.*Try again: textual-inversion publish .* --license mit$"):
        prepare_run(folder, dataclasses.replace(SETTINGS, license="mit"))


def _spoiled(folder: Path, name: str) -> Path:
    (folder / name).write_text("{")
    return folder


def test_the_pictures_go_only_when_asked(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert len(prepare_run(folder, SETTINGS, online=False)) == 1
    pictures, concept = prepare_run(folder, PublishSettings("ann/corgi", with_dataset=True), online=False)
    assert (pictures.repo_type, pictures.repo_id) == ("dataset", "ann/corgi-images")
    assert set(pictures.files) == {"README.md", "train/0001.png", "train/0002.png", "train/0003.png"}
    config = json.loads(concept.files["config.json"])  # type: ignore[arg-type]
    assert config["concepts"][0]["images"] == {"dataset_name": "ann/corgi-images"}
    card = ModelCard(concept.files["README.md"].decode())  # type: ignore[union-attr]
    assert card.data.datasets == ["ann/corgi-images"]
    settings = PublishSettings("ann/corgi", with_dataset=True, revision="dev")
    assert [publication.revision for publication in prepare_run(folder, settings, online=False)] == ["dev", "dev"]


@pytest.mark.parametrize("change", ["taken away", "another", "a caption"])
def test_only_pictures_that_were_learned_from_are_published(tmp_path: Path, change: str) -> None:
    """Others may lie in their place by now, as private as can be."""
    folder = write_run(tmp_path / "run", captions="captions")
    settings = PublishSettings("ann/corgi", with_dataset=True)
    assert prepare_run(folder, settings, online=False)
    if change == "taken away":
        (folder / "training" / "0.png").unlink()
    elif change == "another":
        Image.new("RGB", (16, 16), "red").save(folder / "training" / "0.png")
    else:
        (folder / "training" / "0.txt").write_text("my passport")
    with pytest.raises(PublishError, match=r"others than it was learned from.*train again.*leave --with_dataset out"):
        prepare_run(folder, settings, online=False)
    assert len(prepare_run(folder, SETTINGS, online=False)) == 1


def test_a_collection_has_a_repository_for_each_and_an_index(tmp_path: Path) -> None:
    for name in ("corgi", "teapot"):
        write_run(tmp_path / "runs" / name, f"<{name}>", report=True)
    *concepts, index = prepare_collection(tmp_path / "runs", PublishSettings("ann/library"))
    assert [concept.repo_id for concept in concepts] == ["ann/corgi", "ann/teapot"]
    assert set(index.files) == {"README.md", "pictures/corgi.png", "pictures/teapot.png"}
    text = index.files["README.md"].decode()  # type: ignore[union-attr]
    assert "ann/corgi" in text
    assert "ann/teapot" in text
    assert describe(index).startswith("one commit to the model ann/library")
    with pytest.raises(PublishError, match="would both be published as ann/corgi"):
        list(prepare_collection(tmp_path / "runs", PublishSettings("ann/corgi")))


def test_citations_are_those_of_what_was_used() -> None:
    plain = citations(TextualInversionConfig(), {"initializer": "dog"}, None)
    assert [text.split("{")[1].split(",")[0] for text in plain] == ["gal2023textual"]
    used = TextualInversionConfig(
        parametrization="directional", stopping="dvar", anchor_weight=1.0, initial_l2_weight=0.1
    )
    # CLIP image similarity is from the paper of Textual Inversion, which is there already.
    report = {"scores": [{"metric": "dino (facebook/dino-vits16)"}, {"metric": "clip_image (pocket)"}]}
    keys = [text.split("{")[1].split(",")[0] for text in citations(used, {"initializer": "dog"}, report)]
    assert {"gal2023textual", "kim2026directional", "voronov2023loss", "zhang2024compositional"} <= set(keys)
    assert "ruiz2023dreambooth" in keys
    assert len([key for key in keys if key.startswith("gal2023")]) == 1


def test_the_command_to_try_again_can_be_pasted() -> None:
    settings = PublishSettings(
        "ann/corgi", private=True, description="two words", image=(Path("a b.png"),), license="mit"
    )
    assert command_for(Path("my run"), settings) == (
        "textual-inversion publish 'my run' --repo_id ann/corgi --private --license mit --description 'two words'"
        " --image 'a b.png'"
    )
    assert command_for(Path("runs"), SETTINGS, collection=True) == (
        "textual-inversion publish --collection runs --repo_id ann/corgi"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repo_id", "a--b"], "'a--b' is no name of a repository"),
        (["--repo_id", "a/b/c"], "'a/b/c' is no name of a repository"),
        (["--repo_id", "ann/corgi"], "not logged in .*hf auth login"),
        (["--repo_id", "ann/corgi", "--hub_token", SECRET], "offline mode is on"),
    ],
)
def test_what_can_be_told_without_the_hub(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    folder = write_run(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
        assert main(["publish", str(folder), "--license", "mit", *arguments]) == 1
    shown = capsys.readouterr().err
    assert SECRET not in shown
    assert re.search(f"(?s){says}.*Try again: textual-inversion publish", shown), shown
