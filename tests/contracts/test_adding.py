"""The recipe in each axis folder (`ADDING.md`) runs: its code block is executed and what it defines is on the axis."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import textual_inversion_ext

PACKAGE = Path(textual_inversion_ext.__file__).parent
AXES = sorted(path.parent for path in PACKAGE.rglob("base.py"))


@pytest.fixture(params=AXES, ids=lambda path: path.name)
def axis(request: pytest.FixtureRequest) -> Path:
    return request.param


def code_block(axis: Path) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", (axis / "ADDING.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 1, f"{axis.name}/ADDING.md holds {len(blocks)} blocks of Python; one is expected"
    return blocks[0]


def test_the_recipe_defines_a_complete_class(axis: Path) -> None:
    code = code_block(axis)
    namespace: dict[str, object] = {"__name__": "recipe"}
    exec(compile(code, str(axis / "ADDING.md"), "exec"), namespace)  # noqa: S102 - our own text, and the point of it
    base = importlib.import_module(f"textual_inversion_ext.{'.'.join(axis.relative_to(PACKAGE).parts)}.base")
    contracts = tuple(
        member
        for member in vars(base).values()
        if inspect.isclass(member) and member.__module__ == base.__name__ and inspect.isabstract(member)
    )
    names = [node.name for node in ast.parse(code).body if isinstance(node, ast.ClassDef)]
    added = [namespace[name] for name in names if issubclass(namespace[name], contracts)]  # type: ignore[arg-type]
    assert added, f"the recipe defines none of {[contract.__name__ for contract in contracts]}"
    assert not any(inspect.isabstract(member) for member in added), "the recipe leaves methods out"


def test_the_recipe_names_the_table(axis: Path) -> None:
    package = importlib.import_module(f"textual_inversion_ext.{'.'.join(axis.relative_to(PACKAGE).parts)}")
    tables = [name for name, value in vars(package).items() if name.isupper() and isinstance(value, dict)]
    assert any(f"`{name}`" in (axis / "ADDING.md").read_text(encoding="utf-8") for name in tables), tables
