"""Optimizers given by name: against ours, against themselves on a single row, and through a checkpoint."""

from __future__ import annotations

import math
from typing import Any

import pytest
import safetensors.torch
import torch

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.optimizers import import_optimizer
from textual_inversion_ext.parametrizations import FreeRows, UpdateSettings

STEPS, N, DIM = 12, 3, 5


class Counting(torch.optim.SGD):
    """SGD with state of every kind: numbers in groups and in the state, nested containers, tensors of other types."""

    def __init__(self, params: Any, lr: float = 1.0) -> None:
        super().__init__(params, lr=lr)
        self.param_groups[0]["limits"] = (0.5, [1, None, "text", math.inf])

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for row in self.param_groups[0]["params"]:
            state = self.state[row]
            state["count"] = state.get("count", 0) + 1
            state["seen"] = {"signs": row.grad.sign().to(torch.int64)}
            self.param_groups[0]["strength"] = self.param_groups[0].get("strength", 1.0) * 0.9
            row.sub_(row.grad * self.param_groups[0]["lr"] * self.param_groups[0]["strength"] / state["count"])


class NeedsClosure(torch.optim.SGD):
    def step(self, closure: Any) -> None:  # type: ignore[override]
        closure()


class Secretive(torch.optim.SGD):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "secret": object()}


def here(kind: type) -> str:
    return f"{__name__}.{kind.__name__}"


def initial() -> torch.Tensor:
    return torch.randn(N, DIM, generator=torch.Generator().manual_seed(0))


def run(rows: FreeRows, steps: range) -> torch.Tensor:
    """Row 1 starts late, row 2 pauses, and what is not active has no finite gradient."""
    for step in steps:
        grad = torch.randn(N, DIM, generator=torch.Generator().manual_seed(step + 1))
        active = torch.tensor([True, step >= 5, step % 3 != 1])
        grad[~active] = float("nan")
        rows.update(grad, torch.tensor([1e-2, 5e-3 * (step + 1), 1e-1]), active)
    return rows()


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-4}])
def test_torch_adamw_by_name_is_ours(settings: dict[str, float]) -> None:
    ours = FreeRows(initial(), UpdateSettings(**settings))  # type: ignore[arg-type]
    named = FreeRows(initial(), UpdateSettings(optimizer="torch.optim.AdamW", **settings))  # type: ignore[arg-type]
    torch.testing.assert_close(run(named, range(STEPS)), run(ours, range(STEPS)), rtol=2e-6, atol=1e-7)
    assert torch.equal(named.age, ours.age)


@pytest.mark.parametrize("name", ["torch.optim.Adagrad", "torch.optim.SGD", "torch.optim.RMSprop", "torch.optim.NAdam"])
def test_a_row_does_not_notice_the_others(name: str) -> None:
    together = FreeRows(initial(), UpdateSettings(optimizer=name))
    alone = FreeRows(initial()[1:2], UpdateSettings(optimizer=name))
    for step in range(STEPS):
        grad = torch.randn(N, DIM, generator=torch.Generator().manual_seed(step + 1))
        together.update(grad, torch.full((N,), 1e-2), torch.tensor([True, step >= 5, True]))
        alone.update(grad[1:2], torch.full((1,), 1e-2), torch.tensor([step >= 5]))
    assert torch.equal(together()[1:2], alone()) and not torch.equal(together()[1], initial()[1])


@pytest.mark.parametrize(
    "name", ["torch.optim.AdamW", "torch.optim.Adagrad", "torch.optim.NAdam", "torch.optim.Rprop", here(Counting)]
)
def test_resumed_is_uninterrupted(name: str) -> None:
    settings = UpdateSettings(optimizer=name)
    whole = FreeRows(initial(), settings)
    run(whole, range(STEPS))
    first, second = FreeRows(initial(), settings), FreeRows(torch.zeros(N, DIM), settings)
    run(first, range(7))
    state = safetensors.torch.load(safetensors.torch.save(first.state_dict()))  # as a checkpoint does
    second.load_state_dict(state)
    assert torch.equal(run(second, range(7, STEPS)), whole())


@pytest.mark.parametrize(
    ("name", "before", "after", "groups"),
    [
        ("SGD", {"optimizer_args": '{"momentum": 0.9}'}, {"optimizer_args": '{"momentum": 0.1}'}, {"momentum": 0.1}),
        ("SGD", {"optimizer_args": '{"momentum": 0.9}'}, {}, {"momentum": 0}),
        ("AdamW", {}, {"weight_decay": 0.5}, {"weight_decay": 0.5}),
        ("AdamW", {"beta1": 0.5}, {}, {"betas": (0.9, 0.999)}),
    ],
)
def test_arguments_that_a_resumed_run_changes_are_its_own(
    name: str, before: dict[str, Any], after: dict[str, Any], groups: dict[str, Any]
) -> None:
    first = FreeRows(initial(), UpdateSettings(optimizer=f"torch.optim.{name}", **before))
    run(first, range(7))
    second = FreeRows(torch.zeros(N, DIM), UpdateSettings(optimizer=f"torch.optim.{name}", **after))
    second.load_state_dict(first.state_dict())
    for optimizer in first.optimizer._optimizers:  # type: ignore[union-attr]
        optimizer.param_groups[0].update(groups)
    assert torch.equal(run(second, range(7, STEPS)), run(first, range(7, STEPS)))


