"""Entry point of the ``textual-inversion`` command: run a verb, turn errors into messages and exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Protocol

from textual_inversion_ext import __version__
from textual_inversion_ext.cli import card, compare, convert, demo, evaluate, generate, inspect, publish, train
from textual_inversion_ext.errors import TextualInversionError

FAILED = 1
"""Exit code when something was wrong with the input or on the way (2 is argparse's: a flag it cannot parse)."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it (128 + SIGINT)."""
CLOSED = 141
"""Exit code when nobody reads the output any more, as shells have it (128 + SIGPIPE)."""


class Verb(Protocol):
    """A module of this package that is one verb."""

    HELP: str

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's flags to its parser."""

    def run(self, flags: argparse.Namespace) -> None:
        """Do the work."""


VERBS: dict[str, Verb] = {
    "train": train,
    "generate": generate,
    "evaluate": evaluate,
    "compare": compare,
    "convert": convert,
    "inspect": inspect,
    "card": card,
    "publish": publish,
    "demo": demo,
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="textual-inversion",
        description="Teach a frozen text-to-image diffusion model a new word from 3-100 pictures.",
    )
    parser.add_argument("--version", action="version", version=f"textual-inversion-ext {__version__}")
    parser.add_argument("--debug", action="store_true", help="Show an error's traceback.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        # Abbreviated flags are off: a flag added later must not change what an old command means.
        sub = verbs.add_parser(name, help=verb.HELP, description=verb.HELP, allow_abbrev=False)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="Show an error's traceback.")
        verb.add_flags(sub)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What was typed after the program's name; default: ``sys.argv``.

    Returns:
        The exit code: 0, ``FAILED``, ``INTERRUPTED`` or ``CLOSED``. argparse exits with 2 by itself.
    """
    flags = make_parser().parse_args(arguments)
    _show_log_messages(flags.debug)
    try:
        VERBS[flags.verb].run(flags)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return CLOSED
    except KeyboardInterrupt as interruption:  # TrainingInterrupted is one too, and says how to resume.
        return _report(f"\n{interruption}" if str(interruption) else "\nInterrupted.", flags.debug, INTERRUPTED)
    except TextualInversionError as error:
        return _report(f"error: {error}", flags.debug, FAILED)
    except OSError as error:  # a path that no file system takes, a folder that may not be read
        if error.filename is None:
            raise
        return _report(f"error: cannot use {error.filename}: {error.strerror}.", flags.debug, FAILED)
    return 0


def _report(message: str, debug: bool, code: int) -> int:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr, flush=True)
    return code


class _BarFriendlyHandler(logging.Handler):
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def _show_log_messages(debug: bool) -> None:
    """Show this library's messages; of the libraries below, only errors (their remarks are for programmers)."""
    if not debug:
        for library in ("DIFFUSERS", "TRANSFORMERS"):  # Read when they are imported, which the verbs do.
            os.environ.setdefault(f"{library}_VERBOSITY", "error")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(diffusers|transformers)\.")
    logger = logging.getLogger("textual_inversion_ext")
    # `accelerate launch` starts one process per device; one of them speaks.
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    if not any(isinstance(handler, _BarFriendlyHandler) for handler in logger.handlers):
        handler = _BarFriendlyHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
