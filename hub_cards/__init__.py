"""Model cards for the Hugging Face Hub, and how they get there.

This package knows Hugging Face cards and nothing of torch, diffusers or textual inversion's inside: it imports the
standard library, `huggingface_hub` and its template engine only, and a test holds it to that.

    contents.py, concept_index.py, dataset.py   what a card tells, as records
    metadata.py                                 the part that the Hub reads
    usage.py, scores.py, views.py               the part that people read
    escape.py, render.py, templates/            text that is safe wherever it is written
    own_sections.py, card.py                    the whole card; what its user wrote into it stays
    listing.py                                  which files are of a publication, for the one after it
    push.py                                     one commit to the Hub

Names are imported from their modules: ``from hub_cards.card import Card``.
"""

from __future__ import annotations

__all__: list[str] = []