def test_an_argument_that_needs_state_from_the_first_step_on() -> None:
    first = FreeRows(initial(), UpdateSettings(optimizer="torch.optim.Adam"))
    run(first, range(7))
    second = FreeRows(initial(), UpdateSettings(optimizer="torch.optim.Adam", optimizer_args='{"amsgrad": true}'))
    second.load_state_dict(first.state_dict())
    with pytest.raises(ConfigError, match=r"torch.optim.Adam .*'max_exp_avg_sq'.*optimizer_args"):
        run(second, range(7, STEPS))


def test_further_arguments() -> None:
    plain = FreeRows(initial(), UpdateSettings(optimizer="torch.optim.SGD"))
    with_momentum = FreeRows(initial(), UpdateSettings(optimizer="torch.optim.SGD", optimizer_args='{"momentum": 0.9}'))
    assert not torch.equal(run(plain, range(4))[0], run(with_momentum, range(4))[0])
    grad, parameter = torch.ones(N, DIM), torch.nn.Parameter(initial())
    oracle = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    rows = FreeRows(initial(), UpdateSettings(optimizer="torch.optim.SGD", optimizer_args='{"momentum": 0.9}'))
    for _ in range(3):
        parameter.grad = grad.clone()
        oracle.step()
        rows.update(grad, torch.full((N,), 0.1), torch.ones(N, dtype=torch.bool))
    torch.testing.assert_close(rows(), parameter.detach())


def test_rows_decay_only_when_asked() -> None:
    rows = FreeRows(initial(), UpdateSettings(optimizer="torch.optim.AdamW"))  # torch's own default is 0.01
    rows.update(torch.zeros(N, DIM), torch.ones(N), torch.ones(N, dtype=torch.bool))
    assert torch.equal(rows(), initial())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "Adagrad"}, r"optimizer is 'Adagrad'; allowed: AdamW.*torch.optim.Adagrad"),
        ({"optimizer": "no_such_package.Prodigy"}, r"No module named 'no_such_package'.*Install"),
        ({"optimizer": "torch.optim.Prodigy"}, "torch.optim has no optimizer of this name"),
        ({"optimizer": "torch.nn.Linear"}, "torch.nn has no optimizer of this name"),
        ({"optimizer": "..SGD"}, "correct the name"),
        ({"optimizer": "torch.optim.LBFGS"}, "several times a step"),
        ({"optimizer": here(NeedsClosure)}, "several times a step"),
        ({"optimizer": "torch.optim.SGD", "beta1": 0.5}, "has no betas; leave adam_beta1 and adam_beta2"),
        ({"optimizer": "torch.optim.Rprop", "weight_decay": 0.1}, "has no weight_decay; leave adam_weight_decay"),
        ({"optimizer": "torch.optim.SGD", "optimizer_args": '{"moment": 1}'}, r"refuses.*moment"),
        ({"optimizer": "torch.optim.SGD", "optimizer_args": "momentum=1"}, "not JSON"),
        ({"optimizer": "torch.optim.SGD", "optimizer_args": "[1]"}, "must be a JSON object"),
        ({"optimizer": "torch.optim.SGD", "optimizer_args": '{"lr": 5}'}, "set with --learning_rate"),
        ({"optimizer_args": "{}" + " "}, "adam_ settings"),
    ],
)
def test_mistakes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FreeRows(initial(), UpdateSettings(**settings))


def test_state_that_no_checkpoint_can_hold() -> None:
    with pytest.raises(ConfigError, match="keeps a object"):
        FreeRows(initial(), UpdateSettings(optimizer=here(Secretive))).state_dict()


def test_state_can_be_taken_apart_by_rows() -> None:
    settings = UpdateSettings(optimizer=here(Counting))
    whole, part = FreeRows(initial(), settings), FreeRows(torch.zeros(2, DIM), settings)
    run(whole, range(6))
    state = whole.state_dict()
    assert all(len(tensor) == N for tensor in state.values())
    part.load_state_dict(
        {
            name: torch.nn.functional.pad(t, (0, 3))[[2, 0]] if t.dtype == torch.uint8 else t[[2, 0]]
            for name, t in state.items()
        }
    )
    grad = torch.ones(N, DIM)
    whole.update(grad, torch.full((N,), 0.1), torch.ones(N, dtype=torch.bool))
    part.update(grad[:2], torch.full((2,), 0.1), torch.ones(2, dtype=torch.bool))
    assert torch.equal(part(), whole()[[2, 0]])


def test_state_of_another_number_of_rows() -> None:
    settings = UpdateSettings(optimizer="torch.optim.SGD")
    two, three = FreeRows(initial()[:2], settings), FreeRows(initial(), settings)
    with pytest.raises(RuntimeError, match="for 2 rows, not 3"):
        three.optimizer.load_state_dict(two.optimizer.state_dict())


def test_import() -> None:
    assert import_optimizer("torch.optim.SGD") is torch.optim.SGD
