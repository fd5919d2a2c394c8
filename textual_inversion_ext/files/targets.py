"""Tools that embeddings are written for: which layout each one reads, under which file name.

Most tools share a layout, so a tool is a row here and a layout is a `Format`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..concept import LearnedConcept
from ..errors import EmbeddingFileError
from .base import ENCODER_OF_KEY, Part

__all__ = ["TARGETS", "Target"]

_SD = frozenset(["clip_l"])
_SDXL = frozenset(["clip_l", "clip_g"])
_ALL = frozenset(ENCODER_OF_KEY.values())


@dataclass(frozen=True, slots=True)
class Target:
    """A tool, and how it wants to be served.

    Attributes:
        tool: What people call it.
        description: One line for help texts: what is written.
        layouts: Set of text encoders to name of the format, for sets that are treated alone.
        otherwise: Format for any other set within `encoders`; None to refuse.
        encoders: Text encoders that the tool has a name for.
        keys: Tensor names that the tool calls otherwise than the format.
        stem: File name without ending; empty for the concept's name, where the tool makes it the trigger.
        stem_pattern: What file names the tool takes as triggers.
    """

    tool: str
    description: str
    layouts: Mapping[frozenset[str], str]
    otherwise: str | None = None
    encoders: frozenset[str] = _SDXL
    keys: Mapping[str, str] = field(default_factory=dict)
    stem: str = ""
    stem_pattern: str = r".+"

    def takes(self, concept: LearnedConcept) -> bool:
        """Says whether the tool has a place for a concept's text encoders.

        Args:
            concept: The concept.

        Returns:
            Whether `layout_for` finds a layout.
        """
        encoders = frozenset(concept.vectors)
        return encoders in self.layouts or (self.otherwise is not None and encoders <= self.encoders)

    def layout_for(self, concept: LearnedConcept) -> str:
        """Chooses the format.

        Args:
            concept: The concept.

        Returns:
            A key of `FORMATS`.

        Raises:
            EmbeddingFileError: If the tool has no place for these text encoders.
        """
        if not self.takes(concept):
            sets = [" + ".join(sorted(known, reverse=True)) for known in self.layouts]
            sets += [f"any of {', '.join(sorted(self.encoders))}"] if self.otherwise else []
            raise EmbeddingFileError(
                f"{concept.token} has rows for {', '.join(concept.vectors)}; {self.tool} reads embeddings for "
                f"{' or for '.join(sets)}. Choose another format."
            )
        return self.layouts.get(frozenset(concept.vectors)) or str(self.otherwise)

    def renamed(self, part: Part) -> Part:
        """Gives tensors the names that the tool looks for.

        Args:
            part: A file as the format lays it out.

        Returns:
            The same with the tool's names.
        """
        return Part({self.keys.get(key, key): rows for key, rows in part.tensors.items()}, part.encoders)

    def stem_for(self, concept: LearnedConcept) -> str:
        """Names the file.

        Args:
            concept: The concept.

        Returns:
            File name without ending.

        Raises:
            EmbeddingFileError: If the tool could not use the name as a trigger.
        """
        stem = self.stem or concept.name
        if not re.fullmatch(self.stem_pattern, stem):
            raise EmbeddingFileError(
                f"{self.tool} takes the file name as the trigger and knows only names like {self.stem_pattern}; "
                f"{stem!r} is none. Give the concept another token."
            )
        return stem


_WEB = {_SD: "emb_params", _SDXL: "encoders"}

TARGETS: dict[str, Target] = {
    "diffusers": Target(
        "diffusers",
        "learned_embeds.safetensors with one tensor named by the token; one file per text encoder",
        {},
        otherwise="diffusers",
        encoders=_ALL,
        stem="learned_embeds",
    ),
    "webui": Target(
        "AUTOMATIC1111 / Forge",
        "<name>.safetensors with emb_params, or clip_l and clip_g; the name is the trigger",
        _WEB,
    ),
    "comfyui": Target(
        "ComfyUI",
        "<name>.safetensors with clip_l, clip_g, t5xxl; the trigger is embedding:<name>",
        {},
        otherwise="encoders",
        encoders=frozenset(["clip_l", "clip_g", "t5"]),
        keys={"t5": "t5xxl"},
    ),
    "invokeai": Target(
        "InvokeAI",
        "<name>.safetensors with emb_params, or clip_l and clip_g; the trigger is <name> in angle brackets",
        _WEB,
        stem_pattern=r"[a-zA-Z0-9., _-]+",
    ),
    "kohya": Target("kohya sd-scripts", "<name>.safetensors with emb_params, or clip_l and clip_g", _WEB),
    "onetrainer": Target(
        "OneTrainer",
        "<name>.safetensors with emp_params, or a tensor per text encoder",
        {_SD: "emp_params"},
        otherwise="encoders",
        encoders=_ALL,
    ),
}
"""Name of the command line's option to tool. Adding a tool whose layout exists is one row."""
