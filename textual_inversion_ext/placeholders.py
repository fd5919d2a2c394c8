"""Placeholder tokens as text: what may be one, and what its rows and its files are called."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from textual_inversion_ext.errors import ConceptError

__all__ = ["check_placeholder", "file_stem", "vector_tokens"]

# Characters that some file system or shell refuses in a name (Windows is the strictest).
_UNSAFE_IN_FILE_NAMES = re.compile(r'[<>:"/\\|?*\s]+')
# Names that Windows keeps for devices, and those that a run folder uses for itself.
_RESERVED_NAMES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))]
    + ["learned_embeds", "learned_embeds_2", "previews", "logs", "config", "steps", "per_image"]
)
_PARTS_OF_A_RUN = re.compile(r"(checkpoint|process)-\d+")
# File systems allow 255 bytes; this leaves room for suffixes such as "-steps-500.safetensors" and temporary names.
_MAX_NAME_BYTES = 120


def check_placeholder(token: str) -> None:
    """Refuses text that cannot be typed as one word in a prompt.

    Args:
        token: The placeholder.

    Raises:
        ConceptError: If it is empty or no text, or holds white space or invisible characters.
    """
    if not isinstance(token, str) or not token:
        raise ConceptError(f"placeholder token is {token!r}; it must be a word such as '<corgi>'.")
    if any(character.isspace() for character in token):
        raise ConceptError(f"placeholder token {token!r} holds white space; write it as one word, e.g. '<my-corgi>'.")
    # Unicode's "other" classes: control, format (zero-width), surrogate, unassigned. Nobody could type them back.
    invisible = [character for character in token if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn")]
    if invisible:
        raise ConceptError(
            f"placeholder token {token!r} holds invisible characters "
            f"({', '.join(f'U+{ord(character):04X}' for character in invisible)}); remove them."
        )


def vector_tokens(token: str, num_vectors: int) -> tuple[str, ...]:
    """Names the rows of a token as diffusers does.

    Args:
        token: The placeholder.
        num_vectors: How many rows it has.

    Returns:
        ``(token, token_1, ..., token_{n-1})``.
    """
    return (token, *(f"{token}_{row}" for row in range(1, num_vectors)))


def file_stem(token: str) -> str:
    """Turns a token into a file name that other programs show as its trigger.

    Args:
        token: The placeholder.

    Returns:
        The token without ``<>``, with everything that a file system refuses replaced by ``_``.
    """
    inner = token[1:-1] if token.startswith("<") and token.endswith(">") else token
    stem = _UNSAFE_IN_FILE_NAMES.sub("_", inner).strip(". ")
    if len(stem.encode()) > _MAX_NAME_BYTES:  # names that differ at their ends stay apart
        mark = hashlib.sha256(stem.encode()).hexdigest()[:8]
        stem = stem.encode()[: _MAX_NAME_BYTES - 9].decode(errors="ignore") + f"-{mark}"
    stem = stem or "concept"
    # A reserved name stays reserved on Windows whatever extension follows it.
    reserved = stem.split(".")[0].casefold() in _RESERVED_NAMES or _PARTS_OF_A_RUN.fullmatch(stem.casefold())
    return f"{stem}_" if reserved else stem
