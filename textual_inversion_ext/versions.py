"""Versions of what made rows and numbers: this library, Python and the packages below it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from textual_inversion_ext import __version__

__all__ = ["versions"]

_PACKAGES = ("torch", "diffusers", "transformers", "Pillow")


def versions() -> dict[str, str]:
    """Look the versions up.

    Returns:
        Name in lower case -> version.
    """
    found = {"textual-inversion-ext": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name.lower()] = version(name)
        except PackageNotFoundError:  # installed under another name (torch-cpu, Pillow-SIMD)
            found[name.lower()] = "unknown"
    return found
