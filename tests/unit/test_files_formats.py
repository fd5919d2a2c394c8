"""Every kind of embedding file in the wild is read, or refused with the reason: made here as its tool makes it."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from torch import Tensor, nn

from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.errors import EmbeddingFileError
from textual_inversion_ext.files import load_concept, load_concepts, save_concept, tools_for

L, G, T5 = (torch.randn(2, width, generator=torch.Generator().manual_seed(width)) for width in (768, 1280, 4096))


def pickled(file: Path, value: object, legacy: bool = False) -> Path:
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file


def stored(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, file, metadata)
    return file


def assert_holds(concept: LearnedConcept, token: str, vectors: dict[str, Tensor], kind: str) -> None:
    assert concept.token == token and list(concept.vectors) == list(vectors)
    assert all(
        torch.equal(concept.vectors[key], rows.float().reshape(-1, rows.shape[-1])) for key, rows in vectors.items()
    )
    assert concept.metadata["file_format"] == kind and concept.metadata["token"] == token


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize(
    "rows", [L, L[0], L[:1].half(), L.bfloat16()], ids=lambda rows: f"{tuple(rows.shape)}-{rows.dtype}"
)
def test_diffusers_and_the_concepts_library(ending: str, rows: Tensor, tmp_path: Path) -> None:
    file = tmp_path / f"learned_embeds.{ending}"
    stored(file, {"<cat-toy>": rows}, {"format": "pt"}) if ending == "safetensors" else pickled(
        file, {"<cat-toy>": rows}
    )
    (tmp_path / "token_identifier.txt").write_text("<cat-toy>")
    (tmp_path / "type_of_concept.txt").write_text("object\n")
    concept = load_concept(tmp_path)
    assert_holds(concept, "<cat-toy>", {"clip_l": rows}, "diffusers")
    assert concept.metadata["token_identifier"] == "<cat-toy>" and concept.metadata["type_of_concept"] == "object"
    assert concept.metadata["file_dtype"] == str(rows.dtype).removeprefix("torch.")


@pytest.mark.parametrize("infix", ["", "-steps-500"])
def test_the_two_files_of_diffusers_sdxl_script_are_one_concept(infix: str, tmp_path: Path) -> None:
    stored(tmp_path / f"learned_embeds{infix}.safetensors", {"<a>": L}, {"format": "pt"})
    stored(tmp_path / f"learned_embeds_2{infix}.safetensors", {"<a>": G.half()}, {"format": "pt"})
    for place in (tmp_path, tmp_path / f"learned_embeds{infix}.safetensors"):
        concept = load_concept(place)
        assert_holds(concept, "<a>", {"clip_l": L, "clip_g": G.half()}, "diffusers")
        assert concept.metadata["file_dtype"] == "float32,float16" and concept.metadata["encoder"] == "clip_l,clip_g"
    second = load_concept(tmp_path / f"learned_embeds_2{infix}.safetensors")
    assert_holds(second, "<a>", {"clip_g": G.half()}, "diffusers")


def test_tiny_halves_are_told_apart_by_their_names(tmp_path: Path) -> None:
    for name, width in (("learned_embeds", 4), ("learned_embeds_2", 6)):
        stored(tmp_path / f"{name}.safetensors", {"<a>": torch.ones(1, width)})
    assert {key: rows.shape[1] for key, rows in load_concept(tmp_path).vectors.items()} == {"clip_l": 4, "clip_g": 6}


@pytest.mark.parametrize("name", ["learned_embeds_2000.bin", "learned_embeds_20-best.bin", "learned_embeds_2b.bin"])
def test_a_number_of_steps_is_no_second_file(name: str, tmp_path: Path) -> None:
    pickled(tmp_path / name, {"<a>": L})
    assert_holds(load_concept(tmp_path / name), "<a>", {"clip_l": L}, "diffusers")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("another word", {"<b>": G}),
        ("the same encoder", {"<a>": L}),
        ("another number of vectors", {"<a>": G[:1]}),
    ],
)
def test_neighbours_that_are_no_halves_stay_apart(name: str, other: dict[str, Tensor], tmp_path: Path) -> None:
    stored(tmp_path / "cat.safetensors", {"<a>": L})
    stored(tmp_path / "cat_2.safetensors", other)
    assert_holds(load_concept(tmp_path / "cat.safetensors"), "<a>", {"clip_l": L}, "diffusers")
    assert len(load_concepts(tmp_path)) == 2


def test_a_half_left_over_from_another_training_is_not_joined(tmp_path: Path) -> None:
    save_concept(LearnedConcept("<a>", {"clip_l": L, "clip_g": G}, {"steps": "5"}), tmp_path)
    save_concept(LearnedConcept("<a>", {"clip_l": L}, {"steps": "6"}), tmp_path)
    assert_holds(load_concept(tmp_path), "<a>", {"clip_l": L}, "diffusers")


A1111_FACTS = {"name": "my style", "step": 499, "sd_checkpoint": "81761151", "sd_checkpoint_name": "v1-5-pruned"}


@pytest.mark.parametrize("legacy", [False, True])
def test_a1111(legacy: bool, tmp_path: Path) -> None:
    data = {"string_to_token": {"*": 265}, "string_to_param": {"*": L.clone().requires_grad_()}, **A1111_FACTS}
    concept = load_concept(pickled(tmp_path / "x.pt", data, legacy))
    assert_holds(concept, "my_style", {"clip_l": L}, "a1111")
    told = {"steps": "499", "base_model": "v1-5-pruned", "sd_checkpoint": "81761151", "original_name": "my style"}
    assert told.items() <= concept.metadata.items()
    assert not [key for key in concept.metadata if key.startswith("string_to")]


def test_a1111_without_a_name_is_called_like_the_file(tmp_path: Path) -> None:
    nameless = {"string_to_token": {"*": 265}, "string_to_param": {"*": L}, "name": None, "step": None}
    assert load_concept(pickled(tmp_path / "EasyNegative.pt", nameless)).token == "EasyNegative"


@pytest.mark.parametrize("key", ["*", "<cat.v1>"])
def test_the_first_implementation(key: str, tmp_path: Path) -> None:
    """Its `nn.ParameterDict` is the one class that is let through."""
    params = nn.ParameterDict({"placeholder": nn.Parameter(L)})
    # torch refuses names with a dot, as its predecessors did not.
    params._parameters = {key: params._parameters["placeholder"]}
    data = {"string_to_token": {key: torch.tensor(265)}, "string_to_param": params}
    concept = load_concept(pickled(tmp_path / "embeddings_gs-6099.pt", data))
    assert_holds(concept, "embeddings_gs-6099" if key == "*" else key, {"clip_l": L}, "a1111")
    assert set(tools_for(concept.metadata)) == {"webui", "comfyui"}
    with pytest.raises(EmbeddingFileError, match="before 1.6 and holds a class by its source code"):
        load_concept(pickled(tmp_path / "old.pt", data, legacy=True))


def test_several_terms_are_several_concepts(tmp_path: Path) -> None:
    file = pickled(tmp_path / "x.pt", {"string_to_param": {"<a>": L, "<b>": L + 1}})
    assert [concept.token for concept in load_concepts(file)] == ["<a>", "<b>"]
    with pytest.raises(
        EmbeddingFileError, match=r"holds 2 concepts: '<a>' in x.pt, '<b>' in x.pt; choose one with token="
    ):
        load_concept(file)
    with pytest.raises(EmbeddingFileError, match="holds 2 concepts"):
        load_concept(file, token="<c>")
    assert_holds(load_concept(file, token="<b>"), "<b>", {"clip_l": L + 1}, "a1111")


def test_emb_params_in_both_containers(tmp_path: Path) -> None:
    ai_toolkit = {"string_to_token": '{"*": 265}', "string_to_param": '{"*": "emb_params"}', "name": "dog", "step": "7"}
    concept = load_concept(stored(tmp_path / "a.safetensors", {"emb_params": L}, ai_toolkit))
    assert_holds(concept, "a", {"clip_l": L}, "emb_params")
    assert concept.metadata["steps"] == "7" and concept.metadata["original_name"] == "dog"
    assert_holds(load_concept(pickled(tmp_path / "kohya.pt", {"emb_params": L})), "kohya", {"clip_l": L}, "emb_params")


@pytest.mark.parametrize(
    ("tensors", "vectors"),
    [
        ({"clip_l": L, "clip_g": G}, {"clip_l": L, "clip_g": G}),
        ({"t5": T5, "clip_l": L}, {"clip_l": L, "t5": T5}),
        ({"clip_l": L, "t5xxl": T5}, {"clip_l": L, "t5": T5}),
        ({"clip_l": L, "clip_g": G, "t5xxl": T5}, {"clip_l": L, "clip_g": G, "t5": T5}),
        ({"llama": T5, "clip_l": L}, {"clip_l": L, "llama": T5}),
        ({"gemma": L}, {"gemma": L}),
        ({"clip_g": G}, {"clip_g": G}),
    ],
    ids=lambda tensors: "+".join(tensors),
)
def test_a_tensor_per_encoder(tensors: dict[str, Tensor], vectors: dict[str, Tensor], tmp_path: Path) -> None:
    concept = load_concept(stored(tmp_path / "unaestheticXL.safetensors", tensors, {"modelspec.title": "x"}))
    assert_holds(concept, "unaestheticXL", vectors, "encoders")
    assert concept.metadata["modelspec.title"] == "x"


def test_two_names_of_one_encoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbeddingFileError, match="both t5 and t5xxl"):
        load_concept(stored(tmp_path / "a.safetensors", {"t5": T5, "t5xxl": T5 + 1}))


def test_onetrainer_and_its_output_embeddings(tmp_path: Path) -> None:
    concept = load_concept(stored(tmp_path / "a.safetensors", {"emp_params": L}))
    assert_holds(concept, "a", {"clip_l": L}, "emp_params")
    assert "not_read" not in concept.metadata
    both = load_concept(stored(tmp_path / "b.safetensors", {"emp_params": L, "emp_params_out": L + 1}))
    assert_holds(both, "b", {"clip_l": L}, "emp_params")
    assert "emp_params_out: output embeddings" in both.metadata["not_read"]
    assert set(tools_for(both.metadata)) == {"onetrainer"} < set(tools_for(concept.metadata))
    for tensors in ({"emp_params_out": L}, {"clip_l_out": L, "clip_g_out": G}):
        with pytest.raises(EmbeddingFileError, match="only .*output embeddings.*train without 'output embedding'"):
            load_concept(stored(tmp_path / "c.safetensors", tensors))


def test_the_hidream_bug_is_explained(tmp_path: Path) -> None:
    tensors = {"clip_l": L, "clip_g": G, "t5": T5, "llama": T5 + 1, "t5_out": G}
    concept = load_concept(stored(tmp_path / "a.safetensors", tensors))
    assert list(concept.vectors) == ["clip_l", "clip_g", "t5", "llama"] and torch.equal(concept.vectors["t5"], T5)
    assert "second CLIP's output of HiDream" in concept.metadata["not_read"]
    again = load_concept(save_concept(concept, tmp_path / "again", "onetrainer")[0])
    assert "not_read" not in again.metadata, "it is not in the file that was written"


def test_embeddings_inside_a_lora(tmp_path: Path) -> None:
    tensors = {
        "lora_unet_down_blocks_0.lora_up.weight": torch.ones(8, 4),
        "bundle_emb.style.string_to_param.*": L,
        "bundle_emb.<dog>.clip_l": L + 1,
        "bundle_emb.<dog>.clip_g": G,
        "bundle_emb.<dog>.clip_l_out": L,
    }
    facts = {"ss_sd_model_name": "sd_xl_base", "ss_tag_frequency": "{}", "modelspec.architecture": "x/lora"}
    concepts = {concept.token: concept for concept in load_concepts(stored(tmp_path / "a.safetensors", tensors, facts))}
    assert_holds(concepts["style"], "style", {"clip_l": L}, "bundle")
    assert_holds(concepts["<dog>"], "<dog>", {"clip_l": L + 1, "clip_g": G}, "bundle")
    metadata = concepts["<dog>"].metadata
    assert metadata["base_model"] == "sd_xl_base" and "clip_l_out" in metadata["not_read"]
    assert not [key for key in metadata if key.startswith(("ss_", "modelspec."))], "the LoRA's, not the embedding's"
    with pytest.raises(EmbeddingFileError, match="'bundle_emb.x' is not named"):
        load_concept(stored(tmp_path / "b.safetensors", {"bundle_emb.x": L}))
    with pytest.raises(EmbeddingFileError, match="has 'unet'; known are clip_l"):
        load_concept(stored(tmp_path / "c.safetensors", {"bundle_emb.x.unet": L}))


def sparse_lora(file: Path, embedding: str) -> Path:
    """A LoRA of 300 MiB that takes no space on the disk, with one small tensor at its start."""
    size, large = L.nbytes, 300 * 1024**2
    header = {
        embedding: {"dtype": "F32", "shape": list(L.shape), "data_offsets": [0, size]},
        "lora_unet": {"dtype": "U8", "shape": [large], "data_offsets": [size, size + large]},
    }
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text + L.numpy().tobytes())
        stream.truncate(stream.tell() + large)
    return file


def test_a_large_lora_is_not_loaded_for_its_embedding(tmp_path: Path) -> None:
    assert_holds(
        load_concept(sparse_lora(tmp_path / "a.safetensors", "bundle_emb.x.clip_l")), "x", {"clip_l": L}, "bundle"
    )
    with pytest.raises(EmbeddingFileError, match="300 MiB.*model or a LoRA"):
        load_concept(sparse_lora(tmp_path / "b.safetensors", "lora_te"))


@pytest.mark.parametrize(
    ("params", "token"),
    [
        ('{"TOK": "<s0><s1>"}', "TOK"),
        ('{"MYDOG": "<s0><s1>"}', "MYDOG"),
        (None, "TOK"),
        ("no json", "TOK"),
        ("[1]", "TOK"),
    ],
)
def test_cog_sdxl(params: str | None, token: str, tmp_path: Path) -> None:
    stored(tmp_path / "embeddings.pti", {"text_encoders_0": L, "text_encoders_1": G})
    if params is not None:
        (tmp_path / "special_params.json").write_text(params)
    assert_holds(load_concept(tmp_path), token, {"clip_l": L, "clip_g": G}, "cog")


def test_cloneofsimo(tmp_path: Path) -> None:
    tensors = {"<s1>": L[0], "<s2>": L[1], "unet:0:up": torch.ones(8, 4), "unet:0:down": torch.ones(4, 8)}
    facts = {"<s1>": "<embed>", "<s2>": "<embed>", "unet": '["CrossAttention"]'}
    one, two = load_concepts(stored(tmp_path / "a.safetensors", tensors, facts))
    assert_holds(one, "<s1>", {"clip_l": L[0]}, "cloneofsimo")
    assert_holds(two, "<s2>", {"clip_l": L[1]}, "cloneofsimo")
    assert "<s1>" not in one.metadata
    plain = load_concepts(pickled(tmp_path / "x.ti.pt", {"<s1>": L[0], "<s2>": L[1]}))
    assert [concept.token for concept in plain] == ["<s1>", "<s2>"]
    named = load_concept(stored(tmp_path / "b.safetensors", {"sks": L[0], "unet:0:up": L}, {"sks": "<embed>"}))
    assert_holds(named, "sks", {"clip_l": L[0]}, "cloneofsimo")


XTI = ["IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID", *(f"OUT{layer:02d}" for layer in range(3, 12))]


def test_per_layer_embeddings_are_refused_with_the_reason(tmp_path: Path) -> None:
    file = stored(tmp_path / "a.safetensors", dict.fromkeys(XTI, L))
    with pytest.raises(EmbeddingFileError, match=r"'xti'.*16 tensors.*per-layer embeddings.*16 layers"):
        load_concept(file)
    with pytest.raises(EmbeddingFileError, match="per-layer"):
        load_concept(pickled(tmp_path / "a.pt", dict.fromkeys(XTI, L)))


def picture(file: Path, chunk: str | None) -> Path:
    info = PngInfo()
    if chunk is not None:
        info.add_text("sd-ti-embedding", chunk)
    Image.new("RGB", (16, 16), (90, 60, 30)).save(file, "PNG", pnginfo=info)
    return file


def test_a_picture_with_an_embedding(tmp_path: Path) -> None:
    data = {"string_to_token": {"*": 265}, "string_to_param": {"*": {"TORCHTENSOR": L.tolist()}}, **A1111_FACTS}
    concept = load_concept(picture(tmp_path / "x.png", base64.b64encode(json.dumps(data).encode()).decode()))
    assert_holds(concept, "my_style", {"clip_l": L}, "a1111")
    assert concept.metadata["steps"] == "499" and set(tools_for(concept.metadata)) == {"webui"}


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        (None, "without an embedding"),
        ("%%%", "no readable embedding"),
        (base64.b64encode(b"[" * 100_000).decode(), "no readable embedding"),
        (
            base64.b64encode(b'{"string_to_param": {"*": {"TORCHTENSOR": [[1], [1, 2]]}}}').decode(),
            "no readable embedding",
        ),
        (base64.b64encode(b'{"a": 1}').decode(), "no known format"),
    ],
    ids=["none", "no base64", "deep", "ragged", "other"],
)
def test_pictures_without_a_sound_embedding_say_so(chunk: str | None, says: str, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingFileError, match=says):
        load_concept(picture(tmp_path / "x.png", chunk))


def strips(size: int = 64) -> Image.Image:
    """A picture between two strips of data as AUTOMATIC1111 puts them: nibbles of zlib data, scrambled."""
    data = np.frombuffer(zlib.compress(json.dumps({"a": L.tolist()}).encode()), np.uint8)
    scramble = np.random.default_rng(0).integers(0, 16, len(data), dtype=np.uint8)
    columns = len(data) // (size * 3)
    low, high = (
        (nibbles ^ scramble)[: size * columns * 3].reshape(size, columns, 3) for nibbles in (data & 15, data >> 4)
    )
    black = np.zeros((size, 1, 3), np.uint8)
    middle = np.full((size, size, 3), 0x35, np.uint8)
    return Image.fromarray(np.concatenate([low | 0x40, black, middle, black, high | 0x40], axis=1))


def test_an_embedding_in_the_pixels_is_recognised_and_not_read(tmp_path: Path) -> None:
    strips().save(tmp_path / "x.png")
    with pytest.raises(EmbeddingFileError, match="side strips.*is not read.*text chunk"):
        load_concept(tmp_path / "x.png")
    strips().save(tmp_path / "x.webp", lossless=True)
    with pytest.raises(EmbeddingFileError, match="side strips"):
        load_concept(tmp_path / "x.webp")


def test_a_list_of_dictionaries_is_one_concept(tmp_path: Path) -> None:
    concept = load_concept(pickled(tmp_path / "x.pt", [{"clip_l": L, "clip_g": G}, {"clip_l": L[0], "clip_g": G[0]}]))
    vectors = {"clip_l": torch.cat([L, L[:1]]), "clip_g": torch.cat([G, G[:1]])}
    assert_holds(concept, "x", vectors, "list")
    by_width = load_concept(pickled(tmp_path / "y.pt", [{"a": L, "b": G}, {"a": L[0], "b": G[0]}]))
    assert_holds(by_width, "y", vectors, "list")
    assert_holds(load_concept(pickled(tmp_path / "z.pt", [L[0], L[1]])), "z", {"clip_l": L}, "list")
    with pytest.raises(EmbeddingFileError, match="several widths for clip_l: 768, 4"):
        load_concept(pickled(tmp_path / "z.pt", [L, torch.ones(4)]))


@pytest.mark.parametrize("rows", [L, L[0], nn.Parameter(G)], ids=lambda rows: str(tuple(rows.shape)))
def test_a_bare_tensor(rows: Tensor, tmp_path: Path) -> None:
    concept = load_concept(pickled(tmp_path / "my word.pt", rows))
    assert_holds(concept, "my_word", {"clip_g" if rows.shape[-1] == 1280 else "clip_l": rows.detach()}, "bare")


@pytest.mark.parametrize(("width", "encoder"), [(768, "clip_l"), (1024, "clip_l"), (1280, "clip_g"), (4096, "t5")])
def test_the_width_tells_the_encoder(width: int, encoder: str, tmp_path: Path) -> None:
    assert list(load_concept(stored(tmp_path / "a.safetensors", {"<a>": torch.ones(width)})).vectors) == [encoder]


def test_optimizer_states_are_called_what_they_are(tmp_path: Path) -> None:
    state = {"hash": "ab", "optimizer_state_dict": {"state": {0: {"exp_avg": L}}, "param_groups": [{"lr": 0.1}]}}
    with pytest.raises(EmbeddingFileError, match="state of an optimizer"):
        load_concept(pickled(tmp_path / "x.pt.optim", state))


def test_a_foreign_file_that_is_converted_keeps_where_it_is_from(tmp_path: Path) -> None:
    data = {"string_to_param": {"*": L.half()}, **A1111_FACTS}
    foreign = load_concept(pickled(tmp_path / "x.pt", data))
    ours = load_concept(save_concept(foreign, tmp_path / "a")[0])
    again = load_concept(save_concept(ours, tmp_path / "b", "webui")[0])
    for concept in (ours, again):
        told = {"source_format": "a1111", "source_dtype": "float16", "steps": "499", "original_name": "my style"}
        assert told.items() <= concept.metadata.items() and concept.metadata["file_dtype"] == "float32"


def test_modelspec_is_written_where_the_architecture_is_certain(tmp_path: Path) -> None:
    facts = {"family": "stable-diffusion", "licence": "cc0-1.0"}
    known = load_concept(save_concept(LearnedConcept("<a>", {"clip_l": L}, facts), tmp_path / "a", "kohya")[0])
    spec = {key: value for key, value in known.metadata.items() if key.startswith("modelspec.")}
    assert spec == {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/textual-inversion",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "a",
        "modelspec.trigger_phrase": "<a>",
        "modelspec.license": "cc0-1.0",
    }
    for unsure in (LearnedConcept("<a>", {"clip_l": L}), LearnedConcept("<a>", {"clip_l": L[:, :64]}, facts)):
        metadata = load_concept(save_concept(unsure, tmp_path / "b", "kohya")[0]).metadata
        assert not [key for key in metadata if key.startswith("modelspec.")]
