"""State of an optimizer as one tensor of bytes, for a checkpoint that holds tensors only."""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from textual_inversion_ext.errors import ConfigError

_LENGTH = 8  # bytes of the length in front


def pack(value: Any) -> Tensor:
    """Nested containers, numbers and tensors as bytes, without pickle.

    Args:
        value: what an optimizer's ``state_dict()`` returns.

    Returns:
        (bytes,) uint8: a length, and a safetensors file of its tensors and, as JSON, of all the rest.

    Raises:
        ConfigError: it holds something else.
    """
    tensors: dict[str, Tensor] = {}

    def plain(item: Any) -> Any:
        if isinstance(item, Tensor):
            tensors[str(len(tensors))] = item.detach().to("cpu", copy=True).contiguous()
            return {"tensor": str(len(tensors) - 1)}
        if isinstance(item, dict):
            return {"dict": [[plain(key), plain(entry)] for key, entry in item.items()]}
        if isinstance(item, list | tuple):
            return {"tuple" if isinstance(item, tuple) else "list": [plain(entry) for entry in item]}
        if item is None or isinstance(item, bool | int | float | str):
            return item
        raise ConfigError(f"the optimizer keeps a {type(item).__name__}, which no checkpoint can hold; choose another.")

    text = json.dumps(plain(value)).encode()
    tensors["structure"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    data = safetensors.torch.save(tensors)
    return torch.frombuffer(bytearray(len(data).to_bytes(_LENGTH, "little") + data), dtype=torch.uint8)


def unpack(packed: Tensor) -> Any:
    """The inverse of ``pack``.

    Args:
        packed: (bytes,) uint8; whatever follows is ignored.

    Returns:
        What was packed; tensors are on the CPU.
    """
    data = packed.cpu().numpy().tobytes()
    tensors = safetensors.torch.load(data[_LENGTH : _LENGTH + int.from_bytes(data[:_LENGTH], "little")])

    def whole(item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        ((kind, content),) = item.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "dict":
            return {whole(key): whole(entry) for key, entry in content}
        entries = [whole(entry) for entry in content]
        return tuple(entries) if kind == "tuple" else entries

    return whole(json.loads(tensors["structure"].numpy().tobytes()))
