"""The shape of the house: who imports whom, how large things are, what importing costs. Read from the syntax trees."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import textual_inversion_ext

ROOT = Path(__file__).resolve().parent.parent
OURS = "textual_inversion_ext"
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60

# What may import what: a part imports from its own row and from the rows above it.
LAYERS = (
    ("errors", "atomic", "concept", "records", "options", "papers", "placeholders", "versions"),
    ("config", "recipes", "run_file", "objectives", "tokens", "row_layout", "embedding_table", "vocabulary")
    + ("optimizers", "parametrizations", "regularizers", "files", "data"),
    ("initializers", "families", "pipelines"),
    ("training", "evaluation", "pocket"),
    ("publishing",),
    ("cli",),
)
RANK = {part: rank for rank, row in enumerate(LAYERS) for part in row}
# Neighbours in a row that do not know each other all the same.
STRANGERS = {("training", "evaluation"), ("evaluation", "training")}
# The only imports that go up, each with its reason. An entry that nothing uses any more fails a test.
UPWARD_ALLOWED = {
    ("concept", "files"): "LearnedConcept.save() hands itself to the format's writer",
    ("concept", "publishing"): "LearnedConcept.push_to_hub() hands itself over",
    ("training.trainer", "publishing"): "TextualInversionTrainer.push_to_hub() hands its folder over",
    ("pipelines.loading", "pocket"): "the name 'pocket' loads the embedded pipeline",
}

SOURCES = sorted(path for package in (OURS, "hub_cards") for path in (ROOT / package).rglob("*.py"))
OUR_SOURCES = [path for path in SOURCES if path.is_relative_to(ROOT / OURS)]
TOP_LEVEL_SOURCES = [path for path in OUR_SOURCES if path != ROOT / OURS / "__init__.py"]
AXES = sorted(path.parent for path in (ROOT / OURS).rglob("base.py"))

each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
each_module = pytest.mark.parametrize("path", TOP_LEVEL_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_name(path: Path) -> str:
    """Dotted name of a file of ours: textual_inversion_ext.families.base; a package's is without `.__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_by(path: Path, of_types: bool = True) -> Iterator[str]:
    """Yield the full name of every module a file imports, in functions and for type checkers too.

    `from x import y` yields x.y where that is a module of this repository, else x. Public names that come from the
    package itself are followed to the module that defines them.
    """
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                yield _home_of(source, alias.name)


def _home_of(source: str, name: str) -> str:
    as_path = ROOT.joinpath(*source.split("."), name)
    if as_path.is_dir() or as_path.with_suffix(".py").is_file():
        return f"{source}.{name}"
    if source == OURS and name in textual_inversion_ext._MODULE_OF_NAME:
        return f"{OURS}.{textual_inversion_ext._MODULE_OF_NAME[name]}"
    return source


def part_of(module: str) -> str | None:
    """The part (second word) of one of our modules; None for the package itself and for foreign modules."""
    words = module.split(".")
    return words[1] if words[0] == OURS and len(words) > 1 else None


def upward_imports(path: Path) -> set[tuple[str, str]]:
    """Pairs (importing module without the package's name, imported part) that go against the layers."""
    importer = module_name(path).removeprefix(f"{OURS}.")
    own = importer.split(".")[0]
    found = set()
    for module in imported_by(path):
        part = part_of(module)
        if part is not None and (RANK[part] > RANK[own] or (own, part) in STRANGERS):
            found.add((importer, part))
    return found


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_the_test_sees_the_code() -> None:
    assert AXES, "no folder with a base.py was found"
    assert len(OUR_SOURCES) > 10
    assert part_of(_home_of(OURS, "LearnedConcept")) == "concept"
    assert _home_of("huggingface_hub", "ModelCard") == "huggingface_hub"


@each_module
def test_every_module_has_a_layer(path: Path) -> None:
    assert part_of(module_name(path)) in RANK, "place it in design.md section 3 and in LAYERS above"


@each_module
def test_lower_layers_do_not_import_higher_ones(path: Path) -> None:
    assert upward_imports(path) <= set(UPWARD_ALLOWED)


def test_no_exception_outlives_its_use() -> None:
    used = set().union(*(upward_imports(path) for path in TOP_LEVEL_SOURCES))
    assert set(UPWARD_ALLOWED) <= used


