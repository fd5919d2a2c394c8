"""The user's own prompts: a text file with a prompt on each line, or a JSON file that says more.

A line is a prompt with ``{}``, or with the learned word itself, where the word goes; empty lines and lines that begin
with ``# `` are left out. A JSON file is an object::

    {"prompts": ["A photo of {}", {"text": "{} as a knitted toy", "aim": "obedience"}],
     "seeds": 8, "num_inference_steps": 30, "guidance_scale": 7.5, "text_mode": "class"}
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, get_args

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.evaluation.protocols.protocol import PLACEHOLDER, Aim, Protocol, ProtocolPrompt
from textual_inversion_ext.evaluation.texts import TEXT_MODES
from textual_inversion_ext.options import json_object

_SEEDS = 4
_KEYS = ("prompts", "seeds", "num_inference_steps", "guidance_scale", "text_mode", "source")


def read_protocol(path: str | Path, token: str | None = None) -> Protocol:
    """Read a file of prompts.

    Args:
        path: The file: JSON where its name ends in ``.json``, else text.
        token: The learned word; where a prompt has it, it stands for ``{}``.

    Returns:
        The protocol; its name is the file's.

    Raises:
        ConfigError: The file cannot be read, holds no prompt, or one without a place for the word.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the prompts {path}: {error}. Give a UTF-8 text file.") from error
    if path.suffix.lower() == ".json":
        return _from_object(json_object(text, str(path)), path, token)
    lines = [line.strip() for line in text.splitlines()]
    texts = [line for line in lines if line and line != "#" and not line.startswith("# ")]
    return _protocol(path, [_prompt(line, "both", path, token) for line in texts], {})


def _from_object(content: dict[str, Any], path: Path, token: str | None) -> Protocol:
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise ConfigError(f"{path} has unknown keys {', '.join(unknown)}; known: {', '.join(_KEYS)}.")
    listed = content.get("prompts", [])
    if not isinstance(listed, list):
        raise ConfigError(f'{path}: "prompts" must be a list of texts.')
    prompts = []
    for entry in listed:
        fields = {"text": entry} if isinstance(entry, str) else entry
        if not isinstance(fields, dict) or not {"text"} <= set(fields) <= {"text", "aim"}:
            raise ConfigError(f'{path}: a prompt is {entry!r}; write a text, or {{"text": ..., "aim": ...}}.')
        aim = fields.get("aim", "both")
        if not isinstance(fields["text"], str) or aim not in get_args(Aim):
            raise ConfigError(f"{path}: a prompt has the aim {aim!r}; allowed: {', '.join(get_args(Aim))}.")
        prompts.append(_prompt(fields["text"], aim, path, token))
    return _protocol(path, prompts, content)


def _prompt(text: str, aim: Aim, path: Path, token: str | None) -> ProtocolPrompt:
    if PLACEHOLDER not in text and token:
        # Imported here: the console lists the protocols without loading torch.
        from textual_inversion_ext.tokens import whole_word

        text = re.sub(whole_word(token), PLACEHOLDER, text, flags=re.IGNORECASE)
    if text.count(PLACEHOLDER) != 1:
        word = f", or {token}" if token else ""
        raise ConfigError(
            f"{path}: the prompt {text!r} does not say once where the word goes; write {{}} there{word}, for example"
            " 'A photo of {} on the beach'."
        )
    return ProtocolPrompt(text, aim)


def _protocol(path: Path, prompts: list[ProtocolPrompt], content: dict[str, Any]) -> Protocol:
    if not prompts:
        raise ConfigError(f"{path} holds no prompt; write one on each line, for example 'A photo of {{}}'.")
    distinct = tuple(dict.fromkeys(prompts))
    if len({prompt.text for prompt in distinct}) < len(prompts):
        raise ConfigError(f"{path} holds the same prompt twice; more pictures of it come from more seeds.")
    mode = content.get("text_mode", "omit")
    if mode not in TEXT_MODES:
        raise ConfigError(f"{path}: text_mode is {mode!r}; allowed: {', '.join(TEXT_MODES)}.")
    steps, guidance = content.get("num_inference_steps"), content.get("guidance_scale")
    return Protocol(
        name=path.name,
        source=str(content.get("source", "own prompts")),
        prompts=distinct,
        seeds=_whole(content.get("seeds", _SEEDS), "seeds", path),
        num_inference_steps=None if steps is None else _whole(steps, "num_inference_steps", path),
        guidance_scale=None if guidance is None else _number(guidance, "guidance_scale", path),
        text_mode=mode,
    )


def _whole(value: Any, name: str, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{path}: {name} is {value!r}; it must be a whole number, 1 or more.")
    return value


def _number(value: Any, name: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"{path}: {name} is {value!r}; it must be a number, 0 or more.")
    return float(value)
