"""What an evaluation is asked for on the command line: which concepts, by which rules, and where the reports go."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual_inversion_ext.cli.generate import concept_files, lora_of
from textual_inversion_ext.data.sources.paths import expand_home
from textual_inversion_ext.errors import ConfigError, OutputFolderError, ReportError, TextualInversionError
from textual_inversion_ext.evaluation.protocols import Protocol, protocol_named, read_protocol
from textual_inversion_ext.run_file import full_path

if TYPE_CHECKING:
    from textual_inversion_ext.evaluation.material import Material


@dataclass(frozen=True, slots=True)
class Job:
    """One report to be made.

    Attributes:
        materials: The concepts, one for each place in the protocol's prompts.
        loras: LoRA files that were trained together with them.
        folder: Where the report goes.
    """

    materials: tuple[Material, ...]
    loras: tuple[Path, ...]
    folder: Path

    @property
    def tokens(self) -> str:
        """The words, for messages."""
        return " and ".join(material.concept.token for material in self.materials)


def read_jobs(flags: argparse.Namespace) -> list[Job]:
    """Read every concept and its pictures, before anything slow begins.

    Args:
        flags: The parsed flags.

    Returns:
        One job per concept; one for all where a protocol's prompts hold several words.

    Raises:
        ConfigError: A file or folder that was named is not as it should be.
        ConceptError: There is no such concept.
        DataError: A concept has no real pictures.
    """
    from textual_inversion_ext.evaluation.material import load_material, read_captions

    _check_apart(flags.references, flags.output_dir)
    captions = read_captions(flags.captions) if flags.captions else ()
    places = [place for name in flags.concept for place in _places(name)]
    materials, loras = [], []
    for place in places:
        references = _references(flags.references, place, len(places))
        materials.append(load_material(place, references=references, class_word=flags.class_word, captions=captions))
        lora = lora_of(place) if flags.lora_scale else None
        loras.append(() if lora is None else (lora,))
    if chosen_protocol(flags, materials[0].concept.token).places > 1:
        folder = _folder(flags, places[0], materials[0], 1)
        if flags.output_dir is None and len(materials) > 1:
            folder = folder.with_name(f"{folder.name}-with-{materials[1].concept.name}")
        return [Job(tuple(materials), tuple(lora for found in loras for lora in found), folder)]
    found = [
        Job((material,), lora, _folder(flags, place, material, len(places)))
        for place, material, lora in zip(places, materials, loras, strict=True)
    ]
    _check_distinct([job.folder for job in found])
    return found


def _check_distinct(folders: Sequence[Path]) -> None:
    twice = sorted({folder for folder in folders if folders.count(folder) > 1})
    if twice:
        raise ConfigError(
            f"Several of the concepts would be reported in {twice[0]}. Leave --output_dir out, so that each gets its"
            " own place, or evaluate them one after the other."
        )


def _check_apart(references: str | None, output_dir: str | Path | None) -> None:
    """Refuse to write the report's picture among the references: the next time it would be one of them."""
    if references is None or output_dir is None:
        return
    if expand_home(references).resolve() == Path(output_dir).resolve():
        raise ConfigError(f"--references and --output_dir are both {references}; give the report a folder of its own.")


def _places(name: str) -> Sequence[str | Path]:
    """The concepts that a ``--concept`` stands for: files and folders here, else a repository of the Hub."""
    from textual_inversion_ext.files.places import parse_hub

    path = expand_home(name)
    return concept_files(path) if path.exists() or parse_hub(name) is None else [name]


def _references(name: str | None, place: str | Path, count: int) -> Any:
    """The real pictures that ``--references`` stands for: of several concepts each has a part of its own name.

    A part is a sub-folder, or a configuration of a data set of the Hub: ``google/dreambooth`` has one for each of its
    30 subjects.
    """
    if name is None:
        return None
    path = expand_home(name)
    from textual_inversion_ext.concept import HubDataset
    from textual_inversion_ext.files import load_concept
    from textual_inversion_ext.files.places import HubPlace, parse_hub

    repository, _, part = name.partition(":")
    if not path.exists() and parse_hub(repository) == HubPlace(repository):
        return HubDataset(repository, config_name=part or (load_concept(place).name if count > 1 else None))
    if count == 1:
        return str(path)
    own = path / load_concept(place).name
    if not own.is_dir():
        raise ConfigError(
            f"--references {name} has no folder {own.name}; with several concepts, put the real pictures of each into"
            " a folder of the concept's name there, or leave --references out to use those of the training."
        )
    return str(own)


