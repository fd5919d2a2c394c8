"""``textual-inversion evaluate``: pictures by the rules of a protocol, scores, and a page that shows both."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from textual_inversion_ext.cli.evaluate_flags import add_flags
from textual_inversion_ext.cli.evaluate_jobs import Job, check_folder, chosen_protocol, read_jobs
from textual_inversion_ext.cli.model_flags import check_lora_scale, common_model, placement
from textual_inversion_ext.cli.score_tables import score_lines
from textual_inversion_ext.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from textual_inversion_ext.evaluation.evaluator import Evaluator
    from textual_inversion_ext.evaluation.metrics import MetricParts
    from textual_inversion_ext.evaluation.report import EvaluationReport

__all__ = ["HELP", "add_flags", "run"]

HELP = "Score learned words: pictures by the rules of a protocol, a report, a page, and a picture to share."

logger = logging.getLogger(__name__)


def run(flags: argparse.Namespace) -> None:
    """Evaluate the concepts one after the other.

    Args:
        flags: The parsed flags.

    Raises:
        ConfigError: A value is not allowed.
        KeyboardInterrupt: Somebody pressed Ctrl-C; the message says how to go on.
    """
    if flags.seeds is not None and flags.seeds < 1:
        raise ConfigError(f"--seeds is {flags.seeds}; it is the number of pictures per prompt, at least 1.")
    if flags.prompts is not None and flags.protocol is not None:
        raise ConfigError("Give --protocol or --prompts, not both: a file of prompts is a protocol of its own.")
    check_lora_scale(flags.lora_scale)
    from textual_inversion_ext.evaluation.html import PAGE_FILE
    from textual_inversion_ext.evaluation.picture import PICTURE_FILE
    from textual_inversion_ext.evaluation.report import REPORT_FILE

    jobs = read_jobs(flags)
    concepts = [material.concept for job in jobs for material in job.materials]
    model = flags.pretrained_model_name_or_path or common_model(concepts)
    for job in jobs:
        check_folder(job, model)
    try:
        reports = _evaluate_all(flags, jobs, model)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Stopped. Pictures made so far are kept; the same command goes on from there."
        ) from None
    if flags.json:
        contents = [json.loads(report.to_json()) for report in reports]
        print(json.dumps(contents if len(contents) > 1 else contents[0], ensure_ascii=False, indent=2))
        return
    for job, report in zip(jobs, reports, strict=True):
        scale = flags.scale or chosen_protocol(flags, report.concept.token).scale
        print("\n".join(score_lines(report, scale)))
        files = {"Page": PAGE_FILE, "Picture": PICTURE_FILE, "Report": REPORT_FILE}
        print("\n".join(f"{name + ':':<9}{job.folder / file}" for name, file in files.items()) + "\n")


def _evaluate_all(flags: argparse.Namespace, jobs: Sequence[Job], model: str) -> list[EvaluationReport]:
    from textual_inversion_ext.evaluation.html import write_page
    from textual_inversion_ext.evaluation.picture import write_picture
    from textual_inversion_ext.evaluation.report import REPORT_FILE
    from textual_inversion_ext.pipelines.loading import load_pipeline

    device, dtype = placement(flags.device, flags.mixed_precision)
    parts = _parts(flags, model, device)
    evaluators = [_evaluator(flags, job, parts) for job in jobs]
    pipeline = load_pipeline(model, revision=flags.revision, variant=flags.variant, dtype=dtype, device=device)
    reports = []
    for number, (job, evaluator) in enumerate(zip(jobs, evaluators, strict=True), start=1):
        logger.info("Evaluating %s (%d of %d)", job.tokens, number, len(jobs))
        report = _evaluate(pipeline, job, evaluator, flags.lora_scale)
        report.save(job.folder / REPORT_FILE)
        write_page(report, job.folder)
        write_picture(report, job.folder)
        reports.append(report)
    return reports


def _parts(flags: argparse.Namespace, model: str, device: torch.device) -> MetricParts:
    from textual_inversion_ext.evaluation.backbones import DEFAULT_DINO, default_backbone
    from textual_inversion_ext.evaluation.metrics import MetricParts
    from textual_inversion_ext.pocket.reader import read_reader

    return MetricParts(
        clip=flags.backbone or default_backbone(model),
        dino=flags.dino_backbone or DEFAULT_DINO,
        device=device,
        reader=None if flags.reader is None else read_reader(flags.reader),
    )


def _evaluator(flags: argparse.Namespace, job: Job, parts: MetricParts) -> Evaluator:
    from textual_inversion_ext.evaluation.evaluator import Evaluator

    wishes: dict[str, Any] = {}
    if flags.baselines is not None:
        wishes["baselines"] = [name.replace("_", " ") for name in flags.baselines if name != "none"]
    return Evaluator(
        chosen_protocol(flags, job.materials[0].concept.token),
        flags.metrics,
        folder=job.folder,
        seeds=flags.seeds,
        first_seed=flags.first_seed,
        text_mode=flags.text_mode,
        parts=parts,
        batch_size=flags.batch_size,
        **wishes,
    )


def _evaluate(pipeline: Any, job: Job, evaluator: Evaluator, lora_scale: float) -> EvaluationReport:
    """Evaluate with the LoRAs of these concepts, and without those of others."""
    from textual_inversion_ext.pipelines.lora import load_loras

    load_loras(pipeline, job.loras, lora_scale)
    try:
        report = evaluator.evaluate(pipeline, job.materials[0], job.materials[1:])
    finally:
        if job.loras:
            pipeline.unload_lora_weights()
    if not job.loras:
        return report
    note = f"All pictures, those of the baselines too, were made with the LoRA of the word, strength {lora_scale:g}."
    settings = {**report.settings, "lora_scale": lora_scale}
    return dataclasses.replace(report, settings=settings, notes=(*report.notes, note))
