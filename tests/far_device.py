"""A stand-in for a GPU, on any machine: torch's meta device, which computes shapes, dtypes and devices but no values.

Everything that depends on where tensors are happens as on a real device: two devices in one operation, a copy to it, a
value read back. The last two make the host wait for a GPU; here they are written down with the line that did it, and
what is read back is made up.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FAR = torch.device("meta")
_PACKAGE = "textual_inversion_ext/"
_COPY, _FILL, _READ = torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._local_scalar_dense


class Watch(TorchDispatchMode):
    """Writes down what crosses between host and device.

    Attributes:
        reads: the lines that read a value back.
        sends: the lines that copied a tensor to the device.
        mixes: operations with tensors of both, and their lines; a GPU refuses them. Numbers do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.sends: list[str] = []
        self.mixes: list[str] = []

    def forget(self) -> None:
        """Begin anew with what crosses; mixes stay."""
        self.reads.clear()
        self.sends.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:  # noqa: ARG002
        given = _tensors((args, kwargs))
        if func in (_COPY, _FILL) and len({tensor.device for tensor in (*given, _target(args, kwargs))}) > 1:
            return self._cross(func, args, kwargs or {})
        if func is _READ.default and given[0].is_meta:
            self.reads.append(_line())
            return _made_up(given[0], None).item()
        if any(tensor.is_meta for tensor in given) and any(tensor.dim() and not tensor.is_meta for tensor in given):
            self.mixes.append(f"{func} in {_line()}")
        return func(*args, **(kwargs or {}))

    def _cross(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Tensor:
        """Copy a tensor from one to the other."""
        source = args[0] if func is _COPY else args[1]
        (self.reads if source.is_meta else self.sends).append(_line())
        if not source.is_meta:
            return func(*args, **kwargs)
        copied = _made_up(source, kwargs.get("dtype"))
        return copied if func is _COPY else args[0].copy_(copied)


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch what happens with the stand-in.

    Yields:
        What has been seen so far.
    """
    with (
        mock.patch.object(torch, "Generator", _Generator),
        mock.patch.object(torch, "tensor", _tensor),
        Watch() as watch,
    ):
        yield watch


class _Generator(torch.Generator):
    """The meta device has no generators, and no values to draw."""

    def __new__(cls, device: Any = None) -> _Generator:  # noqa: ARG004
        return super().__new__(cls)


def _tensor(data: Any, *, device: Any = None, make: Any = torch.tensor, **options: Any) -> Tensor:
    """``torch.tensor`` in two steps: its own copy to the device goes unseen."""
    made = make(data, **options)
    return made if device is None else made.to(device)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _target(args: Any, kwargs: Mapping[str, Any] | None) -> Tensor:
    """Some tensor on the device that a copy goes to."""
    device = (kwargs or {}).get("device")
    return args[0] if device is None else torch.empty(0, device=device)


def _made_up(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Ones, and for counters -1, which stands for "never" wherever the package counts."""
    counts = not tensor.is_floating_point() and tensor.dtype != torch.uint8
    return torch.full(tensor.shape, -1 if counts else 1, dtype=dtype or tensor.dtype)


def _line() -> str:
    """The innermost line of the package that is being run."""
    frames = [frame for frame in traceback.extract_stack() if _PACKAGE in frame.filename]
    if not frames:
        return "a test"
    return f"{frames[-1].filename.rpartition(_PACKAGE)[2]}:{frames[-1].lineno} {frames[-1].line}"
