"""The text that pictures of a prompt are held against: CLIP does not know the concept's word, so it goes out of it."""

from __future__ import annotations

from typing import Literal, get_args

from textual_inversion_ext.errors import ConfigError

TextMode = Literal["omit", "class"]
TEXT_MODES: tuple[TextMode, ...] = get_args(TextMode)
"""What stands in the place of the word.

``omit``
    Nothing, and the space on either side of it stays, as in the code of Gal et al. (``prompt.replace("*", "")``), with
    which published numbers were made: "A photo of  on the moon". Their paper prints one space; CLIP's tokenizer reads
    any number of spaces as one.
``class``
    The class word, as DreamBench++ and Custom Diffusion do: "A photo of dog on the moon".
"""


def scored_text(prompt: str, mode: TextMode = "omit", class_name: str | None = None) -> str:
    """Take the concept's word out of a prompt.

    Args:
        prompt: with ``{}`` where the word goes, any number of times.
        mode: what goes there instead, see `TEXT_MODES`.
        class_name: the coarse word for the concept, for the mode "class"; with its article if it should have one.

    Returns:
        The text.

    Raises:
        ConfigError: there is no such mode, no place for the word in the prompt, or no class word where it is needed.

    Source:
        Gal et al. 2022, section 5.2 and ``evaluation/clip_eval.py`` of their code.
    """
    if "{}" not in prompt:
        raise ConfigError(f"the prompt {prompt!r} has no place for the word; write {{}} where the word goes.")
    if mode not in TEXT_MODES:
        raise ConfigError(f"there is no text mode {mode!r}; the modes are: {', '.join(TEXT_MODES)}.")
    if mode == "class":
        if not class_name:
            raise ConfigError("text mode 'class' needs the class word of the concept, such as 'dog'; or use 'omit'.")
        return prompt.replace("{}", class_name)
    return prompt.replace("{}", "")
