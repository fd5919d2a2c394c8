"""Prompt templates: the neutral sentences that a new word is trained in.

Source: Gal et al. 2022, "An Image is Worth One Word" (arXiv:2208.01618), appendix D, which took them from CLIP's
ImageNet templates; the lists are those of diffusers' `examples/textual_inversion/textual_inversion.py`, entry for
entry. The paper prints each with a trailing full stop; like diffusers, this library leaves it out, because prompts are
typed without one.
"""

from __future__ import annotations

from textual_inversion_ext.concept import LearnableProperty

__all__ = ["DUAL_TEMPLATES", "PHOTO_TEMPLATES", "STYLE_TEMPLATES", "TEMPLATES"]

PHOTO_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)
"""27 templates for objects, each with one ``{}`` where the word goes."""

# "cropped" and "close-up" stand twice, as in the source: dropping them would change how often each is drawn.
STYLE_TEMPLATES: tuple[str, ...] = (
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a cropped painting in the style of {}",
    "the painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a picture in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a cropped painting in the style of {}",
    "a good painting in the style of {}",
    "a close-up painting in the style of {}",
    "a rendition in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
)
"""19 templates for styles, each with one ``{}`` where the word goes."""

TEMPLATES: dict[LearnableProperty, tuple[str, ...]] = {"object": PHOTO_TEMPLATES, "style": STYLE_TEMPLATES}
"""Which templates each `ConceptSpec.learnable_property` is trained with."""

DUAL_TEMPLATES: dict[LearnableProperty, tuple[str, ...]] = {
    subject: tuple(f"{template} with {{}}" for template in templates) for subject, templates in TEMPLATES.items()
}
"""The same with a second place, for the word of the single picture.

Gal et al. 2022, section 5.2, give one sentence, "A photo of S* with S_i"; the other entries are ours, made alike.
"""
