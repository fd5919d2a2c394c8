"""What a user gets: a wheel is built from a copy of the repository and looked into."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import textual_inversion_ext

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("textual_inversion_ext", "hub_cards")
# Everything in the packages that is not Python and meant to be in the wheel; pyproject.toml has the same list.
DATA = (
    "textual_inversion_ext/py.typed",
    "textual_inversion_ext/pocket/CARD.md",
    "textual_inversion_ext/pocket/weights/*",
    "textual_inversion_ext/*/templates/*",
    "hub_cards/py.typed",
    "hub_cards/templates/*",
)
MOST_WEIGHT_BYTES = 16 * 1024 * 1024
NOT_COPIED = (".*", "__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The built wheel. All of the repository is copied first: tests and benchmarks too, and leftovers of an editor."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_COPIED))
    for built in ("build", "dist"):  # of an earlier call; not of packages with such a name further down
        shutil.rmtree(folder / "source" / built, ignore_errors=True)
    (folder / "source" / PACKAGES[0] / "pocket" / "notes.txt").write_text("left here by accident")
    (folder / "source" / PACKAGES[0] / "checkpoint.safetensors").write_bytes(b"left here by accident")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", "dist"]
    environment = {**os.environ, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    result = subprocess.run(
        [*command, "./source"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (file,) = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(file)


def contents(wheel: zipfile.ZipFile) -> set[str]:
    """Names of the wheel's files, its own metadata left out."""
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_it_is_named_after_the_version(wheel: zipfile.ZipFile) -> None:
    assert Path(str(wheel.filename)).name == (
        f"textual_inversion_ext-{textual_inversion_ext.__version__}-py3-none-any.whl"
    )


def test_every_module_is_in(wheel: zipfile.ZipFile) -> None:
    modules = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules == {name for name in contents(wheel) if name.endswith(".py")}


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_nothing_is_in_by_accident(wheel: zipfile.ZipFile) -> None:
    others = {name for name in contents(wheel) if not name.endswith(".py")}
    assert {name for name in others if not any(fnmatch.fnmatch(name, pattern) for pattern in DATA)} == set()
    assert {name.split("/")[0] for name in contents(wheel)} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_may_read_the_package(wheel: zipfile.ZipFile, package: str) -> None:
    assert f"{package}/py.typed" in contents(wheel)


def test_the_pocket_weights_are_in_and_small(wheel: zipfile.ZipFile) -> None:
    prefix = "textual_inversion_ext/pocket/weights/"
    packed = {info.filename: info.file_size for info in wheel.infolist() if info.filename.startswith(prefix)}
    here = (path for path in (ROOT / prefix).rglob("*") if path.is_file())
    assert packed == {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in here}
    assert any(name.endswith(".safetensors") for name in packed)
    assert sum(packed.values()) <= MOST_WEIGHT_BYTES


def test_the_metadata_says_what_is_needed(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode("utf-8"))
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert any(line.startswith("torch") for line in needed)
    assert not any(line.startswith(("torchvision", "pytest", "open_clip")) for line in needed)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"


def test_the_license_and_the_command_are_in(wheel: zipfile.ZipFile) -> None:
    (scripts,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "textual-inversion = textual_inversion_ext.cli.main:main" in wheel.read(scripts).decode("utf-8")
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