def test_no_import_cycles() -> None:
    """Holds for modules, function-level and type-only imports included; the allowed upward imports are left out."""
    names = {module_name(path) for path in TOP_LEVEL_SOURCES}
    graph: dict[str, set[str]] = {}
    for path in TOP_LEVEL_SOURCES:
        name = module_name(path)
        allowed = {part for importer, part in UPWARD_ALLOWED if f"{OURS}.{importer}" == name}
        targets = {module for module in imported_by(path) if module in names and part_of(module) not in allowed}
        graph[name] = targets - {name}
    while free := [name for name, targets in graph.items() if not targets & graph.keys()]:
        for name in free:
            del graph[name]
    assert not graph, f"these modules import each other in a circle, or one that does: {sorted(graph)}"


@pytest.mark.parametrize("folder", AXES, ids=lambda path: path.name)
def test_siblings_of_an_axis_import_only_their_base(folder: Path) -> None:
    axis = module_name(folder / "__init__.py")
    for path in folder.glob("*.py"):
        if path.name in ("__init__.py", "base.py"):
            continue
        siblings = {module for module in imported_by(path) if module == axis or module.startswith(f"{axis}.")}
        assert siblings <= {f"{axis}.base"}, f"{path.name} imports {sorted(siblings)}"


@pytest.mark.parametrize("folder", AXES, ids=lambda path: path.name)
def test_a_base_imports_none_of_its_siblings(folder: Path) -> None:
    axis = module_name(folder / "__init__.py")
    assert not {module for module in imported_by(folder / "base.py") if module == axis or module.startswith(f"{axis}.")}


def test_hub_cards_knows_hugging_face_cards_only() -> None:
    allowed = {*sys.stdlib_module_names, "huggingface_hub", "jinja2", "hub_cards"}
    for path in SOURCES:
        if not path.is_relative_to(ROOT / OURS):
            assert {module.split(".")[0] for module in imported_by(path)} <= allowed, path.name


@each_source
def test_a_file_is_one_noun(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_A_FILE


@each_source
def test_a_function_fits_on_a_screen(path: Path) -> None:
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions_of(path)}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION} == {}


@each_source
def test_public_functions_are_annotated(path: Path) -> None:
    bare = set()
    for node in functions_of(path):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments += [star for star in (node.args.vararg, node.args.kwarg) if star is not None]
        told = all(argument.annotation for argument in arguments if argument.arg not in ("self", "cls"))
        if not (told and node.returns) and (not node.name.startswith("_") or node.name == "__init__"):
            bare.add(node.name)
    assert bare == set()


@each_source
def test_no_assert_guards_against_callers(path: Path) -> None:
    assert not [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Assert)]


def test_only_families_ask_which_family() -> None:
    asking = re.compile(r"\bif\b.*\bfamily(\.name)?\s*(==|!=|\bin\b)")
    for path in OUR_SOURCES:
        if "families" not in path.relative_to(ROOT).parts:
            found = [line for line in path.read_text(encoding="utf-8").splitlines() if asking.search(line)]
            assert not found, path.name


@pytest.mark.parametrize("package", [OURS, f"{OURS}.errors", f"{OURS}.config", f"{OURS}.concept", "hub_cards"])
def test_importing_is_cheap(package: str) -> None:
    script = f"import sys, {package}; print(sorted({{'torch', 'diffusers', 'transformers', 'PIL'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_type_checkers_see_the_public_names() -> None:
    listed = textual_inversion_ext._MODULE_OF_NAME
    block = next(
        node
        for node in tree_of(ROOT / OURS / "__init__.py").body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == listed
    assert all(alias.asname == alias.name for node in imports for alias in node.names), "`as` marks a name as public"
    assert list(listed) == sorted(listed)
    assert set(textual_inversion_ext.__all__) == {*listed, "__version__"}


@pytest.mark.parametrize("name", textual_inversion_ext._MODULE_OF_NAME)
def test_a_public_name_is_there(name: str) -> None:
    home = importlib.import_module(f"{OURS}.{textual_inversion_ext._MODULE_OF_NAME[name]}")
    assert getattr(textual_inversion_ext, name) is getattr(home, name)
    assert name in dir(textual_inversion_ext)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        _ = textual_inversion_ext.Trainer


def test_every_error_is_a_builtin_too() -> None:
    errors = importlib.import_module(f"{OURS}.errors")
    leaves = [getattr(errors, name) for name in errors.__all__ if name != "TextualInversionError"]
    for leaf in leaves:
        assert issubclass(leaf, errors.TextualInversionError)
        assert leaf.__mro__[2].__module__ == "builtins" or leaf.__bases__[1].__module__ == "builtins"
    assert {name for name in vars(errors) if isinstance(getattr(errors, name), type)} == set(errors.__all__)
