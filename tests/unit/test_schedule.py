"""Learning rates by age, against diffusers' schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.optimization import SchedulerType, get_scheduler

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.training.schedule import SCHEDULERS, RowSchedule, effective_learning_rate


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("warmup", [0, 3])
def test_values_are_those_of_diffusers(name: str, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-3)
    rules = "1:5,0.5:12,0.1"
    oracle = get_scheduler(
        name, optimizer, rules, num_warmup_steps=warmup, num_training_steps=20, num_cycles=2, power=2.0
    )
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()
    schedule = RowSchedule(name, 5e-3, 20, warmup, num_cycles=2, power=2.0, step_rules=rules)
    torch.testing.assert_close(schedule(torch.arange(20)), torch.tensor(expected))


def test_all_schedulers_of_diffusers_are_there() -> None:
    assert set(SCHEDULERS) == {kind.value for kind in SchedulerType}


def test_rules() -> None:
    rates = RowSchedule("piecewise_constant", 1.0, 6, step_rules="1:2,0.5:4,0.1")(torch.arange(6))
    torch.testing.assert_close(rates, torch.tensor([1, 1, 0.5, 0.5, 0.1, 0.1]))
    assert RowSchedule("piecewise_constant", 1.0, 2, step_rules="0.5")(torch.arange(2)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "rules", [None, "", "1:10", "1:10,0.1:5,0", "1:a,2", "1:0,2", "-1:3,2", "1:2:3,4", "inf", "1:5,2:5,3"]
)
def test_bad_rules(rules: str | None) -> None:
    with pytest.raises(ConfigError, match=r"lr_step_rules is .*1:200,0.1:400,0.01"):
        RowSchedule("piecewise_constant", 1.0, 4, step_rules=rules)


def test_each_row_has_its_own_place_and_old_rows_keep_the_last_rate() -> None:
    schedule = RowSchedule("linear", 1.0, 4)
    assert schedule(torch.tensor([2, 0, 99])).tolist() == [0.5, 1.0, 0.25]


def test_mistakes() -> None:
    with pytest.raises(ConfigError, match=r"'step'.*cosine"):
        RowSchedule("step", 1.0, 4)
    with pytest.raises(ConfigError, match="at least 1"):
        RowSchedule("linear", 1.0, 0)
    with pytest.raises(ConfigError, match="lr_end"):
        RowSchedule("polynomial", 1e-8, 4)


def test_scale_lr() -> None:
    numbers = {"batch_size": 4, "accumulation": 2, "world_size": 3}
    assert effective_learning_rate(5e-3, scale_lr=True, **numbers) == pytest.approx(0.12)
    assert effective_learning_rate(5e-3, scale_lr=False, **numbers) == 5e-3


@pytest.mark.parametrize(
    ("settings", "falls"),
    [({}, True), ({"stopping": "dvar"}, False), ({"stopping": "dvar", "lr_scheduler": "linear"}, True)],
)
def test_left_to_itself_the_rate_falls_unless_a_rule_watches_the_loss(settings: dict[str, Any], falls: bool) -> None:
    config = TextualInversionConfig(**settings)
    rates = RowSchedule.of(config, config.learning_rate, 10)(torch.arange(10))
    assert rates[0] == pytest.approx(config.learning_rate)
    assert (rates[-1] < 0.2 * rates[0]) == falls
