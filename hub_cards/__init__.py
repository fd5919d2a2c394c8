"""Model cards for the Hugging Face Hub.

This package knows Hugging Face cards and nothing of torch, diffusers or textual inversion: it will import the standard
library, `huggingface_hub` and its template engine only, and a test holds it to that. It has no public names yet.
"""

from __future__ import annotations

__all__: list[str] = []
