"""Learning rates by age, against diffusers' schedulers."""

from __future__ import annotations

import pytest
import torch
from diffusers.optimization import get_scheduler

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.training.schedule import SCHEDULERS, RowSchedule, effective_learning_rate


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("warmup", [0, 3])
def test_values_are_those_of_diffusers(name: str, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-3)
    oracle = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=20, num_cycles=2)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()
    schedule = RowSchedule(name, 5e-3, 20, warmup, num_cycles=2)
    torch.testing.assert_close(schedule(torch.arange(20)), torch.tensor(expected))


def test_each_row_has_its_own_place_and_old_rows_keep_the_last_rate() -> None:
    schedule = RowSchedule("linear", 1.0, 4)
    assert schedule(torch.tensor([2, 0, 99])).tolist() == [0.5, 1.0, 0.25]


def test_mistakes() -> None:
    with pytest.raises(ConfigError, match=r"'step'.*cosine"):
        RowSchedule("step", 1.0, 4)
    with pytest.raises(ConfigError, match="at least 1"):
        RowSchedule("linear", 1.0, 0)


def test_scale_lr() -> None:
    numbers = {"batch_size": 4, "accumulation": 2, "world_size": 3}
    assert effective_learning_rate(5e-3, scale_lr=True, **numbers) == pytest.approx(0.12)
    assert effective_learning_rate(5e-3, scale_lr=False, **numbers) == 5e-3
