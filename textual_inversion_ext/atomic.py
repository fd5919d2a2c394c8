"""Files and folders that are either the old ones or the new ones, never half of either.

Content is written beside its target under a hidden temporary name, flushed to the disk, and renamed over the target. A
process killed on the way leaves the target as it was, and at worst a hidden `.NAME.xxxxxxxx.partial` beside it.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from textual_inversion_ext.errors import StorageError, TextualInversionError

__all__ = ["atomic_folder", "atomic_write"]

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another output folder",
    errno.EDQUOT: "your quota on this disk is used up; free some space or choose another output folder",
    errno.EFBIG: "the file is larger than this disk or this process may write (see `ulimit -f`)",
    errno.EROFS: "the file system is read-only; choose another output folder",
    errno.EACCES: "you may not write there; choose another output folder or change its permissions",
    errno.EPERM: "you may not write there; choose another output folder or change its permissions",
    errno.EIO: "the disk reports a fault; check it, and write to another one",
    errno.ENOTDIR: "a part of this path is a file where a folder is needed; remove it or choose another output folder",
    errno.EEXIST: "a part of this path is a file where a folder is needed; remove it or choose another output folder",
    errno.EISDIR: "there is a folder of that name; remove it or choose another output folder",
}
# Inside `atomic_folder` foreign code runs too; of its errors only these can be about nothing but the target's disk.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def atomic_write(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a whole file, or nothing.

    Missing parent folders are made. When this returns, the content is on the disk.

    Args:
        path: File to create or replace.
        content: All of its content; a string is written as UTF-8, its line ends as they are.

    Raises:
        StorageError: If the system refuses the write; the old file, if any, is untouched.
    """
    target = Path(path).absolute()
    partial = _partial_beside(target)
    data = content.encode("utf-8") if isinstance(content, str) else content
    with _cleared(partial), _reported(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
    _sync_names(target.parent)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder that appears at its place only when the block ends well.

    A folder that stands there already is replaced. No system renames one full folder over another, so that replacing
    takes two renames: a process killed between them leaves the old folder as `.NAME.xxxxxxxx.partial`.

    Args:
        path: Folder to create or replace; missing parents are made.

    Yields:
        An empty temporary folder beside `path`, to be filled.

    Raises:
        StorageError: If the system refuses a write, in the block or here; the old folder, if any, is untouched.
    """
    target = Path(path).absolute()
    partial, retired = _partial_beside(target), _partial_beside(target)
    with _cleared(partial):
        with _reported(target):
            partial.mkdir(parents=True)
        with _reported(target, _DISK_ERRORS):
            yield partial
        with _reported(target):
            _sync_tree(partial)
            _exchange(partial, target, retired)
    _sync_names(target.parent)


@contextmanager
def _reported(target: Path, numbers: Collection[int] | None = None) -> Iterator[None]:
    """Turn the system's refusals (all of them, or those of these `errno` numbers) into a `StorageError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TextualInversionError) or (numbers is not None and error.errno not in numbers):
            raise
        cause = error.strerror or str(error)
        advice = _ADVICE.get(error.errno or 0, "check the path and the disk, or choose another output folder")
        report = StorageError(f"cannot write {target}: {cause}: {advice}. Nothing there was changed.")
        report.errno = error.errno
        raise report from error


@contextmanager
def _cleared(partial: Path) -> Iterator[None]:
    """Remove a temporary file or folder in the end, whatever happened."""
    try:
        yield
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _exchange(partial: Path, target: Path, retired: Path) -> None:
    """Rename `partial` to `target`, moving a folder that stands there out of the way and back if that fails."""
    replaces = target.is_dir() and not target.is_symlink()
    if replaces:
        os.rename(target, retired)
    try:
        os.rename(partial, target)
    except BaseException:  # Ctrl-C too: it must not leave the place empty
        if replaces:
            os.rename(retired, target)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _partial_beside(target: Path) -> Path:
    """Name a new temporary sibling; the same folder, because a rename is atomic only within one file system."""
    # The random part keeps two processes that write the same target from writing into each other's file. `tempfile`
    # would do the same but makes files that only their owner may read. Names end at 255 bytes: 50 characters of any
    # script leave room for the additions.
    return target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}.partial")


def _sync_tree(folder: Path) -> None:
    """Flush every file below a folder, and the folders themselves."""
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place, name))
        _sync_names(Path(place))


def _sync_names(folder: Path) -> None:
    """Flush a folder's list of names, where the file system can."""
    # Several network file systems refuse this; what was written is in place whether or not it succeeds.
    with suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    if os.name == "nt":  # Windows flushes neither folders nor files opened for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
