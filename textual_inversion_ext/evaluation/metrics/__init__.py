"""What pictures are scored by: one file per idea, and this table is the only list."""

from __future__ import annotations

from collections.abc import Sequence

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.evaluation.metric_parts import MetricParts, SubjectReader, SubjectReading
from textual_inversion_ext.evaluation.metrics.base import LikenessMetric, Metric, Scored
from textual_inversion_ext.evaluation.metrics.clip_image import ClipImageMetric
from textual_inversion_ext.evaluation.metrics.clip_text import ClipTextMetric
from textual_inversion_ext.evaluation.metrics.clip_text_of_means import ClipTextOfMeansMetric
from textual_inversion_ext.evaluation.metrics.dino import DinoMetric
from textual_inversion_ext.evaluation.metrics.diversity import DiversityMetric
from textual_inversion_ext.evaluation.metrics.identity_error import IdentityErrorMetric
from textual_inversion_ext.evaluation.metrics.lpips import LpipsMetric

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "ClipImageMetric",
    "ClipTextMetric",
    "ClipTextOfMeansMetric",
    "DinoMetric",
    "DiversityMetric",
    "IdentityErrorMetric",
    "LikenessMetric",
    "LpipsMetric",
    "Metric",
    "MetricParts",
    "Scored",
    "SubjectReader",
    "SubjectReading",
    "build_metrics",
]

METRICS: dict[str, type[Metric]] = {
    ClipImageMetric.key: ClipImageMetric,
    ClipTextMetric.key: ClipTextMetric,
    ClipTextOfMeansMetric.key: ClipTextOfMeansMetric,
    DinoMetric.key: DinoMetric,
    DiversityMetric.key: DiversityMetric,
    LpipsMetric.key: LpipsMetric,
    IdentityErrorMetric.key: IdentityErrorMetric,
}

DEFAULT_METRICS = (ClipImageMetric.key, ClipTextMetric.key, DiversityMetric.key)
"""One network for all three, and for the pocket world nothing to fetch."""


def build_metrics(keys: Sequence[str], parts: MetricParts) -> tuple[Metric, ...]:
    """Make metrics by their names.

    Args:
        keys: keys of `METRICS`; each counts once.
        parts: what to build them of.

    Returns:
        The metrics, in the order of the keys.

    Raises:
        ConfigError: there is no such metric, or it needs something that was not given.
        ModelError: a backbone cannot be loaded.
        MissingDependencyError: an optional package is missing.
    """
    unknown = [key for key in keys if key not in METRICS]
    if unknown:
        raise ConfigError(f"there is no metric {unknown[0]!r}; the metrics are: {', '.join(METRICS)}.")
    return tuple(METRICS[key].build(parts) for key in dict.fromkeys(keys))
