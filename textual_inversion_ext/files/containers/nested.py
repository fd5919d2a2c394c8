"""Nested values, as pickles and JSON hold them, made flat."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ...errors import EmbeddingFileError
from ..base import Content

__all__ = ["flatten"]

# A value that holds itself, or the same list a thousand times a thousand times, is small on disk and endless here.
_MOST_DEPTH, _MOST_VALUES = 8, 20_000
# So is a tensor with a stride of 0, or one that is listed many times, until somebody copies it.
_MOST_NUMBERS = 2**26


def flatten(value: Any, container: str) -> Content:
    """Turns nested dictionaries and lists into names joined by dots.

    Args:
        value: Dictionaries, lists, tensors, and single values.
        container: Where it is from.

    Returns:
        Tensors; texts and numbers as text metadata. Anything else is left out.

    Raises:
        EmbeddingFileError: If it is nested too deeply, or holds too many values or numbers.
    """
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    notes = {"list"} if isinstance(value, list | tuple) else set()
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    seen = 0
    while waiting:
        name, item, depth = waiting.pop()
        seen += 1
        if seen > _MOST_VALUES or depth > _MOST_DEPTH:
            raise EmbeddingFileError(
                f"holds more than {_MOST_VALUES} values or nests them more than {_MOST_DEPTH} deep; no embedding does."
            )
        if isinstance(item, Tensor):
            # A file may hang attributes on a tensor that hide its methods; what is detached is a plain one.
            tensors[name] = Tensor.detach(item).as_subclass(Tensor)
            notes.update(["nested"] if depth > 1 else [])
        elif isinstance(item, str | int | float):
            metadata[name] = str(item)
        else:
            if isinstance(item, nn.ParameterDict):
                notes.add("parameter dict")
            prefix = f"{name}." if depth else ""
            waiting += [(f"{prefix}{key}", inner, depth + 1) for key, inner in _children(item)]
    claimed = sum(tensor.numel() for tensor in tensors.values())
    if claimed > _MOST_NUMBERS:
        raise EmbeddingFileError(
            f"claims to hold {claimed} numbers in {len(tensors)} tensors; an embedding has thousands."
        )
    # The last value in is the first one out; files list their tensors in an order that may matter.
    return Content(
        dict(reversed(tensors.items())), dict(reversed(metadata.items())), "", container, tuple(sorted(notes))
    )


def _children(item: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(item, nn.ParameterDict):
        # Its own methods trust attributes that a file may have set to anything, or (torch < 1.12) did not have yet.
        parameters = vars(item).get("_parameters")
        return parameters.items() if isinstance(parameters, dict) else ()
    if isinstance(item, dict):
        return item.items()
    return enumerate(item) if isinstance(item, list | tuple) else ()
