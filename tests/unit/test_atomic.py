"""Whole files or none: disk full, killed on the way, no permission."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from textual_inversion_ext.atomic import atomic_folder, atomic_write
from textual_inversion_ext.errors import DataError, StorageError, TextualInversionError

posix_only = pytest.mark.skipif(os.name == "nt", reason="limits and signals of POSIX")

# A file may not grow beyond 4 KiB: the kernel refuses the write part-way, as a full disk does.
SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from textual_inversion_ext.atomic import atomic_folder, atomic_write
from textual_inversion_ext.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
target = Path(sys.argv[1])
try:
    if sys.argv[2] == "file":
        atomic_write(target, bytes(100_000))
    else:
        with atomic_folder(target) as folder:
            (folder / "fits").write_bytes(bytes(10))
            (folder / "too large").write_bytes(bytes(100_000))
except StorageError as error:
    print(error)
    sys.exit(error.errno)
"""

# Stops half-way through a write for as long as it takes to be killed.
STUCK = """
import sys, time
from pathlib import Path
from textual_inversion_ext import atomic
target = Path(sys.argv[1])
def wait(path: Path) -> None:
    print("half-way", flush=True)
    time.sleep(60)
if sys.argv[2] == "file":
    atomic.os.fsync = wait
    atomic.atomic_write(target, "new" * 1000)
else:
    with atomic.atomic_folder(target) as folder:
        (folder / "state").write_text("new")
        wait(folder)
"""


def run(script: str, target: Path, kind: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, str(target), kind]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [b"", b"\x00\xff", "", "twö\r\nlines\n"])
def test_what_is_written_is_read(tmp_path: Path, content: bytes | str) -> None:
    target = tmp_path / "deep" / "er" / "file"
    atomic_write(target, content)
    assert target.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names_in(target.parent) == ["file"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("a much longer old content")
    atomic_write(str(target), "new")
    assert target.read_text() == "new"


@posix_only
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    target, plain = tmp_path / "file", tmp_path / "plain"
    atomic_write(target, "x")
    plain.write_text("x")
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    target = tmp_path / ("ä" * 127)
    atomic_write(target, "x")
    assert target.read_text() == "x"


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    atomic_write("file", "x")
    with atomic_folder("folder"):
        pass
    assert names_in(tmp_path) == ["file", "folder"]


def test_a_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "checkpoint-5"
    with atomic_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "state").write_text("five")
        assert not target.exists()
    assert (target / "inner" / "state").read_text() == "five"
    assert names_in(target.parent) == ["checkpoint-5"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint-5"
    target.mkdir()
    (target / "old").write_text("old")
    with atomic_folder(target) as folder:
        (folder / "new").write_text("new")
        assert names_in(target) == ["old"]
    assert names_in(target) == ["new"]
    assert names_in(tmp_path) == ["checkpoint-5"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, FileNotFoundError, DataError])
def test_an_error_in_the_block_passes_and_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "checkpoint-5"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(error), atomic_folder(target) as folder:
        (folder / "new").write_text("new")
        raise error
    assert names_in(target) == ["old"]
    assert names_in(tmp_path) == ["checkpoint-5"]


@posix_only
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk(tmp_path: Path, kind: str, old: bool) -> None:
    target = tmp_path / "target"
    if old and kind == "file":
        target.write_text("old")
    elif old:
        target.mkdir()
        (target / "old").write_text("old")
    result = run(SMALL_DISK, target, kind)
    assert result.returncode == errno.EFBIG, result.stderr
    assert str(target) in result.stdout
    assert "Nothing there was changed" in result.stdout
    assert names_in(tmp_path) == (["target"] if old else [])
    if old and kind == "file":
        assert target.read_text() == "old"
    elif old:
        assert names_in(target) == ["old"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is one of Linux")
def test_the_message_of_a_full_disk_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="the disk is full; free some space") as caught,
        atomic_folder(tmp_path / "a"),
    ):
        Path("/dev/full").write_text("x")
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, TextualInversionError)
    assert isinstance(caught.value.__cause__, OSError)


@posix_only
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_on_the_way(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("old")
    else:
        target.mkdir()
        (target / "state").write_text("old")
    command = [sys.executable, "-c", STUCK, str(target), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half-way\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert (target if kind == "file" else target / "state").read_text() == "old"
    rests = [name for name in names_in(tmp_path) if name != "target"]
    assert all(name.startswith(".target.") and name.endswith(".partial") for name in rests)


@posix_only
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_where_a_folder_is_needed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(StorageError, match="is a file where a folder is needed"):
        if kind == "file":
            atomic_write(tmp_path / "file" / "x", "new")
        else:
            with atomic_folder(tmp_path / "file"):
                pass
    assert (tmp_path / "file").read_text() == "old"
    assert names_in(tmp_path) == ["file"]


def test_a_folder_where_a_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="Nothing there was changed"):
        atomic_write(tmp_path / "folder", "new")
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="you may not write there"):
        atomic_write(tmp_path / "file", "new")


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    script = (
        "import sys\nfrom textual_inversion_ext.atomic import atomic_write\n"
        "for n in range(100): atomic_write(sys.argv[1], str(n % 10) * 200_000)\n"
    )
    atomic_write(target, "0" * 200_000)
    seen = set()
    with subprocess.Popen([sys.executable, "-c", script, str(target)]) as process:
        while process.poll() is None:
            text = target.read_text()
            seen.add((len(text), len(set(text))))
            time.sleep(0.001)
    assert process.returncode == 0
    assert seen == {(200_000, 1)}
