"""By which rules a concept is evaluated: one file per protocol, and this table is the only list.

Nothing here imports torch: the console lists the names.
"""

from __future__ import annotations

from pathlib import Path

from textual_inversion_ext.errors import ConfigError
from textual_inversion_ext.evaluation.protocols.bias import BIAS
from textual_inversion_ext.evaluation.protocols.dreambench import DREAMBENCH
from textual_inversion_ext.evaluation.protocols.gal import GAL
from textual_inversion_ext.evaluation.protocols.multi import MULTI
from textual_inversion_ext.evaluation.protocols.prompt_file import read_protocol
from textual_inversion_ext.evaluation.protocols.protocol import (
    PLACEHOLDER,
    Aim,
    Attribute,
    Protocol,
    ProtocolPrompt,
    PublishedRow,
)
from textual_inversion_ext.evaluation.protocols.quick import QUICK
from textual_inversion_ext.evaluation.protocols.report import REPORT

__all__ = [
    "PLACEHOLDER",
    "PROTOCOLS",
    "Aim",
    "Attribute",
    "Protocol",
    "ProtocolPrompt",
    "PublishedRow",
    "protocol_named",
    "read_protocol",
]

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (QUICK, REPORT, GAL, DREAMBENCH, MULTI, BIAS)}


def protocol_named(name_or_file: str | Path, token: str | None = None) -> Protocol:
    """Find a protocol.

    Args:
        name_or_file: A key of ``PROTOCOLS``, or a file of prompts (see `prompt_file`).
        token: The learned word; prompts of a file may be written with it instead of ``{}``.

    Returns:
        The protocol.

    Raises:
        ConfigError: There is none of that name and no such file, or the file is no good.
    """
    name = str(name_or_file)
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    path = Path(name)
    if path.is_file():
        return read_protocol(path, token)
    raise ConfigError(
        f"protocol is {name!r}; allowed: {', '.join(PROTOCOLS)}, or a text file with a prompt on each line."
    )
