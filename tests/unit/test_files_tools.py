"""Who loads what: diffusers' own loader is run; the others' rules, as docs/files.md states them, are written out here.

Each rule returns the rows that the tool would use for each text encoder of the model, or raises `Refused`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.tiny import tiny_pipeline, tiny_text_encoder, tiny_tokenizer
from textual_inversion_ext.cli.convert import _SDXL_LINES
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.files import TARGETS, load_concept, save_concept, tools_for
from textual_inversion_ext.files.tools import TOOLS

WIDTHS = {"clip_l": 768, "clip_g": 1280, "t5": 4096}
# Which text encoders a model has, as far as a tool treats its files alike.
MODELS = {"sd1": ("clip_l",), "sdxl": ("clip_l", "clip_g"), "flux": ("clip_l", "t5"), "sd3": ("clip_l", "clip_g", "t5")}


class Refused(Exception):
    """The tool does not load the file for this model."""


def webui(data: Mapping[str, Tensor], encoders: tuple[str, ...]) -> dict[str, Tensor]:
    """AUTOMATIC1111 1.10 and Forge, `create_embedding_from_data`: clip_l and clip_g, or exactly one tensor."""
    if "clip_g" in data and "clip_l" in data and encoders == ("clip_l", "clip_g"):
        if set(data) != {"clip_g", "clip_l"}:
            raise Refused("every tensor is taken for a text encoder")
        return dict(data)
    if len(data) != 1 or encoders != ("clip_l",):
        raise Refused("embedding file has multiple terms in it, or there is no place for this encoder")
    return {"clip_l": _right_width(next(iter(data.values())), "clip_l")}


def comfyui(data: Mapping[str, Tensor], encoders: tuple[str, ...]) -> dict[str, Tensor]:
    """ComfyUI, `load_embed`: the tensor with the encoder's key, else the first; another width is ignored."""
    names = {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5xxl"}
    found = {key: data.get(names[key], next(iter(data.values()))) for key in encoders}
    return {key: _right_width(rows, key) for key, rows in found.items()}


def invokeai(data: Mapping[str, Tensor], encoders: tuple[str, ...]) -> dict[str, Tensor]:
    """InvokeAI: the probe must tell the model from the file, then `TextualInversionModelRaw` reads it."""
    if "emb_params" in data:
        width = data["emb_params"].shape[-1]
    elif "clip_g" in data:
        width = data["clip_g"].shape[-1]
    else:
        width = next(iter(data.values())).shape[0]  # right for one dimension only
    base = {768: ("clip_l",), 1024: ("clip_l",), 1280: ("clip_l", "clip_g")}.get(width)
    if base != encoders:
        raise Refused(f"the probe takes it for {base}")
    if "emb_params" in data:
        return {"clip_l": data["emb_params"]}
    if "clip_g" in data and "clip_l" in data:
        return {"clip_l": data["clip_l"], "clip_g": data["clip_g"]}
    first = next(iter(data.values()))
    return {"clip_l": first.reshape(-1, first.shape[-1])}


def kohya(data: Mapping[str, Tensor], encoders: tuple[str, ...]) -> dict[str, Tensor]:
    """kohya sd-scripts: `train_textual_inversion.py` takes the first tensor, the SDXL script clip_l and clip_g."""
    if encoders == ("clip_l",):
        first = next(iter(data.values()))
        return {"clip_l": _right_width(first.reshape(-1, first.shape[-1]), "clip_l")}
    if encoders == ("clip_l", "clip_g") and {"clip_l", "clip_g"} <= set(data):
        return {"clip_l": data["clip_l"], "clip_g": data["clip_g"]}
    raise Refused("no script, or no such key")


def onetrainer(data: Mapping[str, Tensor], encoders: tuple[str, ...]) -> dict[str, Tensor]:
    """OneTrainer: its loaders look for its savers' keys."""
    names = {"clip_l": "emp_params"} if encoders == ("clip_l",) else {key: key for key in encoders}
    if not set(names.values()) <= set(data):
        raise Refused(f"needs {list(names.values())}")
    return {key: data[name] for key, name in names.items()}


RULES: dict[str, Callable[[Mapping[str, Tensor], tuple[str, ...]], dict[str, Tensor]]] = {
    "webui": webui,
    "comfyui": comfyui,
    "invokeai": invokeai,
    "kohya": kohya,
    "onetrainer": onetrainer,
}


def _right_width(rows: Tensor, encoder: str) -> Tensor:
    if rows.shape[-1] != WIDTHS[encoder]:
        raise Refused("shape mismatch, ignored")
    return rows


def concept_for(model: str) -> LearnedConcept:
    chance = torch.Generator().manual_seed(0)
    return LearnedConcept("<corgi>", {key: torch.randn(2, WIDTHS[key], generator=chance) for key in MODELS[model]})


def takes(tool: str, data: Mapping[str, Tensor], concept: LearnedConcept) -> bool:
    """Whether the tool ends up with exactly the concept's rows."""
    try:
        used = RULES[tool](data, tuple(concept.vectors))
    except Refused:
        return False
    return set(used) == set(concept.vectors) and all(torch.equal(used[key], concept.vectors[key]) for key in used)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tool", RULES)
def test_a_tool_takes_what_is_written_for_it_and_is_refused_the_rest(tool: str, model: str, tmp_path: Path) -> None:
    concept = concept_for(model)
    if not TARGETS[tool].otherwise and frozenset(concept.vectors) not in TARGETS[tool].layouts:
        assert not takes(tool, {{"t5": "t5xxl"}.get(key, key): rows for key, rows in concept.vectors.items()}, concept)
        return
    (file,) = save_concept(concept, tmp_path, tool)
    assert takes(tool, load_file(file), concept)
    assert file.name == "corgi.safetensors", "the file's name is the trigger"


@pytest.mark.parametrize("model", ["sd1", "sdxl", "flux"])
@pytest.mark.parametrize("written_for", [name for name in TARGETS if name != "diffusers"])
@pytest.mark.parametrize("tool", RULES)
def test_the_table_of_tools_agrees_with_their_rules(tool: str, written_for: str, model: str, tmp_path: Path) -> None:
    concept = concept_for(model)
    if not TARGETS[written_for].otherwise and frozenset(concept.vectors) not in TARGETS[written_for].layouts:
        return
    (file,) = save_concept(concept, tmp_path, written_for)
    listed = tools_for(load_concept(file).metadata)
    assert (tool in listed) == takes(tool, load_file(file), concept)


@pytest.mark.parametrize("tool", RULES)
def test_the_table_agrees_about_diffusers_files(tool: str, tmp_path: Path) -> None:
    concept = concept_for("sd1")
    (file,) = save_concept(concept, tmp_path)
    assert (tool in tools_for(load_concept(file).metadata)) == takes(tool, load_file(file), concept)


def test_the_table_has_no_row_that_no_file_has() -> None:
    from textual_inversion_ext.files import FORMATS

    assert {row.split("/")[0] for row in TOOLS} == set(FORMATS) - {"xti"}
    assert {tool for row in TOOLS.values() for tool in row} == set(TARGETS)


DOCUMENTED = re.findall(
    r"^\| (\w+) \| (SD 1, 2|SDXL|SDXL \(two files\)|Flux) \| (.*) \|$",
    (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8"),
    re.M,
)


@pytest.mark.parametrize(("target", "model", "cells"), DOCUMENTED, ids=lambda part: part.split(" |")[0])
def test_the_documented_table_is_true(target: str, model: str, cells: str, tmp_path: Path) -> None:
    concept = concept_for({"SD": "sd1", "SDXL": "sdxl", "Flux": "flux"}[model.split()[0]])
    files = save_concept(concept, tmp_path, target)
    listed = tools_for(load_concept(files[0]).metadata)
    diffusers, *others = cells.split(" | ")
    assert diffusers == listed.get("diffusers", "no").removeprefix("with ")
    # A file of a pair is seen alone by a tool.
    true = [all(takes(tool, load_file(file), concept) for file in files) for tool in RULES]
    assert others == ["yes" if value else "no" for value in true]


def test_the_documented_table_has_every_row() -> None:
    models = {"sd1": "SD 1, 2", "sdxl": "SDXL", "flux": "Flux"}
    told = {(target, model.removesuffix(" (two files)")) for target, model, _ in DOCUMENTED}
    for target, tool in TARGETS.items():
        for model, name in models.items():
            writes = bool(tool.otherwise) or frozenset(MODELS[model]) in tool.layouts
            assert ((target, name) in told) == (writes and (target, name) != ("diffusers", "Flux"))


def plainly_loaded(file: Path, count: int, token: str | None = None) -> Tensor:
    """The rows that a plain pipeline of diffusers has after loading a file."""
    pipeline = tiny_pipeline()
    before = len(pipeline.tokenizer)
    pipeline.load_textual_inversion(str(file), **({} if token is None else {"token": token}))
    assert pipeline.tokenizer.convert_tokens_to_ids("<corgi>") == before
    return pipeline.text_encoder.get_input_embeddings().weight[before : before + count].detach()


@pytest.mark.parametrize("rows", [torch.randn(1, 16), torch.randn(3, 16)], ids=len)
@pytest.mark.parametrize("target", TARGETS)
def test_plain_diffusers_loads_what_the_table_says(target: str, rows: Tensor, tmp_path: Path) -> None:
    (file,) = save_concept(LearnedConcept("<corgi>", {"clip_l": rows}), tmp_path, target)
    how = tools_for(load_concept(file).metadata)["diffusers"]
    assert how == ("yes" if target == "diffusers" else "with token=")
    assert torch.equal(plainly_loaded(file, len(rows), "<corgi>" if how == "with token=" else None), rows)


def test_plain_diffusers_reads_a1111_pickles_but_not_the_first_implementations(tmp_path: Path) -> None:
    rows = torch.randn(2, 16)
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": "<corgi>"}, tmp_path / "a.pt")
    assert torch.equal(plainly_loaded(tmp_path / "a.pt", 2), rows)
    params = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)})
    torch.save({"string_to_token": {"*": 265}, "string_to_param": params, "name": "<corgi>"}, tmp_path / "b.pt")
    with pytest.raises((OSError, RuntimeError, ValueError)):
        plainly_loaded(tmp_path / "b.pt", 2)
    assert "diffusers" not in tools_for(load_concept(tmp_path / "b.pt").metadata)


def test_plain_diffusers_loads_the_pair_with_the_lines_that_are_printed(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        second = tiny_tokenizer()
        pipe = tiny_pipeline()
        pipe.tokenizer_2, pipe.text_encoder_2 = second, tiny_text_encoder(second, width=32)
    concept = LearnedConcept("<corgi>", {"clip_l": torch.randn(2, 16), "clip_g": torch.randn(2, 32)})
    files = save_concept(concept, tmp_path)
    printed = _SDXL_LINES.format(token=concept.token, first=files[0], second=files[1])
    exec("\n".join(line.strip() for line in printed.splitlines()[1:]), {"pipe": pipe})
    for encoder, tokenizer, rows in [
        (pipe.text_encoder, pipe.tokenizer, concept.vectors["clip_l"]),
        (pipe.text_encoder_2, pipe.tokenizer_2, concept.vectors["clip_g"]),
    ]:
        ids = tokenizer.convert_tokens_to_ids(list(concept.vector_tokens))
        assert torch.equal(encoder.get_input_embeddings().weight[ids], rows)
