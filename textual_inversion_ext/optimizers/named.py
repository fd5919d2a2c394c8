"""Any PyTorch optimizer, given by the full name of its class."""

from __future__ import annotations

import importlib
import inspect
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.optimizers.packing import pack, unpack

if TYPE_CHECKING:
    from textual_inversion_ext.parametrizations.base import UpdateSettings

BUILT_IN = "AdamW"
"""The name of the optimizer that is not looked up."""


class NamedOptimizer(nn.Module):
    """Any PyTorch optimizer, one instance for each row.

    An instance that knows one row only is what gives every row its own clock and keeps concepts apart: optimizers that
    look at all of their parameters at once (Prodigy's step size) would mix them. The price is a loop in Python and one
    host synchronisation a step. ``state_dict()`` holds each instance's state as a row of bytes, so that a checkpoint
    can be taken apart by rows.

    Args:
        shape: (N, dim) of the rows.
        settings: hyper-parameters; ``optimizer`` is the full name of the class.
        device: where the rows are.

    Raises:
        ConfigError: there is no such class, or it does not take the settings.
    """

    def __init__(self, shape: torch.Size, settings: UpdateSettings, device: torch.device) -> None:
        super().__init__()
        kind = import_optimizer(settings.optimizer)
        self._name, self._arguments = settings.optimizer, _arguments(kind, settings)
        self._rows = [nn.Parameter(torch.zeros(shape[1], device=device)) for _ in range(shape[0])]
        try:
            self._optimizers = [kind([row], **self._arguments) for row in self._rows]
        except Exception as error:  # Somebody else wrote it.
            raise ConfigError(
                f"optimizer {self._name} refuses {self._arguments}: {type(error).__name__}: {error}. Correct"
                " optimizer_args and the adam_ settings, or choose another optimizer."
            ) from error

    @torch.no_grad()
    def update(self, rows: Tensor, grad: Tensor, lr: Tensor, active: Tensor, age: Tensor) -> None:  # noqa: ARG002
        """Move the active rows in place; the others keep every bit.

        Args:
            rows: (N, dim) float32.
            grad: (N, dim) float32; may be non-finite where not active.
            lr: (N,) float32.
            active: (N,) bool.
            age: (N,) int64; not used, every instance counts for itself.

        Raises:
            ConfigError: a resumed run has an argument for which the checkpoint's run has kept no state.
        """
        for place, (takes_part, rate) in enumerate(zip(active.tolist(), lr.tolist(), strict=True)):
            if not takes_part:
                continue
            row, optimizer = self._rows[place], self._optimizers[place]
            row.data.copy_(rows[place])
            row.grad = grad[place].clone()
            for group in optimizer.param_groups:
                group["lr"] = rate
            try:
                optimizer.step()
            except KeyError as error:
                raise ConfigError(
                    f"optimizer {self._name} with the arguments {self._arguments} misses {error} in its state. Resume"
                    " with the optimizer_args of the checkpoint, or choose another optimizer."
                ) from error
            rows[place] = row.detach()

    def get_extra_state(self) -> Tensor:
        """State of all instances, for ``state_dict()``.

        Returns:
            (N, bytes) uint8 on the CPU; shorter ones end in zeros.
        """
        states = [{**optimizer.state_dict(), "arguments": self._arguments} for optimizer in self._optimizers]
        return pad_sequence([pack(state) for state in states], batch_first=True)

    def set_extra_state(self, state: Tensor) -> None:
        """Take back what ``get_extra_state`` gave; arguments that differ from those of that run are this run's.

        Args:
            state: (N, bytes) uint8.

        Raises:
            RuntimeError: it is the state of another number of rows.
        """
        if len(state) != len(self._optimizers):
            raise RuntimeError(f"the optimizer's state is for {len(state)} rows, not {len(self._optimizers)}")
        now = self._arguments
        for optimizer, packed in zip(self._optimizers, state, strict=True):
            saved = unpack(packed)
            before = saved.pop("arguments", {})
            changed = {name for name in {**before, **now} if before.get(name) != now.get(name)}
            # Only these: some optimizers keep what they find out among their settings (Prodigy's step size).
            own = [{name: group[name] for name in changed & group.keys()} for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, values in zip(optimizer.param_groups, own, strict=True):
                group.update(values)


def import_optimizer(name: str) -> type[torch.optim.Optimizer]:
    """Find an optimizer's class.

    Args:
        name: its full name, such as ``torch.optim.Adagrad`` or ``prodigyopt.Prodigy``.

    Returns:
        The class.

    Raises:
        ConfigError: it cannot be imported, is no optimizer, or wants to evaluate the loss itself.
    """
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ConfigError(f"optimizer is {name!r}; allowed: {BUILT_IN}, or a full name such as torch.optim.{name}.")
    try:
        kind = getattr(importlib.import_module(module), attribute, None)
    except (ImportError, TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer {name}: {error}. Install the package that holds it, or correct the name."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise ConfigError(f"optimizer {name}: {module} has no optimizer of this name; correct the name.")
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(f"optimizer {name} evaluates the loss several times a step; choose one that does not.")
    return kind


def _arguments(kind: type[torch.optim.Optimizer], settings: UpdateSettings) -> dict[str, Any]:
    """Constructor arguments: what the user set, and no weight decay unless the user asked for it.

    Args:
        kind: the optimizer's class.
        settings: hyper-parameters.

    Returns:
        Keyword arguments. The learning rate is set at every step.

    Raises:
        ConfigError: a setting was changed that the optimizer does not have.
    """
    known = inspect.signature(kind).parameters
    plain = type(settings)()
    betas, first_betas = (settings.beta1, settings.beta2), (plain.beta1, plain.beta2)
    wanted = {
        "betas": (betas, betas != first_betas, "adam_beta1 and adam_beta2"),
        "eps": (settings.epsilon, settings.epsilon != plain.epsilon, "adam_epsilon"),
        "weight_decay": (settings.weight_decay, settings.weight_decay > 0, "adam_weight_decay"),
    }
    arguments: dict[str, Any] = {"lr": 1e-3} if "lr" in known else {}
    for name, (value, changed, flag) in wanted.items():
        if changed and name not in known:
            raise ConfigError(f"optimizer {settings.optimizer} has no {name}; leave {flag} at the default.")
        if changed or (name == "weight_decay" and name in known):
            arguments[name] = value
    return {**arguments, **_further(settings.optimizer_args)}


def _further(text: str | None) -> dict[str, Any]:
    """Read ``optimizer_args``.

    Args:
        text: a JSON object or None.

    Returns:
        Its entries.

    Raises:
        ConfigError: it is no JSON object, or holds the learning rate.
    """
    try:
        values = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise ConfigError(f"optimizer_args is {text!r}, which is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f'optimizer_args is {text!r}; it must be a JSON object such as {{"momentum": 0.9}}.')
    if "lr" in values:
        raise ConfigError(f"optimizer_args is {text!r}; the learning rate is set with --learning_rate, not as lr.")
    return values
