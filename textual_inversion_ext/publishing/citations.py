"""BibTeX of what a run really used: each method carries its own, and here they are only collected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from textual_inversion_ext.config import TextualInversionConfig

__all__ = ["citations"]


def citations(
    config: TextualInversionConfig | None, fields: Mapping[str, Any], report: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Collect the citations of a run.

    Args:
        config: Its settings; None where they are not known.
        fields: The concept's fields.
        report: Its evaluation report, as JSON; None without one.

    Returns:
        BibTeX, each once, Textual Inversion first.
    """
    from textual_inversion_ext.parametrizations import PARAMETRIZATIONS

    found = [PARAMETRIZATIONS["free"].citation]
    if config is not None:
        found += [getattr(method, "citation", "") for method in _methods(config, fields)]
    found += [metric.citation for metric in _metrics(report)]
    return tuple(dict.fromkeys(text.strip() for text in found if text.strip()))


def _methods(config: TextualInversionConfig, fields: Mapping[str, Any]) -> Iterator[Any]:
    """The classes that a run's settings chose."""
    from textual_inversion_ext.initializers import AUTO, INITIALIZERS
    from textual_inversion_ext.parametrizations import PARAMETRIZATIONS
    from textual_inversion_ext.regularizers import REGULARIZERS
    from textual_inversion_ext.training.stopping import STOPPING_RULES

    if config.parametrization in PARAMETRIZATIONS:
        yield PARAMETRIZATIONS[config.parametrization]
    yield from (kind for name, kind in REGULARIZERS.items() if getattr(config, f"{name}_weight", 0) > 0)
    if config.stopping in STOPPING_RULES:
        yield STOPPING_RULES[config.stopping]
    text = str(fields.get("initializer", ""))
    how = fields.get("initialization") or config.initialization
    if how == AUTO:
        yield from [kind for kind in INITIALIZERS.values() if kind.recognises(text)][:1]
    elif how in INITIALIZERS:
        yield INITIALIZERS[how]


def _metrics(report: Mapping[str, Any] | None) -> Iterator[Any]:
    """The classes of the metrics that a report names: "clip_image (pocket)" is of the key "clip_image"."""
    if report is None:
        return
    from textual_inversion_ext.evaluation.metrics import METRICS

    keys = dict.fromkeys(str(score.get("metric", "")).split(" (")[0] for score in report.get("scores", []))
    yield from (METRICS[key] for key in keys if key in METRICS)
