"""Stopping rules on losses made up for the purpose, against their sources written out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.training.stopping import STOPPING_RULES, StoppingRule, mention_traps, stopping_rule


def falling(seed: int, noise: float, length: int = 400, half_life: float = 30) -> list[float]:
    """A loss that falls and levels off, with noise."""
    random = np.random.default_rng(seed)
    curve = 0.1 + 0.1 * 0.5 ** (np.arange(length) / half_life)
    return (curve + noise * random.standard_normal(length)).tolist()


def rule(name: str, **settings: Any) -> StoppingRule:
    return stopping_rule(TextualInversionConfig(stopping=name, **{"eval_steps": 1, **settings}))


def first_stop(judge: Callable[[Sequence[float]], object], losses: Sequence[float]) -> int | None:
    """After how many losses a rule stops that is asked after each."""
    return next((count for count in range(1, len(losses) + 1) if judge(losses[:count])), None)


class ReleasedVarEarlyStopper:
    """`VarEarlyStopper` of DVAR's released code, with its names."""

    def __init__(self, window_size: int, eps: float) -> None:
        self.hist: list[float] = []
        self.window_size, self.eps = window_size, eps

    def __call__(self, loss: float) -> bool:
        self.hist.append(loss)
        if len(self.hist) < self.window_size:
            return False
        history = torch.tensor(self.hist, dtype=torch.float64)
        window = history[-self.window_size :]
        return bool(window.var(unbiased=False) / history.var(unbiased=False) < self.eps)


@pytest.mark.parametrize("name", STOPPING_RULES)
def test_every_rule_keeps_the_contract(name: str) -> None:
    kind = STOPPING_RULES[name]
    judge = rule(name, dvar_window=20, dvar_threshold=0.5, plateau_patience=20, plateau_threshold=0.01)
    assert kind.name == name and type(judge) is kind
    losses = falling(0, 0.002)
    before = losses.copy()
    stop = first_stop(judge.verdict, losses)
    assert losses == before and judge.verdict([]) is None
    assert stop == first_stop(judge.verdict, losses), "a rule has no state"
    assert (stop is None) == (judge.patience == 0)
    assert stop is None or stop > judge.patience
    words = None if stop is None else judge.verdict(losses[:stop])
    assert words is None or (words and words[0].islower() and not words.endswith("."))
    assert judge.verdict([math.nan] * 10) is None


@pytest.mark.parametrize("window", [5, 20, 60])
@pytest.mark.parametrize("threshold", [0.05, 0.15, 0.6])
@pytest.mark.parametrize("noise", [0.0005, 0.01])
def test_dvar_stops_where_the_released_code_does(window: int, threshold: float, noise: float) -> None:
    judge = rule("dvar", dvar_window=window, dvar_threshold=threshold)
    stops = set()
    for seed in range(3):
        losses = falling(seed, noise)
        released = ReleasedVarEarlyStopper(window, threshold)
        expected = next((number for number, loss in enumerate(losses, start=1) if released(loss)), None)
        assert first_stop(judge.verdict, losses) == expected
        stops.add(expected)
    assert noise > 0.001 or stops != {None}, "a comparison in which nothing ever stops says nothing"


def test_dvar_has_the_paper_s_settings_and_scales_its_window_with_the_interval() -> None:
    losses = falling(0, 0.001, length=1500, half_life=100)
    assert (TextualInversionConfig.dvar_window, TextualInversionConfig.dvar_threshold) == (310, 0.15)
    for interval in (1, 5, 10):
        released = ReleasedVarEarlyStopper(310 // interval, 0.15)
        seen = losses[interval - 1 :: interval]
        expected = next(number for number, loss in enumerate(seen, start=1) if released(loss))
        assert first_stop(rule("dvar", eval_steps=interval).verdict, seen) == expected
        assert 310 < expected * interval < 1500


def test_dvar_goes_on_where_there_is_no_ratio() -> None:
    judge = rule("dvar", dvar_window=3, dvar_threshold=1.0)
    assert judge.verdict([0.5] * 9) is None
    assert judge.verdict([0.5, math.nan, 0.4, 0.4, 0.4]) is None
    assert judge.verdict([0.5, 0.4, 0.4, 0.4]) == "variance ratio 0.000 is below 1"


def test_dvar_needs_two_losses_in_its_window() -> None:
    with pytest.raises(ConfigError, match="give at least 400"):
        rule("dvar", eval_steps=200, dvar_window=290)
    assert rule("dvar", eval_steps=200, dvar_window=400).patience == 400


@pytest.mark.parametrize("patience", [1, 7, 40])
@pytest.mark.parametrize("threshold", [0.0, 0.005, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_plateau_stops_where_torch_lowers_the_learning_rate(patience: int, threshold: float, seed: int) -> None:
    losses = falling(seed, 0.003)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    # torch waits until there are more bad losses than its patience.
    scheduler = ReduceLROnPlateau(optimizer, patience=patience - 1, threshold=threshold, threshold_mode="rel")
    expected = None
    for number, loss in enumerate(losses, start=1):
        scheduler.step(loss)
        if optimizer.param_groups[0]["lr"] < 1.0:
            expected = number
            break
    assert expected is not None
    judge = rule("plateau", plateau_patience=patience, plateau_threshold=threshold)
    assert first_stop(judge.verdict, losses) == expected


def test_plateau_counts_its_patience_in_steps() -> None:
    losses = [0.5, 0.4, *[0.4] * 20]
    assert first_stop(rule("plateau", eval_steps=10, plateau_patience=50).verdict, losses) == 7
    assert first_stop(rule("plateau", eval_steps=1, plateau_patience=5).verdict, losses) == 7
    assert first_stop(rule("plateau", eval_steps=100, plateau_patience=5).verdict, losses) == 3
    assert rule("plateau", plateau_patience=5).verdict([0.5, *[math.nan] * 5]) is not None


def test_a_rule_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="stopping is 'soon'; allowed: none, dvar, plateau"):
        rule("soon")


@pytest.mark.parametrize("settings", [{"stopping": "dvar"}, {"stopping": "plateau"}, {"keep": "best"}])
def test_what_needs_evaluations_says_so(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(settings.values()))} needs evaluations"):
        TextualInversionConfig(eval_steps=0, **settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"stopping": "dvar"}, None),
        ({"stopping": "none", "lr_scheduler": "cosine"}, None),
        ({"stopping": "dvar", "lr_scheduler": "constant_with_warmup"}, None),
        ({"stopping": "dvar", "lr_scheduler": "cosine"}, "flattens the evaluation loss"),
        ({"stopping": "plateau", "lr_scheduler": "linear"}, "flattens the evaluation loss"),
        ({"stopping": "dvar", "dvar_window": 500}, "never stops before step 500"),
        ({"stopping": "plateau", "plateau_patience": 600}, "never stops before step 600"),
    ],
)
def test_combinations_that_mislead_are_mentioned(
    settings: dict[str, Any], expected: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    config = TextualInversionConfig(**settings)
    with caplog.at_level(logging.WARNING, "textual_inversion_ext"):
        mention_traps(stopping_rule(config), config, [500, 300])
    assert (expected in caplog.text) if expected else not caplog.text
