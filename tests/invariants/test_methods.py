"""Ways of computing the same thing give the same rows, whatever the method: rows x regularizers x loss x averaging."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from tests.ranks import ranks, together
from tests.tiny import TinyRun, tiny_images, tiny_pipeline, tiny_run
from tests.tiny_families import tiny_sdxl
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.embedding_table import mean_norm
from textual_inversion_ext.parametrizations import PARAMETRIZATIONS
from textual_inversion_ext.regularizers import REGULARIZERS

CORGI = ConceptSpec("<corgi>", tiny_images(3), "dog", num_vectors=2)
CLOCK = ConceptSpec("<clock>", tiny_images(5, seed=1), "clock", learnable_property="style")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

PENALTIES = {name: {f"{name}_weight": 0.1} for name in REGULARIZERS}
OTHERS: dict[str, dict[str, Any]] = {
    "min-snr": {"snr_gamma": 0.05},
    "uniform": {"timestep_sampling": "uniform"},
    "unbiased": {"timestep_bias": 0.0},
    "noise-offset": {"noise_offset": 0.1},
    "clipped": {"max_grad_norm": 1e-3},
    "averaged": {"ema_decay": 0.8},
}
EVERYTHING = {key: value for settings in (PENALTIES | OTHERS).values() for key, value in settings.items()}
CASES = {
    **{
        f"{rows}-{name}": {"parametrization": rows, **PENALTIES[name]}
        for rows, name in product(PARAMETRIZATIONS, PENALTIES)
    },
    **OTHERS,
    **{f"{rows}-everything": {"parametrization": rows, **EVERYTHING} for rows in PARAMETRIZATIONS},
    "adagrad-everything": {"optimizer": "torch.optim.Adagrad", **EVERYTHING},
}
FULL_CASES = {name: settings for name, settings in CASES.items() if name.endswith("everything")}
each_case = pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
each_full_case = pytest.mark.parametrize("settings", FULL_CASES.values(), ids=FULL_CASES)


def run_of(settings: dict[str, Any], specs: list[ConceptSpec] | None = None, **options: Any) -> TinyRun:
    return tiny_run(specs, config=TextualInversionConfig(**settings), **options)


def trained(settings: dict[str, Any], specs: list[ConceptSpec] | None = None, **options: Any) -> TinyRun:
    run = run_of(settings, specs, **options)
    run.steps(3)
    return run


def results(run: TinyRun) -> torch.Tensor:
    """Rows as they train, and as they would be saved."""
    return torch.cat([run.rows, *run.step.results().values()], dim=1)


@pytest.fixture(scope="module")
def plain_rows() -> torch.Tensor:
    return results(trained({}))


@each_case
def test_it_changes_the_rows(settings: dict[str, Any], plain_rows: torch.Tensor) -> None:
    assert not torch.allclose(results(trained(settings)), plain_rows, **CLOSE)


@each_case
def test_together_in_one_batch_is_alone_in_micro_batches(settings: dict[str, Any]) -> None:
    together = trained(settings, [CORGI, CLOCK], batch_size=4)
    corgi, clock = (trained(settings, [spec], batch_size=1, accumulation=4) for spec in (CORGI, CLOCK))
    torch.testing.assert_close(results(together), torch.cat([results(corgi), results(clock)]), **CLOSE)
    torch.testing.assert_close(together.logs[-1].loss, torch.cat([corgi.logs[-1].loss, clock.logs[-1].loss]))


@each_full_case
def test_resumed_is_uninterrupted(settings: dict[str, Any]) -> None:
    whole, first, second = trained(settings), run_of(settings), run_of(settings)
    first.steps(2)
    second.step.load_state_dict(first.step.state_dict())
    second.done = first.done
    second.steps(1)
    assert torch.equal(results(second), results(whole))


@each_full_case
def test_two_processes_are_one(settings: dict[str, Any]) -> None:
    whole = trained(settings, batch_size=2, accumulation=2)
    runs = ranks(lambda **rank: run_of(settings, batch_size=1, accumulation=2, **rank))
    together(runs, lambda run: run.steps(3))
    assert torch.equal(results(runs[0]), results(runs[1]))
    torch.testing.assert_close(results(runs[0]), results(whole), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_networks_train_float32_rows(dtype: torch.dtype) -> None:
    run = run_of({"parametrization": "directional", **EVERYTHING}, dtype=dtype)
    run.steps(3)
    assert run.logs[-1].finite.all() and results(run).dtype == torch.float32
    assert {value.dtype for value in run.step.state_dict().values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}], ids=["last", "averaged"])
def test_directional_rows_have_the_vocabularys_norm_from_start_to_file(settings: dict[str, Any]) -> None:
    run = run_of({"parametrization": "directional", **settings}, [CORGI, CLOCK])
    slot = run.adapter.slots[0]
    expected = mean_norm(slot.text_encoder, slot.first_id)
    for _ in range(4):
        for rows in (run.rows, run.step.exported()["clip_l"]):
            assert (rows.double().norm(dim=1) - expected).abs().max() < 1e-6
        run.steps(1, lr=0.1)


def test_penalties_know_words_of_pictures_and_vectors_that_join_later() -> None:
    """Everything at once beside words of single pictures (without a class word) and progressive vectors."""
    settings = {"per_image_tokens": True, "progressive_steps": "2", **EVERYTHING}
    run = run_of(settings, [CORGI, CLOCK])
    run.steps(3)
    assert run.logs[-1].finite.all() and results(run).isfinite().all()
    assert run.step.age.tolist()[:2] == [3, 1] and len(run.step.age) == 3 + 3 + 5
    alone = trained(settings, [CORGI])
    torch.testing.assert_close(results(run)[:5], results(alone), **CLOSE)


@pytest.mark.parametrize("rows", PARAMETRIZATIONS)
@pytest.mark.parametrize("encoders", ["all", "clip_g"])
def test_every_method_learns_in_each_encoder(rows: str, encoders: str) -> None:
    """Stable Diffusion XL, in both text encoders or in one of them."""
    run = tiny_run(
        [CORGI, CLOCK],
        pipeline=tiny_sdxl(),
        encoders=encoders,
        config=TextualInversionConfig(parametrization=rows, **EVERYTHING),
    )
    first = {key: tensor.clone() for key, tensor in run.step.rows().items()}
    run.steps(2)
    assert set(first) == ({"clip_l", "clip_g"} if encoders == "all" else {"clip_g"}) and run.logs[-1].finite.all()
    for slot in run.adapter.slots:
        last = run.step.rows()[slot.key]
        assert (last != first[slot.key]).any(1).all()
        if rows == "directional":
            norms = last.double().norm(dim=1)
            assert (norms - mean_norm(slot.text_encoder, slot.first_id)).abs().max() < 1e-6


def test_averages_and_penalties_may_be_switched_between_sessions() -> None:
    plain, switched = trained({}), run_of({"ema_decay": 0.9, "initial_l2_weight": 0.1})
    start = switched.rows
    switched.step.load_state_dict(plain.step.state_dict())
    assert torch.equal(switched.rows, plain.rows) and torch.equal(results(switched), results(plain))
    assert switched.step.penalties is not None
    assert torch.equal(switched.step.penalties.get_buffer("initial_clip_l"), start)
    switched.steps(1)
    plain.step.load_state_dict(switched.step.state_dict())
    assert torch.equal(plain.rows, switched.rows)
    state = plain.step.state_dict()
    state.pop("first_bad_step")
    with pytest.raises(RuntimeError, match="first_bad_step"):
        plain.step.load_state_dict(state)


def test_without_an_average_the_last_rows_are_saved() -> None:
    run = trained({})
    assert torch.equal(run.step.exported()["clip_l"], run.rows) and run.step.averages is None


def test_the_average_lies_behind_the_rows() -> None:
    run = run_of({"ema_decay": 0.5})
    run.steps(1)
    assert torch.equal(run.step.exported()["clip_l"], run.rows)
    first = run.rows
    run.steps(1)
    torch.testing.assert_close(run.step.exported()["clip_l"], run.rows + (first - run.rows) * 2 / 11)


def test_stratified_timesteps_fill_the_schedule_evenly() -> None:
    alike = {"timestep_bias": 0.0}
    (draws,) = run_of({"timestep_sampling": "stratified", **alike}, batch_size=10).draws.draw((0,), (3,))
    (uniform,) = run_of({"timestep_sampling": "uniform", **alike}, batch_size=10).draws.draw((0,), (3,))
    strata = (draws.u * 10).long()
    assert sorted(strata.tolist()) == list(range(10))
    torch.testing.assert_close(draws.u, (strata + uniform.u) / 10)
    assert torch.equal(draws.noise, uniform.noise) and torch.equal(draws.image, uniform.image)


def test_noisy_timesteps_are_drawn_as_often_as_asked() -> None:
    (alike,) = run_of({"timestep_bias": 0.0}, batch_size=1000).draws.draw((0,), (3,))
    for bias in (0.5, 2.0):
        source = run_of({"timestep_bias": bias}, batch_size=1000).draws
        (draws,) = source.draw((0,), (3,))
        torch.testing.assert_close(draws.u, alike.u ** (1 / (1 + bias)))
        share = (draws.u < 0.5).float().mean().item()  # the integral of the density up to one half
        assert share == pytest.approx(0.5 ** (1 + bias), abs=2e-3) and 0 <= draws.u.min() and draws.u.max() <= 1
        assert torch.equal(draws.noise, alike.noise) and torch.equal(draws.image, alike.image)
        # The evaluation batch asks the same of every run.
        assert torch.equal(source.fixed(0, 4).u, run_of({}).draws.fixed(0, 4).u)


def test_noise_offset_is_one_number_a_channel() -> None:
    (draws,) = run_of({"noise_offset": 0.3}, batch_size=64).draws.draw((0,), (3,))
    (plain,) = run_of({}, batch_size=64).draws.draw((0,), (3,))
    offset = draws.noise - plain.noise
    torch.testing.assert_close(offset, offset[..., :1, :1].expand_as(offset))
    assert 0.2 < offset[..., 0, 0].std() < 0.4 and torch.equal(draws.posterior_noise, plain.posterior_noise)


def test_gradients_are_clipped_row_by_row() -> None:
    """With SGD the step is the gradient: no row moves further than the limit, whatever the others do."""
    pipeline = tiny_pipeline()
    plain = run_of({"optimizer": "torch.optim.SGD"}, pipeline=pipeline)
    start = plain.rows
    plain.steps(1, lr=1.0)
    norms = (plain.rows - start).norm(dim=1)
    limit = norms.mean().item()
    clipped = run_of({"optimizer": "torch.optim.SGD", "max_grad_norm": limit}, pipeline=tiny_pipeline())
    clipped.steps(1, lr=1.0)
    torch.testing.assert_close((clipped.rows - start).norm(dim=1), norms.clamp(max=limit), rtol=1e-3, atol=1e-7)
    assert (norms > limit).any() and (norms < limit).any()


def test_defaults_do_nothing() -> None:
    plain = tiny_run().step
    assert plain.penalties is None and plain.averages is None and plain.max_grad_norm is None
    assert plain.adapter.objective.weights is None
