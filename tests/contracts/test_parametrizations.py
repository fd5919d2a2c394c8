"""What every parametrization promises."""

from __future__ import annotations

import pytest
import torch

from textual_inversion_ext.parametrizations import PARAMETRIZATIONS, Parametrization, UpdateSettings

N, DIM = 4, 6


@pytest.fixture(params=sorted(PARAMETRIZATIONS))
def kind(request: pytest.FixtureRequest) -> type[Parametrization]:
    return PARAMETRIZATIONS[request.param]


def initial() -> torch.Tensor:
    return torch.randn(N, DIM, generator=torch.Generator().manual_seed(0))


def grad(seed: int = 1) -> torch.Tensor:
    return torch.randn(N, DIM, generator=torch.Generator().manual_seed(seed))


def move(rows: Parametrization, steps: int = 1, active: list[bool] | None = None, seed: int = 1) -> None:
    on = torch.tensor([True] * N if active is None else active)
    for step in range(steps):
        rows.update(grad(seed + step), torch.full((N,), 1e-2), on)


def snapshot(rows: Parametrization) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in rows.state_dict().items()}


def test_name(kind: type[Parametrization]) -> None:
    assert PARAMETRIZATIONS[kind.name] is kind


def test_forward_and_export(kind: type[Parametrization]) -> None:
    rows = kind(initial())
    assert rows().shape == (N, DIM) and rows().dtype == torch.float32
    exported = rows.export()
    assert torch.equal(exported, rows())
    move(rows)
    assert not torch.equal(exported, rows())


def test_rows_start_as_a_copy_in_float32(kind: type[Parametrization]) -> None:
    start = initial().to(torch.bfloat16)
    rows = kind(start)
    first = rows().clone()
    start.zero_()
    assert torch.equal(rows(), first) and first.dtype == torch.float32


def test_rows_move_against_the_gradient(kind: type[Parametrization]) -> None:
    rows = kind(initial())
    before = rows().clone()
    move(rows)
    assert ((rows() - before) * grad()).sum() < 0


def test_inactive_rows_keep_every_bit_even_beside_nan(kind: type[Parametrization]) -> None:
    rows = kind(initial(), UpdateSettings(weight_decay=0.1))
    move(rows, 3)
    before = snapshot(rows)
    broken = grad()
    broken[1] = float("nan")
    rows.update(broken, torch.full((N,), 1e-2), torch.tensor([True, False, True, False]))
    after = rows.state_dict()
    for key, value in before.items():
        assert torch.equal(after[key][[1, 3]], value[[1, 3]]), key
    assert rows().isfinite().all() and not torch.equal(rows()[0], before_rows(kind, before)[0])


def before_rows(kind: type[Parametrization], state: dict[str, torch.Tensor]) -> torch.Tensor:
    rows = kind(initial())
    rows.load_state_dict(state)
    return rows()


def test_rows_are_independent(kind: type[Parametrization]) -> None:
    together = kind(initial())
    move(together, 3, [True, False, True, True])
    alone = kind(initial()[2:3])
    for step in range(3):
        alone.update(grad(1 + step)[2:3], torch.full((1,), 1e-2), torch.tensor([True]))
    assert torch.equal(together()[2:3], alone())


def test_clocks_count_updates(kind: type[Parametrization]) -> None:
    rows = kind(initial())
    move(rows, 2)
    move(rows, 3, [True, False, False, True])
    assert rows.age.tolist() == [5, 2, 2, 5]


def test_the_state_dict_is_the_whole_state(kind: type[Parametrization]) -> None:
    whole = kind(initial())
    move(whole, 5)
    first, second = kind(initial()), kind(torch.zeros(N, DIM))
    move(first, 3)
    second.load_state_dict(first.state_dict())
    move(second, 2, seed=4)
    assert torch.equal(second(), whole())
    assert {value.dtype for value in whole.state_dict().values()} <= {torch.float32, torch.int64}


def test_rows_are_nearest_to_themselves(kind: type[Parametrization]) -> None:
    rows = kind(initial())
    move(rows, 3)
    torch.testing.assert_close(rows.nearest(rows()), rows())
    torch.testing.assert_close(rows.nearest(rows.nearest(grad())), rows.nearest(grad()))
    assert rows.nearest(grad()).shape == (N, DIM)


def test_citation(kind: type[Parametrization]) -> None:
    assert kind.citation.startswith("@") and "title" in kind.citation
