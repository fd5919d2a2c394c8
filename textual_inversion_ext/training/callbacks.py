"""What watches a run: the contract, the progress bar and the step log. None of them changes the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from textual_inversion_ext.atomic import atomic_write
from textual_inversion_ext.concept import LearnedConcept
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import StorageError
from textual_inversion_ext.families.base import FamilyAdapter
from textual_inversion_ext.training.outputs import RunFolder
from textual_inversion_ext.training.state import Progress


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of the step log.

    Attributes:
        step: Optimizer steps done.
        loss: Token -> mean loss since the last entry; only concepts that trained since then.
        eval_loss: Token -> steps of the concept and loss of its evaluations since the last entry; only those evaluated.
        lr: Token -> learning rate of the concept's next step.
        row_norms: Token -> Euclidean norm of each of its rows, in the first text encoder.
        seconds: Seconds of training so far.
        samples_per_second: Pictures per second since the last entry, all concepts and processes.
    """

    step: int
    loss: Mapping[str, float]
    eval_loss: Mapping[str, Sequence[tuple[int, float]]]
    lr: Mapping[str, float]
    row_norms: Mapping[str, Sequence[float]]
    seconds: float
    samples_per_second: float


@dataclass(frozen=True, slots=True)
class Run:
    """What a callback may look at.

    Attributes:
        config: The run's settings.
        folder: The output folder.
        tokens: Placeholder tokens, in the order of the concepts.
        total_steps: Optimizer steps of the whole run; becomes less when a concept stops early.
        progress: Where the run is.
        adapter: Calls the model; its text encoders hold the live rows while training.
        accelerator: Device, processes, trackers.
        learned: Makes a copy of the concepts as they are now.
    """

    config: TextualInversionConfig
    folder: RunFolder
    tokens: tuple[str, ...]
    total_steps: int
    progress: Progress
    adapter: FamilyAdapter
    accelerator: Accelerator
    learned: Callable[[], tuple[LearnedConcept, ...]]


class Callback:
    """Watches a run, on the main process only. Override what is needed; a callback must not touch random states."""

    def on_start(self, run: Run) -> None:
        """Called once, before the first step.

        Args:
            run: The run.
        """

    def on_step(self, run: Run) -> None:
        """Called after every step; ask the device for nothing here.

        Args:
            run: The run.
        """

    def on_log(self, run: Run, entry: LogEntry) -> None:
        """Called every ``logging_steps`` and after the last step.

        Args:
            run: The run.
            entry: What to log.
        """

    def on_end(self, run: Run) -> None:
        """Called once when training ends, however it ends.

        Args:
            run: The run.
        """


class ProgressBar(Callback):
    """Loss, speed and time left on the terminal."""

    def on_start(self, run: Run) -> None:
        """Open the bar; see the base class."""
        self._bar = tqdm(total=run.total_steps, initial=run.progress.step, desc="training", unit="step")

    def on_step(self, run: Run) -> None:
        """Move on; see the base class."""
        self._bar.total = run.total_steps
        self._bar.update(1)

    def on_log(self, run: Run, entry: LogEntry) -> None:
        """Show the mean loss; see the base class."""
        if entry.loss:
            self._bar.set_postfix(loss=f"{sum(entry.loss.values()) / len(entry.loss):.4f}", refresh=False)

    def on_end(self, run: Run) -> None:
        """Close the bar; see the base class."""
        self._bar.close()


class StepLogFile(Callback):
    """Appends every entry to ``steps.jsonl``; a resumed run goes on after the step it resumes from."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def on_start(self, run: Run) -> None:
        """Drop what was logged after the checkpoint, then open the file; see the base class."""
        path = run.folder.step_log
        trim_step_log(path, run.progress.step)
        self._file = path.open("a", encoding="utf-8")

    def on_log(self, run: Run, entry: LogEntry) -> None:
        """Write a line; see the base class."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            self._file = None  # What is still in its buffer would fail again when it closes.
            raise StorageError(
                f"cannot write {run.folder.step_log}: {error.strerror or error}. Free some space, then continue with"
                " --resume_from_checkpoint latest."
            ) from error

    def on_end(self, run: Run) -> None:
        """Close the file; see the base class."""
        if self._file is not None:
            self._file.close()


def trim_step_log(path: Path, step: int) -> None:
    """Drop what was logged after a step.

    Args:
        path: The step log; may be missing.
        step: The last step that is kept.

    Raises:
        StorageError: It cannot be written.
    """
    kept = [line for line in read_step_log(path) if line["step"] <= step]
    atomic_write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))


def read_step_log(path: Any) -> list[dict[str, Any]]:
    """Read ``steps.jsonl``; lines that a killed process left half-written are left out.

    Args:
        path: The file; may be missing.

    Returns:
        One dict per line, keys as in ``LogEntry``.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.append(entry)
    return entries
