"""What every regularizer promises."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch

from tests.tiny import TinyRun, tiny_images, tiny_run
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.regularizers import REGULARIZERS, Regularizer

CORGI = ConceptSpec("<corgi>", tiny_images(3), "dog", num_vectors=2)
CLOCK = ConceptSpec("<clock>", tiny_images(3, seed=1), "clock", learnable_property="style")
SPECS = (CORGI, CLOCK)


@pytest.fixture(params=sorted(REGULARIZERS))
def kind(request: pytest.FixtureRequest) -> type[Regularizer]:
    return REGULARIZERS[request.param]


def fresh(kind: type[Regularizer], specs: tuple[ConceptSpec, ...], weight: float = 1.0) -> TinyRun:
    return tiny_run(list(specs), config=TextualInversionConfig.from_dict({f"{kind.name}_weight": weight}))


penalized = cache(fresh)
"""Runs that are not trained serve all tests."""


def moved(run: TinyRun, scale: float = 0.5) -> dict[str, torch.Tensor]:
    """Rows that are not where they started; a row's change depends on its place alone."""
    generator = torch.Generator().manual_seed(0)
    rows = {key: rows + scale * torch.randn(rows.shape, generator=generator) for key, rows in run.step.rows().items()}
    return {key: rows.requires_grad_(True) for key, rows in rows.items()}


def penalty(
    run: TinyRun, rows: dict[str, torch.Tensor], concepts: tuple[int, ...], clock: tuple[int, ...] | None = None
) -> torch.Tensor:
    assert run.step.penalties is not None
    with run.adapter.attached():
        return run.step.penalties(rows, torch.tensor(concepts), torch.tensor(clock or [0] * len(run.specs)))


def test_name_and_citation(kind: type[Regularizer]) -> None:
    assert REGULARIZERS[kind.name] is kind
    assert kind.citation.startswith("@") and "Source:" in (kind.__doc__ or "")


def test_its_weight_is_a_setting_that_is_0_by_default(kind: type[Regularizer]) -> None:
    (field,) = (f for f in dataclasses.fields(TextualInversionConfig) if f.name == f"{kind.name}_weight")
    assert field.default == 0.0
    with pytest.raises(ConfigError, match="at least 0"):
        TextualInversionConfig.from_dict({field.name: -1.0})


def test_one_penalty_for_each_concept(kind: type[Regularizer]) -> None:
    run = penalized(kind, SPECS)
    result = penalty(run, moved(run), (0, 1))
    assert result.shape == (2,) and result.dtype == torch.float32
    assert (result > 0).all() and result.isfinite().all()


def test_gradients_reach_the_rows_and_nothing_else(kind: type[Regularizer]) -> None:
    run = penalized(kind, SPECS)
    rows = moved(run)
    penalty(run, rows, (0, 1)).sum().backward()
    for tensor in rows.values():
        assert tensor.grad is not None and tensor.grad.isfinite().all() and (tensor.grad != 0).any(1).all()
    assert all(p.grad is None for net in run.adapter.networks() for p in net.parameters())


def test_an_absent_concept_costs_nothing_and_feels_nothing(kind: type[Regularizer]) -> None:
    run = penalized(kind, SPECS)
    rows = moved(run)
    result = penalty(run, rows, (1,))
    result.sum().backward()
    assert result[0] == 0 and result[1] > 0
    for tensor in rows.values():
        assert tensor.grad is not None
        assert (tensor.grad[:2] == 0).all() and (tensor.grad[2] != 0).any()


def test_a_row_of_an_absent_concept_may_be_broken(kind: type[Regularizer]) -> None:
    run = penalized(kind, SPECS)
    rows = {key: tensor.detach().clone() for key, tensor in moved(run).items()}
    for tensor in rows.values():
        tensor[0] = float("nan")
        tensor.requires_grad_(True)
    result = penalty(run, rows, (1,))
    result.sum().backward()
    assert result.isfinite().all()
    assert all(tensor.grad is not None and tensor.grad[2].isfinite().all() for tensor in rows.values())


def test_together_is_alone(kind: type[Regularizer]) -> None:
    run, corgi, clock = penalized(kind, SPECS), penalized(kind, (CORGI,)), penalized(kind, (CLOCK,))
    rows = {key: tensor.detach() for key, tensor in moved(run).items()}
    together = penalty(run, rows, (0, 1), (3, 5))
    first = penalty(corgi, {key: tensor[:2] for key, tensor in rows.items()}, (0,), (3,))
    second = penalty(clock, {key: tensor[2:] for key, tensor in rows.items()}, (0,), (5,))
    torch.testing.assert_close(together, torch.cat([first, second]))


def test_weights_multiply(kind: type[Regularizer]) -> None:
    once, twice = penalized(kind, SPECS), penalized(kind, SPECS, 2.0)
    torch.testing.assert_close(2 * penalty(once, moved(once), (0, 1)), penalty(twice, moved(twice), (0, 1)))


def test_following_the_gradient_makes_it_smaller(kind: type[Regularizer]) -> None:
    run = penalized(kind, SPECS)
    rows = moved(run)
    first = penalty(run, rows, (0, 1))
    first.sum().backward()
    for tensor in rows.values():
        assert tensor.grad is not None
        with torch.no_grad():
            tensor -= 1e-2 * tensor.grad / tensor.grad.norm(dim=1, keepdim=True)
    assert (penalty(run, rows, (0, 1)) < first).all()


def test_it_pulls_the_rows_of_a_run(kind: type[Regularizer]) -> None:
    """Trained with a strong weight, the penalty ends lower than without."""
    free, pulled = tiny_run(list(SPECS)), fresh(kind, SPECS, 1e4)
    for run in (free, pulled):
        run.steps(6, lr=0.05)
    judge = penalized(kind, SPECS)
    assert (penalty(judge, pulled.step.rows(), (0, 1)) < penalty(judge, free.step.rows(), (0, 1))).all()


def test_weight_0_is_absent_bit_for_bit(kind: type[Regularizer]) -> None:
    absent, zero = tiny_run([CORGI]), fresh(kind, (CORGI,), 0.0)
    assert zero.step.penalties is None and list(zero.step.state_dict()) == list(absent.step.state_dict())
    absent.steps(3)
    zero.steps(3)
    assert torch.equal(absent.rows, zero.rows)
