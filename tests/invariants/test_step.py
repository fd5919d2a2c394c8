"""Ways of computing the same thing that must give the same rows."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.ranks import ranks, together
from tests.runs import save_images
from tests.tiny import TinyRun, tiny_images, tiny_pipeline, tiny_run
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.config import TextualInversionConfig
from textual_inversion_ext.data.pictures.transforms import to_tensor
from textual_inversion_ext.data.sources.collect import collect_samples
from textual_inversion_ext.families import adapter_for
from textual_inversion_ext.parametrizations import UpdateSettings

CORGI = ConceptSpec("<corgi>", tiny_images(3), "dog", num_vectors=2)
CLOCK = ConceptSpec("<clock>", tiny_images(5, seed=1), "clock", learnable_property="style")
# Adam divides a gradient by its own size, so rounding differences of tiny gradients show in the fifth digit of a row.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def trained(steps: int = 4, **settings: object) -> TinyRun:
    run = tiny_run(**settings)  # type: ignore[arg-type]
    run.steps(steps)
    return run


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_rows_move(prediction_type: str) -> None:
    run = tiny_run(pipeline=tiny_pipeline(prediction_type))
    before = run.rows
    run.steps(3)
    assert (run.rows != before).all() and run.step.age.tolist() == [3, 3]
    assert all(log.finite.all() for log in run.logs) and run.step.first_bad_step.tolist() == [-1]


def test_same_seed_same_bits() -> None:
    assert torch.equal(trained().rows, trained().rows)


def test_one_batch_of_4_is_4_accumulated_batches_of_1() -> None:
    whole, parts = trained(batch_size=4), trained(batch_size=1, accumulation=4)
    torch.testing.assert_close(whole.rows, parts.rows, **CLOSE)
    torch.testing.assert_close(whole.logs[-1].loss, parts.logs[-1].loss)


def test_a_caption_that_names_another_concept_teaches_that_one_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    captions = {"a": "a photo of <a> beside <B>", "b": "a photo of <b>"}
    for name, caption in captions.items():
        for file in save_images(tmp_path / name, seed=ord(name)).glob("*.png"):
            file.with_suffix(".txt").write_text(caption)
    specs = [ConceptSpec(f"<{name}>", tmp_path / name, "dog") for name in captions]
    config = TextualInversionConfig(captions="captions")
    both, alone = tiny_run(specs, config=config), tiny_run(specs[1:], config=config)
    for run in (both, alone):
        run.steps(4)
    torch.testing.assert_close(both.rows[1:], alone.rows, **CLOSE)
    assert "<a>: its captions name <B>" in caplog.text


def test_two_concepts_together_are_each_alone() -> None:
    together = trained(specs=[CORGI, CLOCK])
    corgi, clock = trained(specs=[CORGI]), trained(specs=[CLOCK])
    torch.testing.assert_close(together.rows, torch.cat([corgi.rows, clock.rows]), **CLOSE)
    torch.testing.assert_close(together.logs[-1].loss, torch.cat([corgi.logs[-1].loss, clock.logs[-1].loss]))


def test_two_processes_are_one() -> None:
    whole = trained(batch_size=2, accumulation=2)
    runs = ranks(lambda **rank: tiny_run(batch_size=1, accumulation=2, **rank))
    together(runs, lambda run: run.steps(4))
    assert torch.equal(runs[0].rows, runs[1].rows)
    torch.testing.assert_close(runs[0].rows, whole.rows, **CLOSE)
    torch.testing.assert_close(runs[0].logs[-1].loss, whole.logs[-1].loss)


def test_resumed_is_uninterrupted() -> None:
    whole = trained(steps=6)
    first = trained(steps=3)
    second = tiny_run()
    second.step.load_state_dict(first.step.state_dict())
    second.done = first.done
    second.steps(3)
    assert torch.equal(second.rows, whole.rows)


def test_cached_latents_are_fresh_ones() -> None:
    run = tiny_run([CORGI], config=TextualInversionConfig(flip_p=0.5), batch_size=8)
    (draws,) = run.draws.draw((0,), (0,))
    vae = run.adapter.pipeline.vae
    fresh = []
    for image, noise in zip(draws.image.tolist(), draws.posterior_noise, strict=True):
        sample = collect_samples(CORGI)[0][image % 3]
        pixels = to_tensor(sample.open(), 16)[None]
        posterior = vae.encode(pixels.flip(-1) if image >= 3 else pixels).latent_dist
        fresh.append((posterior.mean + posterior.std * noise) * vae.config.scaling_factor)
    torch.testing.assert_close(run.resident.gather(draws).latents, torch.cat(fresh).detach())


def test_frozen_networks_keep_every_bit() -> None:
    pipeline = tiny_pipeline()
    networks = {name: getattr(pipeline, name) for name in ("unet", "text_encoder", "vae")}
    before = {name: {key: value.clone() for key, value in net.state_dict().items()} for name, net in networks.items()}
    trained(pipeline=pipeline)
    for name, network in networks.items():
        after = network.state_dict()
        assert list(after) == list(before[name])
        assert all(torch.equal(after[key], value) for key, value in before[name].items())
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_frozen_row_keeps_every_bit_and_the_others_do_not_notice(weight_decay: float) -> None:
    settings = UpdateSettings(weight_decay=weight_decay)
    run = tiny_run([CORGI, CLOCK], settings=settings)
    run.steps(2)
    before = {key: value.clone() for key, value in run.step.state_dict().items() if "clip_l" in key}
    run.steps(2, frozen=[0])
    after = run.step.state_dict()
    assert all(torch.equal(after[key][0], value[0]) for key, value in before.items())
    assert run.step.age.tolist() == [2, 4, 4]
    run.steps(1, concepts=(1,))
    assert run.step.age.tolist() == [2, 4, 5]


def test_weight_decay_touches_rows_only_when_asked() -> None:
    plain, decayed = tiny_run(), tiny_run(settings=UpdateSettings(weight_decay=1.0))
    start = plain.rows
    plain.steps(1, lr=0.1)
    decayed.steps(1, lr=0.1)
    torch.testing.assert_close(plain.rows - decayed.rows, 0.1 * start)


def test_a_bad_picture_stops_only_its_own_concept() -> None:
    run = tiny_run([CORGI, CLOCK])
    run.steps(2)
    run.resident.buckets[0].latents.moments[3] = float("nan")  # first picture of the second concept
    run.steps(5)
    alone = tiny_run([CORGI])
    alone.steps(7)
    torch.testing.assert_close(run.rows[:2], alone.rows, **CLOSE)
    assert run.rows.isfinite().all()
    losses = torch.stack([log.loss for log in run.logs])
    finite = torch.stack([log.finite for log in run.logs])
    assert finite[:, 0].all() and torch.equal(finite[:, 1], losses[:, 1].isfinite()) and not finite[:, 1].all()
    first = 3 + int((~finite[:, 1]).nonzero()[0])
    assert run.step.first_bad_step.tolist() == [-1, first] and run.step.diverged() == {1: first}
    assert run.step.age.tolist() == [7, 7, first - 1] and finite[first - 3 :, 1].any(), "it never moves again"


@pytest.mark.parametrize("parametrization", ["free", "directional"])
def test_rows_beyond_float32_stay_where_they_were(parametrization: str) -> None:
    """A finite gradient and an absurd learning rate of one concept: all of its rows and ages keep every bit."""
    config = TextualInversionConfig(parametrization=parametrization, ema_decay=0.9)
    run, calm = tiny_run([CORGI, CLOCK], config=config), tiny_run([CORGI, CLOCK], config=config)
    run.steps(1)
    calm.steps(1)
    before = {name: value.clone() for name, value in run.step.state_dict().items() if "clip_l" in name}
    lr = torch.tensor([math.nan, 1e-2, 1e-2])  # of one row of the first concept
    (draws,), everything = run.draws.draw((0, 1), [1, 1]), torch.ones(3, dtype=torch.bool)
    with run.adapter.attached():
        assert run.step([draws], lr, everything, 2).finite.all()
    calm.steps(1)
    assert run.step.diverged() == {0: 2} and run.rows.isfinite().all()
    after, expected = run.step.state_dict(), calm.step.state_dict()
    for name, value in before.items():
        if "optimizer" not in name:
            assert after[name][:2].equal(value[:2]), name
        assert after[name][2].equal(expected[name][2]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_networks_train_float32_rows(dtype: torch.dtype) -> None:
    half, full = tiny_run(dtype=dtype), tiny_run()
    half.steps(3)
    full.steps(3)
    assert half.adapter.dtype == dtype and half.rows.dtype == torch.float32
    assert half.logs[-1].finite.all()
    torch.testing.assert_close(half.logs[0].loss, full.logs[0].loss, rtol=2e-2, atol=0)
    state = half.step.parametrizations["clip_l"].state_dict()
    assert {value.dtype for key, value in state.items() if key != "age"} == {torch.float32}
    assert half.adapter.pipeline.vae.dtype == torch.float32
    half.adapter.release_vae()


def test_every_picture_is_shown_once_an_epoch() -> None:
    run = tiny_run([CLOCK], batch_size=2)
    shown = torch.cat([run.draws.draw((0,), (step,))[0].image % 5 for step in range(10)])
    for epoch in shown.view(4, 5):
        assert sorted(epoch.tolist()) == [0, 1, 2, 3, 4]
    assert any(not torch.equal(one, other) for one, other in pairwise(shown.view(4, 5)))


def test_draws_repeat_whatever_was_drawn_before() -> None:
    first, second = tiny_run([CORGI, CLOCK]).draws, tiny_run([CLOCK]).draws
    first.draw((0, 1), (7, 3))
    (one,), (other,) = first.draw((1,), (5,)), second.draw((0,), (5,))
    assert torch.equal(one.noise, other.noise) and torch.equal(one.u, other.u)
    assert torch.equal(one.posterior_noise, other.posterior_noise)
    assert not torch.equal(one.noise, one.posterior_noise)
    (later,) = second.draw((0,), (6,))
    assert not torch.equal(later.noise, other.noise)


@pytest.mark.parametrize(("steps", "most_bytes"), [(1, 2**20), (3, 2**20), (8, 0)])
def test_draws_are_the_same_however_many_steps_are_drawn_at_once(
    steps: int, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tiny_run([CORGI, CLOCK], config=TextualInversionConfig(timestep_sampling="stratified")).draws
    monkeypatch.setattr("textual_inversion_ext.training.draws.AHEAD_STEPS", steps)
    monkeypatch.setattr("textual_inversion_ext.training.draws.AHEAD_BYTES", most_bytes)
    found = tiny_run([CORGI, CLOCK], config=TextualInversionConfig(timestep_sampling="stratified")).draws
    for concepts, clocks in [*(((0, 1), (step, step + 5)) for step in range(10)), ((1,), (3,)), ((0, 1), (10, 4))]:
        for one, other in zip(wanted.draw(concepts, clocks), found.draw(concepts, clocks), strict=True):
            for name in ("image", "prompt", "u", "noise", "posterior_noise"):
                assert torch.equal(getattr(one, name), getattr(other, name)), (name, clocks)


def test_prompts_and_flips_are_drawn_from_all() -> None:
    run = tiny_run([CORGI], batch_size=400, config=TextualInversionConfig(flip_p=0.5))
    (draws,) = run.draws.draw((0,), (0,))
    assert set(draws.prompt.tolist()) == set(range(len(next(iter(run.resident.prompt_ids.values())))))
    assert 0.4 < (draws.image >= 3).float().mean() < 0.6
    assert tiny_run([CORGI], batch_size=400).draws.draw((0,), (0,))[0].image.max() == 2


def test_encoding_needs_attached_rows() -> None:
    adapter = adapter_for(tiny_pipeline())
    with pytest.raises(RuntimeError, match="attached"):
        adapter.encode({"clip_l": torch.zeros(1, 24, dtype=torch.int64)}, {"clip_l": torch.zeros(1, 16)})
