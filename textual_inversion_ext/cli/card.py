"""``textual-inversion card``: write the model card of a run into its folder, and show it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from textual_inversion_ext.cli.publish import add_card_flags, settings_of

HELP = "Write a run's model card into its folder, with what was measured, and show it. Sends nothing."

logger = logging.getLogger(__name__)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags.

    Args:
        parser: The verb's parser.
    """
    parser.add_argument("run", metavar="RUN", help="The output_dir of a run.")
    parser.add_argument(
        "--repo_id", default="", metavar="USER/NAME", help="Where it will be published; the card's code names it."
    )
    add_card_flags(parser)


def run(flags: argparse.Namespace) -> None:
    """Write the card and print it.

    Args:
        flags: The parsed flags.
    """
    from textual_inversion_ext.publishing import write_card

    file, text = write_card(Path(flags.run), settings_of(flags))
    print(text)
    logger.info(
        "Wrote %s. What you write between its 'own section' marks is kept when the card is made again, and published.",
        file,
    )
