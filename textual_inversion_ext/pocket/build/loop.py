"""The one loop that trains CLIP, VAE and UNet: AdamW, warm-up and decay, averaged weights, resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: Optimiser steps; a later run may raise it and go on from the last checkpoint.
        learning_rate: Peak.
        weight_decay: AdamW's.
        averaging: Decay of the exponential moving average of the weights.
        decay_share: Last share of the steps, over which the learning rate falls to zero.
        save_every: Steps between checkpoints.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    averaging: float = 0.999
    decay_share: float = 0.25
    save_every: int = 250

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (0-based)."""
        warm = min(1.0, (step + 1) / 100)
        left = (self.steps - step) / max(1.0, self.steps * self.decay_share)
        return self.learning_rate * warm * min(1.0, left)


class Training:
    """A model in training, with its averaged copy and its checkpoint.

    Args:
        name: File stem of the checkpoint.
        model: The model; only parameters with `requires_grad` are trained.
        schedule: See `Schedule`.
        folder: Where the checkpoint and the log are kept.
    """

    def __init__(self, name: str, model: nn.Module, schedule: Schedule, folder: Path) -> None:
        self.name = name
        self.model = model
        self.schedule = schedule
        self.path = folder / f"{name}.safetensors"
        self.log_path = folder / f"{name}.jsonl"
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            betas=(0.9, 0.99),
            fused=next(model.parameters()).is_cuda,
        )
        self.step = 0
        self.seconds = 0.0
        if self.path.exists():
            self._load()

    def run(self, loss_of: Callable[[int], Tensor]) -> None:
        """Train to the schedule's end.

        Args:
            loss_of: Draws the batch of a step and returns its scalar loss; must depend on the step alone, so that a
                resumed run sees the same batches.
        """
        recent: Tensor | None = None
        bar = tqdm(range(self.step, self.schedule.steps), desc=self.name, initial=self.step, total=self.schedule.steps)
        for step in bar:
            start = time.perf_counter()
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.rate(step)
            loss = loss_of(step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
            self.optimizer.step()
            self._follow(step)
            self.step = step + 1
            self.seconds += time.perf_counter() - start
            # The mean stays on the device: reading it at every step would make a GPU wait for the host.
            recent = loss.detach() if recent is None else torch.lerp(recent, loss.detach(), 0.02)
            if self.step % 50 == 0:
                bar.set_postfix(loss=f"{recent.item():.4f}")
            if self.step % self.schedule.save_every == 0 or self.step == self.schedule.steps:
                self._save(recent.item())

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        # A young average would remember the random start, so its horizon grows with the run.
        decay = min(self.schedule.averaging, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], 1 - decay)

    @torch.no_grad()
    def use_average(self) -> nn.Module:
        """Put the averaged weights into the model and return it in evaluation mode."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.average[name])
        return self.model.eval()

    def _save(self, loss: float) -> None:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            tensors[f"model.{name}"] = parameter.detach().contiguous()
            tensors[f"average.{name}"] = self.average[name].contiguous()
            tensors[f"exp_avg.{name}"] = state["exp_avg"].contiguous()
            tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"].contiguous()
        partial = self.path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"step": str(self.step), "seconds": str(self.seconds)})
        partial.replace(self.path)
        with self.log_path.open("a") as log:
            log.write(json.dumps({"step": self.step, "loss": loss, "seconds": round(self.seconds, 1)}) + "\n")

    @torch.no_grad()
    def _load(self) -> None:
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
            self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
            for name, parameter in self.parameters.items():
                parameter.copy_(file.get_tensor(f"model.{name}"))
                self.average[name].copy_(file.get_tensor(f"average.{name}"))
                self.optimizer.state[parameter] = {
                    # Where the optimiser keeps it: on the device if it is fused, else on the host.
                    "step": torch.tensor(float(self.step), device=parameter.device if parameter.is_cuda else "cpu"),
                    # empty_like keeps the parameter's memory format, which the optimiser's kernels expect.
                    "exp_avg": torch.empty_like(parameter).copy_(file.get_tensor(f"exp_avg.{name}")),
                    "exp_avg_sq": torch.empty_like(parameter).copy_(file.get_tensor(f"exp_avg_sq.{name}")),
                }


def averaged(file: Path, part: str) -> dict[str, Tensor]:
    """Read the averaged weights out of a checkpoint, of a training that may still be going on.

    Args:
        file: A checkpoint of `Training`.
        part: Beginning of the names that are wanted, up to a dot.

    Returns:
        Name without that beginning -> weights, on the CPU.
    """
    beginning = f"average.{part}."
    with safe_open(file, "pt") as stored:
        names = [name for name in stored.keys() if name.startswith(beginning)]  # noqa: SIM118 - it is no mapping
        return {name.removeprefix(beginning): stored.get_tensor(name) for name in names}
