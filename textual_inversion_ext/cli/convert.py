"""``textual-inversion convert``: embedding files of any tool, written for another one."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual_inversion_ext.data.sources.paths import expand_home
from textual_inversion_ext.errors import ConfigError, EmbeddingFileError, TextualInversionError

if TYPE_CHECKING:
    from textual_inversion_ext.concept import LearnedConcept

HELP = "Convert embedding files of any tool: a file, a folder of them, or a repository of the Hub."

logger = logging.getLogger(__name__)

_ENDING = ".safetensors"
_SDXL_LINES = """\
Plain diffusers loads the two files of {token} one by one:
  pipe.load_textual_inversion("{first}")
  pipe.load_textual_inversion("{second}", tokenizer=pipe.tokenizer_2, text_encoder=pipe.text_encoder_2)"""


@dataclass(frozen=True)
class _Source:
    """A concept to write, and the file that it is from."""

    file: Path
    concept: LearnedConcept


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags.

    Args:
        parser: The verb's parser.
    """
    parser.add_argument("source", metavar="IN", help="Embedding file, folder of them, or repository of the Hub.")
    parser.add_argument("target", metavar="OUT", help=f"A {_ENDING} file, or a folder.")
    # Not `choices`: their list is in a module that imports torch, which `--help` should not wait for.
    parser.add_argument(
        "--format",
        default="diffusers",
        help="For whom: diffusers (default), webui, comfyui, invokeai, kohya or onetrainer.",
    )
    parser.add_argument("--token", default=None, help="The word to write instead of the file's own; for one concept.")
    parser.add_argument("--revision", default=None, help="Revision of the repository on the Hub.")
    parser.add_argument("--overwrite", action="store_true", help="Replace files that exist.")


def run(flags: argparse.Namespace) -> None:
    """Convert the files.

    Args:
        flags: The parsed flags.

    Raises:
        ConfigError: A value is not allowed.
        EmbeddingFileError: Something could not be converted; everything else was.
    """
    from textual_inversion_ext.files import ENDINGS, TARGETS, save_concept

    if flags.format not in TARGETS:
        known = "; ".join(f"{name} ({target.description})" for name, target in TARGETS.items())
        raise ConfigError(f"--format is {flags.format!r}; allowed: {known}.")
    target = expand_home(flags.target)
    if target.suffix.lower() in set(ENDINGS) - {_ENDING} and not target.is_dir():
        raise ConfigError(
            f"{target} ends in {target.suffix!r}; embeddings are written as {_ENDING} files, or to a folder."
        )
    sources, failures = _read(flags.source, flags.token, flags.revision)
    if len(sources) > 1 and target.suffix.lower() == _ENDING:
        raise ConfigError(f"{flags.source} holds {len(sources)} concepts; give a folder instead of {target}.")
    planned: dict[Path, _Source] = {}
    for source in sources:
        try:
            files = _planned(source.concept, target, flags.format, alone=len(sources) == 1)
            _check_free(files, source, planned, flags.overwrite)
            save_concept(source.concept, files[0], flags.format)
            planned.update(dict.fromkeys(files, source))
            print(f"{source.file} -> {', '.join(map(str, files))}")
            if len(files) > 1:
                _explain_pair(source.concept, files)
        except TextualInversionError as error:
            failures.append(str(error))
    if failures:
        done = f"{len(failures)} could not be converted, everything else was:\n" if len(sources) > 1 else ""
        raise EmbeddingFileError(done + "\n".join(failures))


def _read(place: str, token: str | None, revision: str | None) -> tuple[list[_Source], list[str]]:
    """Read all concepts, each once and as it was at the end of its training, and say which files cannot be read."""
    from tqdm import tqdm

    from textual_inversion_ext.files import load_concept, scan
    from textual_inversion_ext.files.places import is_snapshot, listed

    if token is not None:
        return [_Source(Path(place), load_concept(place, token=token, revision=revision))], []
    sources, failures, left_out = [], [], []
    for file, result in tqdm(scan(place, revision=revision), desc="reading", unit="file", delay=2, leave=False):
        if is_snapshot(file) and file != expand_home(place):
            left_out.append(file.name)
        elif isinstance(result, EmbeddingFileError):
            failures.append(str(result))
        else:
            sources += [_Source(file, concept) for concept in result]
    if left_out:
        logger.warning(
            "notice: left out %d snapshots of finished trainings (%s); convert those that you want one by one.",
            len(left_out),
            listed(left_out),
        )
    return _distinct(sources), failures


def _distinct(sources: list[_Source]) -> list[_Source]:
    """Leave out what was there before: a run's folder has its word in two formats."""
    kept: list[_Source] = []
    of_token: dict[str, list[LearnedConcept]] = {}
    for source in sources:
        known = of_token.setdefault(source.concept.token, [])
        if not any(_same_rows(source.concept, other) for other in known):
            known.append(source.concept)
            kept.append(source)
    return kept


def _planned(concept: LearnedConcept, target: Path, format: str, *, alone: bool) -> list[Path]:
    """The files that a concept will be written to."""
    from textual_inversion_ext.files import TARGETS, lay_out
    from textual_inversion_ext.files.places import part_path

    stem, parts = lay_out(concept, format)
    if target.suffix.lower() == _ENDING:
        first = target
    elif TARGETS[format].stem and not alone:  # the tool's file name is the same for all, so each gets a folder
        first = target / concept.name / f"{stem}{_ENDING}"
    else:
        first = target / f"{stem}{_ENDING}"
    return [part_path(first, number) for number in range(len(parts))]


def _same_rows(concept: LearnedConcept, other: LearnedConcept) -> bool:
    ours, theirs = concept.vectors, other.vectors
    return set(ours) == set(theirs) and all(ours[key].equal(theirs[key]) for key in ours)


def _check_free(files: list[Path], source: _Source, planned: dict[Path, _Source], overwrite: bool) -> None:
    """Refuse to write over another result or over what was there before."""
    for file in files:
        if file in planned:
            raise EmbeddingFileError(
                f"{source.file} ({source.concept.token}) and {planned[file].file} would both become {file}; convert "
                "them one by one, with --token."
            )
        if file.exists() and not overwrite:
            raise EmbeddingFileError(f"{file} exists; choose another place or say --overwrite.")


def _explain_pair(concept: LearnedConcept, files: list[Path]) -> None:
    if set(concept.vectors) == {"clip_l", "clip_g"}:
        print(_SDXL_LINES.format(token=concept.token, first=files[0], second=files[1]))
