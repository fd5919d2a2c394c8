"""How much do the samples of a prompt vary, in a network's eyes that sees small differences?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from textual_inversion_ext.errors import DataError, MissingDependencyError, ModelError
from textual_inversion_ext.evaluation.metric_parts import MetricParts
from textual_inversion_ext.evaluation.metrics.base import Metric, Scored


class LpipsMetric(Metric):
    """Mean LPIPS distance (AlexNet) of a picture to the other samples of its prompt.

    All pairs of different samples count. It needs the package ``lpips``.

    Source: Zhang et al. 2018; as a measure of diversity among samples: Voronov et al. 2023 (their code compares the
    first two pictures only).

    Args:
        distance: two batches of RGB pictures, (B, 3, H, W) float32 in [-1, 1], to their (B,) distances.
        backbone: name of what measures them.
    """

    key = "lpips"
    title = "LPIPS diversity"
    citation = """@inproceedings{zhang2018unreasonable,
  title     = {The Unreasonable Effectiveness of Deep Features as a Perceptual Metric},
  author    = {Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman, Eli and Wang, Oliver},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2018}
}"""
    aspect = "diversity"
    needs = frozenset({"samples"})
    samples_matter = True

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor], backbone: str = "alex") -> None:
        super().__init__(backbone)
        self.distance = distance

    @classmethod
    def build(cls, parts: MetricParts) -> LpipsMetric:
        """Load the network of the package ``lpips``; see the base class.

        Args:
            parts: ``device`` is used.

        Returns:
            The metric.

        Raises:
            MissingDependencyError: the package is not installed.
            ModelError: the weights of its AlexNet cannot be fetched.
        """
        try:
            import lpips
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
            raise MissingDependencyError(
                "The metric 'lpips' needs the packages lpips and torchvision, the latter made for the installed torch"
                f" ({' '.join(str(error).split())[:200]}). Install them with `pip install"
                " 'textual-inversion-ext[lpips]'`, or use the metric 'diversity', which needs neither."
            ) from error
        network: Any = _network(lpips).to(parts.device)

        def distance(first: Tensor, second: Tensor) -> Tensor:
            with torch.no_grad():
                found: Tensor = network(first.to(parts.device), second.to(parts.device))
            return found.flatten().cpu()

        return cls(distance)

    def score(self, scored: Scored) -> Tensor:
        """Compare each picture with the other samples of its prompt; see the base class.

        Args:
            scored: ``images`` and ``prompts`` are used.

        Returns:
            (n,) distances.

        Raises:
            DataError: the samples of a prompt are of different sizes.
        """
        scores = torch.empty(len(scored.images))
        for group in scored.samples():
            sizes = {scored.images[index].size for index in group}
            if len(sizes) > 1:
                raise DataError(f"{self.name}: samples of one prompt must be of one size; these are {sorted(sizes)}.")
            pixels = torch.stack([_pixels(scored.images[index]) for index in group])
            table = torch.zeros(len(group), len(group))
            for row in range(len(group) - 1):
                others = pixels[row + 1 :]
                distances = self.distance(pixels[row].expand_as(others), others)
                table[row, row + 1 :] = table[row + 1 :, row] = distances
            scores[group] = table.sum(1) / (len(group) - 1)
        return scores


def _network(lpips: Any) -> Any:
    """LPIPS itself comes with the package; the AlexNet below it is fetched by torchvision at the first use."""
    try:
        return lpips.LPIPS(net="alex", verbose=False).eval().requires_grad_(False)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ModelError(
            f"Cannot load the AlexNet of the metric 'lpips': {' '.join(str(error).split())[:300]} torchvision fetches"
            f" its file alexnet-owt-*.pth once. On a machine without network access, copy that file into {folder}, or"
            " use the metric 'diversity'."
        ) from error


def _pixels(picture: Image.Image) -> Tensor:
    array = np.asarray(picture.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1)
