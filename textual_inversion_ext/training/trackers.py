"""Experiment trackers (TensorBoard, Weights & Biases, ...), all through accelerate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from PIL import Image

from textual_inversion_ext.errors import ConfigError, MissingDependencyError
from textual_inversion_ext.training.callbacks import Callback, LogEntry, Run


class Trackers(Callback):
    """Hands every entry to accelerate's trackers."""

    def on_start(self, run: Run) -> None:
        """Start the trackers with the run's settings.

        Args:
            run: The run.

        Raises:
            ConfigError: One of them does not start: no login, no server, ...
        """
        # TensorBoard takes only plain values.
        settings = {name: value if value is not None else "" for name, value in run.config.to_dict().items()}
        try:
            run.accelerator.init_trackers("textual_inversion", config=settings)
        except Exception as error:  # each tracker has errors of its own
            raise ConfigError(
                f"The tracker did not start (report_to {run.config.report_to}): {error}. Log in to it, or use"
                " --report_to none."
            ) from error

    def on_log(self, run: Run, entry: LogEntry) -> None:
        """Log losses, learning rates and row norms under the concepts' tokens; see the base class."""
        values: dict[str, float] = {"samples_per_second": entry.samples_per_second}
        for kind, by_token in (("loss", entry.loss), ("lr", entry.lr)):
            values.update({f"{kind}/{token}": value for token, value in by_token.items()})
        values.update({f"eval_loss/{token}": pairs[-1][1] for token, pairs in entry.eval_loss.items()})
        for token, norms in entry.row_norms.items():
            values[f"row_norm/{token}"] = math.fsum(norms) / len(norms)
        run.accelerator.log(values, step=entry.step)

    def on_end(self, run: Run) -> None:
        """Let the trackers finish; see the base class."""
        # Not accelerator.end_training(): it also ends the process group, which belongs to the caller.
        for tracker in run.accelerator.trackers:
            tracker.finish()


def log_pictures(accelerator: Accelerator, name: str, pictures: Sequence[Image.Image], step: int) -> None:
    """Hand pictures to the trackers that take them from accelerate: TensorBoard, Weights & Biases and SwanLab.

    Args:
        accelerator: Holds the trackers.
        name: What to call them.
        pictures: Pictures of one size.
        step: Optimizer steps done.
    """
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            stacked = np.stack([np.asarray(picture) for picture in pictures])
            tracker.log_images({name: stacked}, step=step, dataformats="NHWC")
        elif tracker.name in ("wandb", "swanlab"):
            tracker.log_images({name: list(pictures)}, step=step)


def tracker_names(report_to: str) -> list[str]:
    """Check ``report_to``.

    Args:
        report_to: "none", "all", a tracker that accelerate knows, or several separated by commas.

    Returns:
        Names for ``Accelerator(log_with=...)``.

    Raises:
        ConfigError: accelerate knows no such tracker.
        MissingDependencyError: The tracker's package is not installed.
    """
    names = list(dict.fromkeys(name.strip() for name in report_to.split(",")))
    installed = [str(name) for name in get_available_trackers()]
    if names == ["none"]:
        return []
    if names == ["all"]:
        return installed
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(LOGGER_TYPE_TO_CLASS)
            raise ConfigError(
                f"report_to has {name!r}; allowed are none, all, or some of {known}, with commas between."
            )
        if name not in installed:
            raise MissingDependencyError(
                f"report_to {name} needs a package that is not installed: pip install {name.replace('_', '-')}"
                " (or use --report_to none)."
            )
    return names
