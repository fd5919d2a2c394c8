"""A composed picture before any style: background, subject colours and what a style needs to know of the shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers that a style combines.

    Attributes:
        background: RGB picture, S x S.
        colours: Flat colours of the subjects, float32 (S, S, 3) in 0..255; meaningless outside `mask`.
        mask: Where a subject is, bool (S, S).
        labels: Material of each pixel, uint8 (S, S); different subjects use different numbers.
        shadow: Gain of the background under the subjects, float32 (S, S) in (0, 1].
    """

    background: Image.Image
    colours: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    shadow: np.ndarray

    def outline(self, width: float) -> np.ndarray:
        """Return the borders between materials, bool (S, S); `width` as a share of the picture."""
        edges = np.zeros(self.labels.shape, dtype=bool)
        edges[1:] |= self.labels[1:] != self.labels[:-1]
        edges[:, 1:] |= self.labels[:, 1:] != self.labels[:, :-1]
        kernel = max(3, round(self.labels.shape[0] * width) | 1)
        thick = Image.fromarray(edges.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(kernel))
        return np.asarray(thick) > 0

    @property
    def rim(self) -> np.ndarray:
        """Soft darkening towards the borders of the subjects, float32 (S, S) in [0, 1]."""
        inside = Image.fromarray(self.mask.astype(np.uint8) * 255)
        soft = np.asarray(inside.filter(ImageFilter.GaussianBlur(self.labels.shape[0] * 0.02)), dtype=np.float32)
        return np.clip(2.0 - soft / 127.5, 0.0, 1.0)

    def shading(self, slant: float) -> np.ndarray:
        """Return the gain of light from above, float32 (S, S) around 1; `slant` in [-1, 1] moves it sideways."""
        size = self.labels.shape[0]
        ys, xs = np.nonzero(self.mask)
        if len(ys) == 0:
            return np.ones((size, size), dtype=np.float32)
        yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
        height = (yy - ys.min()) / max(1, ys.max() - ys.min()) - 0.5
        across = (xx - xs.min()) / max(1, xs.max() - xs.min()) - 0.5
        return np.asarray(1.03 - 0.26 * height + 0.18 * slant * across, dtype=np.float32)
