"""Which tool loads which kind of file as it is: a table, for people who ask what to do with a file.

diffusers' loader is run in the tests, those of kohya and InvokeAI were run once; AUTOMATIC1111, ComfyUI and OneTrainer
were read in their source. `docs/files.md` says how each cell was checked.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["TOOLS", "tools_for"]

_YES = "yes"
_NAME_IT = "with token="
_LORA = "as part of the LoRA"

TOOLS: dict[str, dict[str, str]] = {
    "diffusers": {"diffusers": _YES, "kohya": _YES, "webui": _YES, "comfyui": _YES},
    "diffusers/1-D": {"diffusers": _YES, "kohya": _YES, "invokeai": _YES, "webui": _YES, "comfyui": _YES},
    "diffusers/pair": {"diffusers": "one call per file"},
    "a1111": {"diffusers": _YES, "kohya": _YES, "invokeai": _YES, "webui": _YES, "comfyui": _YES},
    "a1111/parameter dict": {"webui": _YES, "comfyui": "float32, 768 or 1024 wide"},
    "a1111/picture": {"webui": _YES},
    "emb_params": {"diffusers": _NAME_IT, "kohya": _YES, "invokeai": _YES, "webui": _YES, "comfyui": _YES},
    "encoders/sdxl": {"kohya": _YES, "invokeai": _YES, "webui": _YES, "comfyui": _YES, "onetrainer": _YES},
    "encoders/clip_l": {"diffusers": _NAME_IT, "kohya": _YES, "webui": _YES, "comfyui": _YES},
    "encoders/t5xxl": {"comfyui": _YES},
    "encoders": {"onetrainer": _YES},
    "emp_params": {"diffusers": _NAME_IT, "kohya": _YES, "webui": _YES, "comfyui": _YES, "onetrainer": _YES},
    "emp_params/outputs": {"onetrainer": _YES},
    "bundle": {"webui": _LORA, "comfyui": _LORA},
    "cog": {},
    "cloneofsimo": {},
    "list": {"comfyui": _YES},
    "bare": {"diffusers": _NAME_IT},
}
"""Format, or format/variant, to the tools that load it (their names in `TARGETS`) and under which condition."""


def tools_for(metadata: Mapping[str, str]) -> dict[str, str]:
    """Looks up who loads the file that a concept was read from.

    Args:
        metadata: The concept's metadata, as `load_concept` fills it.

    Returns:
        Tool to "yes" or a condition; empty when no tool loads it as it is.
    """
    name, variant = metadata.get("file_format", ""), metadata.get("file_variant", "")
    return dict(TOOLS.get(f"{name}/{variant}", TOOLS.get(name, {})))
