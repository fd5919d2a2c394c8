"""Places: which files a path, a folder or a Hub repository stands for."""

from __future__ import annotations

from .folder import companions, embedding_files, files_of, is_snapshot, listed, part_path
from .hub import HubPlace, fetch, parse_hub

__all__ = [
    "HubPlace",
    "companions",
    "embedding_files",
    "fetch",
    "files_of",
    "is_snapshot",
    "listed",
    "parse_hub",
    "part_path",
]
