"""How to use the words: Python that works when pasted, and where other programs want their file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from hub_cards.contents import CardContents, EmbeddingFile, Word
from hub_cards.escape import python_string

__all__ = ["Place", "diffusers_code", "example_prompt", "places"]

# The name that diffusers looks for when it is given none.
_DEFAULT_FILE = "learned_embeds.safetensors"
_WIDTH = 88
# Source: InvokeAI `invokeai/backend/textual_inversion.py`; its prompt parser knows no other names.
_INVOKEAI_NAMES = re.compile(r"[a-zA-Z0-9., _-]+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one program wants the file of one word.

    Attributes:
        program: The program.
        file: The file in the repository.
        folder: The program's folder for it.
        trigger: What one types there; None where the program cannot name this file.
    """

    program: str
    file: str
    folder: str
    trigger: str | None


def diffusers_code(contents: CardContents) -> str:
    """Writes the lines that load the words into diffusers and make a picture.

    Args:
        contents: What the card tells.

    Returns:
        A program in Python.
    """
    base = contents.base_model
    model = [python_string(base.hub_id or base.name)]
    if base.revision:
        model.append(f"revision={python_string(base.revision)}")
    # Weights stored in half precision are loaded in it by transformers and in single precision by diffusers, and the
    # two do not fit together. `to` is in every version, `dtype=` and `torch_dtype=` are not.
    usual = (
        "import torch",
        "from diffusers import DiffusionPipeline",
        "",
        _call("pipe = DiffusionPipeline.from_pretrained", model, ".to(torch.float32)"),
    )
    repository = python_string(contents.repo_id or ".")
    lines = list(base.load_lines or usual)
    for word in contents.words:
        lines += word.load_lines or [_load_line(repository, file) for file in word.files]
    if contents.lora_file is not None:
        lines.append(_call("pipe.load_lora_weights", [repository, *_where(contents.lora_file)]))
    name = PurePosixPath(contents.words[0].ui_file or "picture").stem
    prompt = python_string(example_prompt(contents))
    return "\n".join([*lines, f"pipe({prompt}).images[0].save({python_string(f'{name}.png')})"])


def example_prompt(contents: CardContents) -> str:
    """Picks a prompt that shows how the words are typed.

    Args:
        contents: What the card tells.

    Returns:
        The prompt of the first picture that has a word in its own, else a plain one.
    """
    prompts = [picture.prompt for picture in contents.pictures]
    shown = [prompt for prompt in prompts if any(token in prompt for token in contents.tokens)]
    word = contents.words[0]
    start = "a painting in the style of" if word.learnable_property == "style" else "a photo of"
    return next(iter(shown), f"{start} {word.token}")


def places(word: Word) -> list[Place]:
    """Lists where other programs want a word's file.

    Args:
        word: The word.

    Returns:
        One entry for each program; none where the word has no file for them.
    """
    if word.ui_file is None:
        return []
    stem = PurePosixPath(word.ui_file).stem
    invokeai = f"<{stem}>" if _INVOKEAI_NAMES.fullmatch(stem) else None
    return [
        Place("AUTOMATIC1111, Forge", word.ui_file, "stable-diffusion-webui/embeddings", stem),
        Place("ComfyUI", word.ui_file, "ComfyUI/models/embeddings", f"embedding:{stem}"),
        Place("InvokeAI", word.ui_file, "Model Manager, Add Model", invokeai),
    ]


def _load_line(repository: str, file: EmbeddingFile) -> str:
    part = file.text_encoder.removeprefix("text_encoder")
    encoder = [f"tokenizer=pipe.tokenizer{part}", f"text_encoder=pipe.text_encoder{part}"] if part else []
    return _call("pipe.load_textual_inversion", [repository, *_where(file.path), *encoder])


def _call(function: str, arguments: list[str], then: str = "") -> str:
    line = f"{function}({', '.join(arguments)}){then}"
    if len(line) <= _WIDTH:
        return line
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"{function}(\n{lines}){then}"


def _where(path: str) -> list[str]:
    """The arguments that name a file; none for the one that diffusers looks for anyway."""
    place = PurePosixPath(path)
    folder = [] if str(place.parent) == "." else [f"subfolder={python_string(str(place.parent))}"]
    return folder if place.name == _DEFAULT_FILE else [*folder, f"weight_name={python_string(place.name)}"]