def _folder(flags: argparse.Namespace, place: str | Path, material: Material, count: int) -> Path:
    """Where a report goes: beside the concept, unless ``--output_dir`` says otherwise."""
    if flags.output_dir is not None:
        return Path(flags.output_dir) / material.concept.name / "evaluation" if count > 1 else Path(flags.output_dir)
    if isinstance(place, str):
        return Path("evaluation") / material.concept.name
    if place.is_dir():
        return place / "evaluation"
    if place.name == "learned_embeds.safetensors":
        return place.parent / "evaluation"
    return place.parent / f"evaluation-{place.stem}"


def check_folder(job: Job, model: str) -> None:
    """Refuse to replace the report of another word or model, or files that no evaluation wrote.

    A report that cannot be read is replaced.

    Args:
        job: The job.
        model: The model that makes the pictures.

    Raises:
        OutputFolderError: The folder is a file, or holds such a report or such files.
    """
    from textual_inversion_ext.evaluation.report import REPORT_FILE, EvaluationReport
    from textual_inversion_ext.evaluation.session import check_place_of_copies

    if job.folder.exists() and not job.folder.is_dir():
        raise OutputFolderError(f"--output_dir {job.folder} is a file; give the name of a folder.")
    for material in job.materials:
        check_place_of_copies(job.folder, material)
    try:
        old = EvaluationReport.load(job.folder / REPORT_FILE).concept
    except ReportError:
        _check_files(job.folder)
        return
    same_model = full_path(old.base_model) == full_path(model)
    if not same_model or old.token != job.materials[0].concept.token:
        raise OutputFolderError(
            f"{job.folder} holds the report of {old.token} on {old.base_model}, and this one would be of"
            f" {job.materials[0].concept.token} on {model}. Choose another --output_dir, or move what is there away."
        )


def _check_files(folder: Path) -> None:
    """Refuse to replace files that no evaluation wrote; one leaves its report, and pictures if that was removed."""
    from textual_inversion_ext.evaluation.html import PAGE_FILE
    from textual_inversion_ext.evaluation.picture import PICTURE_FILE
    from textual_inversion_ext.evaluation.picture_files import is_ours
    from textual_inversion_ext.evaluation.report import REPORT_FILE, SCHEMA
    from textual_inversion_ext.evaluation.session import PICTURES

    names = [name for name in (REPORT_FILE, PAGE_FILE, PICTURE_FILE) if (folder / name).exists()]
    try:
        ours = SCHEMA in (folder / REPORT_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        ours = any(map(is_ours, (folder / PICTURES).glob("*/*.png")))
    except OSError:
        ours = False
    if names and not ours:
        raise OutputFolderError(
            f"{folder} holds {', '.join(names)}, which no evaluation wrote. Choose another --output_dir, or move what"
            " is there away."
        )


def reports_fit(flags: argparse.Namespace) -> bool:
    """Whether each of the concepts has a report in its place that is about the rows it has now.

    Args:
        flags: Parsed flags, ``output_dir`` among them.

    Returns:
        False where a report is missing, damaged, or of other rows, and where no concept can be read.
    """
    from textual_inversion_ext.evaluation.findings import rows_hash
    from textual_inversion_ext.evaluation.report import REPORT_FILE, EvaluationReport
    from textual_inversion_ext.files import load_concept

    try:
        concepts = [load_concept(place) for name in flags.concept for place in _places(name)]
        if chosen_protocol(flags, concepts[0].token).places > 1:
            concepts = concepts[:1]  # one report for all, and it begins with the first
        for concept in concepts:
            folder = Path(flags.output_dir)
            own = folder if len(concepts) == 1 else folder / concept.name / "evaluation"
            report = EvaluationReport.load(own / REPORT_FILE).concept
            if (report.token, report.rows_hash) != (concept.token, rows_hash(concept.vectors)):
                return False
    except TextualInversionError:
        return False
    return True


def chosen_protocol(flags: argparse.Namespace, token: str) -> Protocol:
    """The protocol, with what the flags say differently.

    Args:
        flags: The parsed flags.
        token: The learned word; a file of prompts may be written with it.

    Returns:
        The protocol.

    Raises:
        ConfigError: A file of prompts is no good.
    """
    protocol = read_protocol(flags.prompts, token) if flags.prompts else protocol_named(flags.protocol or "quick")
    wishes = {"num_inference_steps": flags.num_inference_steps, "guidance_scale": flags.guidance_scale}
    changes: dict[str, Any] = {name: value for name, value in wishes.items() if value is not None}
    if not changes:
        return protocol
    pocket = None if protocol.pocket is None else dataclasses.replace(protocol.pocket, **changes)
    return dataclasses.replace(protocol, pocket=pocket, **changes)
