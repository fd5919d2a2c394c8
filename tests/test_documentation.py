"""What the pages say can be done: commands parse, flags exist, names can be imported, links lead somewhere."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from textual_inversion_ext.cli.main import make_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md")]
    + [page for name in ("docs", "benchmarks", "textual_inversion_ext") for page in (ROOT / name).rglob("*.md")]
)
OURS = ("textual_inversion_ext", "hub_cards")
FLAGS_OF_OTHERS = {"--num_processes"}  # accelerate's
FLAGS_OF_OTHERS |= {f"--{name}" for name in ("constraint", "editable", "extra", "requirement", "resolution")}
FLAGS_OF_OTHERS |= {"--no-build-isolation", "--no-deps"}  # pip's and uv's
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def commands(page: Path) -> Iterator[list[str]]:
    """What is typed to train, evaluate, ...: the words behind the program's name, without comments."""
    for line in text_of(page).replace("\\\n", " ").splitlines():
        if re.match(r" *(textual-inversion [a-z]|accelerate launch .*train_textual_inversion.py)", line):
            words = [word for word in shlex.split(line, comments=True) if word != "..."]
            script = [place for place, word in enumerate(words) if word.endswith("train_textual_inversion.py")]
            yield ["train", *words[script[0] + 1 :]] if script else words[1:]


def known_flags() -> set[str]:
    """Those of every verb, and of every program beside them."""
    (verbs,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    flags = {flag for verb in verbs.choices.values() for action in verb._actions for flag in action.option_strings}
    for folder in ("benchmarks", "examples", "textual_inversion_ext/pocket/build"):
        for program in (ROOT / folder).glob("*.py"):
            flags.update(re.findall(r'"(--[a-z_]+)"', text_of(program)))
    return flags


@each_page
def test_commands_parse(page: Path) -> None:
    for words in commands(page):
        if words != ["train"]:  # its flags were an ellipsis
            make_parser().parse_args(words)


def test_commands_are_found() -> None:
    found = {words[0] for page in PAGES for words in commands(page)}
    assert found >= {"train", "generate", "evaluate", "compare", "convert", "inspect", "publish"}


@each_page
def test_flags_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text_of(page)))
    assert named <= known_flags() | FLAGS_OF_OTHERS


@each_page
def test_modules_that_are_run_exist(page: Path) -> None:
    for name in set(re.findall(r"python -m ((?:benchmarks|textual_inversion_ext)[\w.]*)", text_of(page))):
        assert importlib.util.find_spec(name) is not None, name
    for path in set(re.findall(r"(?:python|accelerate launch) (examples/\w+\.py)", text_of(page))):
        assert (ROOT / path).is_file(), path


@each_page
def test_names_can_be_imported(page: Path) -> None:
    for language, block in FENCED.findall(text_of(page)):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(OURS):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text_of(page))):
        path, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in headings(target), link


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
