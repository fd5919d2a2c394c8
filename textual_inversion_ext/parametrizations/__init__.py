"""What a row is and how it moves: one file per idea, and this table is the only list."""

from __future__ import annotations

from textual_inversion_ext.parametrizations.base import Parametrization, UpdateSettings
from textual_inversion_ext.parametrizations.directional import DirectionalRows
from textual_inversion_ext.parametrizations.free import FreeRows

__all__ = ["PARAMETRIZATIONS", "DirectionalRows", "FreeRows", "Parametrization", "UpdateSettings"]

PARAMETRIZATIONS: dict[str, type[Parametrization]] = {
    FreeRows.name: FreeRows,
    DirectionalRows.name: DirectionalRows,
}
