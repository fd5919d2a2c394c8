"""``textual-inversion publish``: put a learned word, with its card, on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual_inversion_ext.publishing import PublishSettings

HELP = "Publish a run on the Hugging Face Hub: embedding files, settings, scores, a few pictures and a card."

logger = logging.getLogger(__name__)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags.

    Args:
        parser: The verb's parser.
    """
    parser.add_argument("run", nargs="?", default=None, metavar="RUN", help="The output_dir of a run.")
    parser.add_argument(
        "--collection",
        default=None,
        metavar="FOLDER",
        help="Instead of RUN: a run with several concepts, or a folder of runs. Each word gets a repository of its own,"
        " named like the word; --repo_id is for the card that lists them.",
    )
    parser.add_argument("--repo_id", required=True, metavar="USER/NAME", help="The repository; made if there is none.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--create_pr", action="store_true", help="Send a pull request instead of a commit.")
    parser.add_argument("--revision", default=None, metavar="BRANCH", help="Default: main.")
    parser.add_argument(
        "--parent_commit", default=None, metavar="SHA", help="Send nothing unless the branch is still at this commit."
    )
    parser.add_argument(
        "--with_dataset", action="store_true", help="Publish the training pictures too, as a data set of its own."
    )
    parser.add_argument(
        "--dataset_repo_id", default=None, metavar="USER/NAME", help="Where. Default: --repo_id with -images behind it."
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="List the files, their sizes and the card; ask and send nothing."
    )
    parser.add_argument(
        "--hub_token", default=None, metavar="TOKEN", help="Default: the login made with `hf auth login`, or HF_TOKEN."
    )
    add_card_flags(parser)


def add_card_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags about a card's contents.

    Args:
        parser: The verb's parser.
    """
    parser.add_argument(
        "--license",
        default=None,
        metavar="ID",
        help="The Hub's name of the licence: mit, cc-by-4.0, ... Default: the one that the base model's card states.",
    )
    parser.add_argument("--license_name", default=None, metavar="NAME", help="Name of a licence that is 'other'.")
    parser.add_argument("--license_link", default=None, metavar="URL", help="Where the text of such a licence is.")
    parser.add_argument("--description", default="", metavar="TEXT", help="What the concept is, in your own words.")
    parser.add_argument(
        "--image",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="FILE",
        help="Pictures to show. Default: those of the evaluation, one of each prompt, or the last preview.",
    )
    parser.add_argument("--template", type=Path, default=None, metavar="FILE", help="A Jinja template of the card.")
    parser.add_argument(
        "--discard_edits",
        action="store_true",
        help="Lose what you wrote into the card outside of its marked places ('own section').",
    )


def settings_of(flags: argparse.Namespace) -> PublishSettings:
    """Gather what was chosen.

    Args:
        flags: The parsed flags of ``card`` or ``publish``.

    Returns:
        The settings; flags that the verb does not have are at their defaults.
    """
    import dataclasses

    from textual_inversion_ext.publishing import PublishSettings

    given = {field.name: getattr(flags, field.name, None) for field in dataclasses.fields(PublishSettings)}
    chosen = {name: value for name, value in given.items() if value is not None}
    return PublishSettings(**{"repo_id": "", **chosen, "image": tuple(flags.image)})


def run(flags: argparse.Namespace) -> None:
    """Publish, or show what would be published.

    Args:
        flags: The parsed flags.

    Raises:
        ConfigError: Neither or both of RUN and ``--collection`` were given.
    """
    from textual_inversion_ext.errors import ConfigError

    if (flags.run is None) == (flags.collection is None):
        raise ConfigError("Give the folder of a run, or --collection with the folder of several; one of the two.")
    from textual_inversion_ext.publishing import (
        describe,
        prepare_collection,
        prepare_run,
        publish_collection,
        publish_run,
    )

    folder, settings = Path(flags.run or flags.collection), settings_of(flags)
    if flags.dry_run:
        planned = (
            prepare_collection(folder, settings) if flags.collection else prepare_run(folder, settings, online=False)
        )
        for publication in planned:
            print(f"Would send {describe(publication)}")
        logger.info("Nothing was sent.")
        return
    publish = publish_collection if flags.collection else publish_run
    for pushed in publish(folder, settings, token=flags.hub_token):
        state = "Published" if pushed.changed else "Was there already, so no new commit was made:"
        logger.info("%s %s (commit %s)", state, pushed.url, pushed.commit[:12])
        if pushed.removed:
            logger.info("Removed there, as this run has them no more: %s", ", ".join(pushed.removed))
