"""Evaluating while training: the fixed batch, its loss, and which rows are kept."""

from __future__ import annotations

import math

import pytest
import torch

from tests.ranks import ranks, together
from tests.tiny import TinyRun, tiny_images, tiny_pipeline, tiny_run
from textual_inversion_ext.concept import ConceptSpec
from textual_inversion_ext.training.draws import DrawSource
from textual_inversion_ext.training.evaluations import joined
from textual_inversion_ext.training.kept import LEVELS, KeptRows

CORGI = ConceptSpec("<corgi>", tiny_images(3), "dog", num_vectors=2)
CLOCK = ConceptSpec("<clock>", tiny_images(5, seed=1), "clock")


def test_the_fixed_batch_depends_on_nothing_but_the_concept() -> None:
    run = tiny_run([CORGI, CLOCK])
    batch = run.draws.fixed(1, 7)
    run.draws.draw((0, 1), (3, 4))
    others = (
        (run.draws, 1),
        (DrawSource(run.resident, seed=9, batch_size=3, accumulation=2, world_size=2, rank=1, flip_p=1.0), 1),
        (tiny_run([CLOCK], batch_size=5).draws, 0),
    )
    for draws, place in others:
        again = draws.fixed(place, 7)
        for name in ("u", "noise", "posterior_noise"):
            assert getattr(again, name).equal(getattr(batch, name))
    (bucket,) = run.resident.buckets
    assert (batch.image - bucket.image_start[1]).tolist() == [0, 1, 2, 3, 4, 0, 1], "in turn, never mirrored"
    assert (batch.prompt - bucket.prompt_start[batch.image]).tolist() == list(range(7))
    assert batch.concepts == (1,) and batch.concept.tolist() == [1] * 7
    assert not batch.noise.equal(batch.posterior_noise)
    assert not batch.noise.equal(run.draws.fixed(0, 7).noise)


def test_fixed_timesteps_are_distinct_thousandths() -> None:
    run = tiny_run()
    timesteps = run.adapter.objective.sample_timesteps(run.draws.fixed(0, 1000).u)
    assert sorted(timesteps.tolist()) == list(range(1000)) != timesteps.tolist()


def test_evaluating_leaves_training_alone() -> None:
    plain, watched = tiny_run([CORGI, CLOCK]), tiny_run([CORGI, CLOCK])
    plain.steps(3)
    for _ in range(3):
        watched.steps(1)
        evaluated(watched, 0, 4)
    assert plain.rows.equal(watched.rows)
    assert not any(tensor.requires_grad for tensor in watched.step.state_dict().values())


def evaluated(run: TinyRun, place: int, count: int, rows: torch.Tensor | None = None) -> float:
    with run.adapter.attached():
        return run.step.evaluate(run.draws.fixed(place, count), {"clip_l": run.rows if rows is None else rows}).item()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_that_of_a_pipeline_s_parts(prediction_type: str) -> None:
    """Against diffusers' and transformers' own modules, called by hand with the word's rows in the table."""
    pipeline = tiny_pipeline(prediction_type)
    run = tiny_run([CORGI], pipeline=pipeline)
    run.steps(2)
    loss = evaluated(run, 0, 4)
    draws, encoder, vae = run.draws.fixed(0, 4), pipeline.text_encoder, pipeline.vae
    table, ids = encoder.get_input_embeddings(), run.resident.prompt_ids["clip_l"][draws.prompt]
    pictures = torch.stack([_pixels(image) for image in (*CORGI.images, CORGI.images[0])])
    with torch.no_grad():
        posterior = vae.encode(pictures).latent_dist
        latents = (posterior.mean + posterior.std * draws.posterior_noise) * vae.config.scaling_factor
        before = table.weight.data
        table.weight.data = torch.cat([before, run.rows])
        hidden = encoder(ids).last_hidden_state
        table.weight.data = before
        timesteps = (draws.u * 1000).long()
        alphas = pipeline.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noised = alphas.sqrt() * latents + (1 - alphas).sqrt() * draws.noise
        target = draws.noise
        if prediction_type == "v_prediction":
            target = alphas.sqrt() * draws.noise - (1 - alphas).sqrt() * latents
        expected = torch.nn.functional.mse_loss(pipeline.unet(noised, timesteps, hidden).sample, target)
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def _pixels(image: object) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.array(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def test_concepts_evaluated_together_are_each_alone() -> None:
    run = tiny_run([CORGI, CLOCK])
    run.steps(2)
    rows = {"clip_l": run.rows}
    with run.adapter.attached():
        together = run.step.evaluate(joined([run.draws.fixed(place, 4) for place in (0, 1)]), rows)
    alone = [evaluated(run, place, 4) for place in (0, 1)]
    assert together.tolist() == pytest.approx(alone, rel=1e-5) and abs(alone[0] - alone[1]) > 1e-4


def test_processes_agree_on_the_loss() -> None:
    runs = ranks(lambda **rank: tiny_run([CORGI], batch_size=1, **rank))
    losses = together(runs, lambda run: evaluated(run, 0, 4))
    assert losses[0] == losses[1] == evaluated(tiny_run([CORGI]), 0, 4)


def kept_after(losses: list[float], interval: int = 10) -> tuple[KeptRows, list[torch.Tensor]]:
    """Keep the middle one of three concepts through a history; its rows at every evaluation are handed back too."""
    kept = KeptRows({"clip_l": torch.zeros(5, 4)}, [range(1), range(1, 4), range(4, 5)])
    history = []
    for number, loss in enumerate(losses, start=1):
        rows = torch.full((5, 4), float(number))
        history.append(rows[1:4])
        kept.offer(1, number * interval, loss, {"clip_l": rows}, put_aside=number & (number - 1) == 0)
    return kept, history


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_kept_rows_are_the_best_so_far_and_those_of_shorter_runs(count: int, seed: int) -> None:
    losses = torch.rand(count, generator=torch.Generator().manual_seed(seed)).tolist()
    kept, history = kept_after(losses)
    marks = [mark for mark in (64, 32, 16, 8, 4, 2, 1) if mark <= count][: LEVELS - 1]
    for level, among in enumerate([count, *marks]):
        best = min(range(among), key=losses.__getitem__)
        assert kept.steps[1, level] == 10 * (best + 1) and kept.until[1, level] == 10 * among
        assert kept.losses[1, level].item() == pytest.approx(losses[best])
        assert kept.rows(level)["clip_l"][1:4].equal(history[best])
    assert (kept.steps[1, 1 + len(marks) :] == -1).all()
    assert (kept.steps[[0, 2]] == -1).all() and not kept.rows(0)["clip_l"][[0, 4]].any(), "others are left alone"


def test_the_first_of_equal_losses_is_kept_and_a_loss_that_is_no_number_never_is() -> None:
    kept, _ = kept_after([math.nan, 0.5, 0.5, math.nan, math.inf])
    assert kept.steps[1, 0] == 20
    assert kept_after([math.nan, math.inf])[0].steps[1, 0] == -1
