"""Write files so that a reader finds the whole new file or the old one, never a part."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from fxprune.errors import FileError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LONGEST = 60  # characters of a name that its temporary file bears too: a name has 255 at most
LINKS = 8  # that lead to a file at most, in looking for one that is open
FAULTS = (OSError, SafetensorError)  # what writers raise; that of safetensors is no OSError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new empty file beside `path`, moved onto it when the body succeeds.

    The temporary file keeps the suffix of `path`, since some writers look at it, and is removed
    when the body raises. Its permissions are those of any new file (the umask applies), or those
    of the file that it replaces. It is on the disk before it is moved, so that a machine that stops
    leaves no part either. A link is followed; a pipe or a device is written into when the body has
    succeeded, and never replaced.

    Raises `FileError`: before the body runs where `path` cannot be written, as `check_writable`
    says, and after it where the disk is full.
    """
    target = Path(path)
    check_writable(target)
    with _streamed(target) if _is_stream(target) else _replaced(target) as temporary:
        try:
            yield temporary
        except FAULTS as problem:
            raise unwritable(target, problem) from problem
        except FileError as problem:  # of a writer that was given the temporary file's name
            if str(temporary) not in str(problem):
                raise
            said = str(problem).replace(str(temporary), str(target))
            raise type(problem)(said) from problem


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """Yield a new file beside `target`, and move it there."""
    # Follow a link to its file: replacing the link itself would leave the file stale.
    final = Path(os.path.realpath(target))
    name = f".{final.stem[:LONGEST]}.{secrets.token_hex(6)}{final.suffix[:LONGEST]}"
    temporary = final.with_name(name)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as problem:
        raise unwritable(target, problem) from problem
    try:
        if final.exists():
            os.chmod(temporary, final.stat().st_mode & 0o777)
        yield temporary
        _flush(temporary)
        os.replace(temporary, final)
        with suppress(OSError):  # not every file system lets a folder be flushed
            _flush(final.parent)
    except OSError as problem:
        raise unwritable(target, problem) from problem
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _streamed(target: Path) -> Iterator[Path]:
    """Yield a new file elsewhere, and write what is in it into a pipe or a device."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / target.name
            temporary.touch()
            yield temporary
            number = _number(target)
            into = os.dup(number) if number is not None else os.open(target, os.O_WRONLY)
            with temporary.open("rb") as file, open(into, "wb", buffering=0) as stream:
                shutil.copyfileobj(file, stream)
    except OSError as problem:
        raise unwritable(target, problem) from problem


def sweep(folder: Path) -> None:
    """Remove what processes that died left of files that they were writing into a folder."""
    for path in folder.iterdir():
        if re.fullmatch(r"\..*\.[0-9a-f]{12}(\.[^.]*)?", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def append(path: str | os.PathLike[str], text: str) -> None:
    """Add text to the end of a file, all of it or none; raises `FileError` where that fails."""
    place = Path(path)
    try:
        with place.open("ab", buffering=0) as file:
            before, data = file.tell(), text.encode()
            try:
                while data:  # a disk may take a part, and say why it takes no more when asked again
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(before)
                raise
    except OSError as problem:
        raise unwritable(place, problem) from problem


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_stream(target: Path) -> bool:
    """Tell a pipe, a device, or what this process has open, from a file on a disk."""
    regular = not target.exists() or stat.S_ISREG(target.stat().st_mode)
    return not regular or _number(target) is not None


def _number(target: Path) -> int | None:
    """Return the number of an open file that a name stands for: 1 for `/dev/stdout`."""
    place = os.path.abspath(target)
    for _ in range(LINKS):
        if found := re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", place):
            return int(found[1])
        if not os.path.islink(place):
            return None
        place = os.path.join(os.path.dirname(place), os.readlink(place))
    return None


def make_folder(path: Path) -> None:
    """Make a folder and those above it; raises `FileError` where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise unwritable(path, problem) from problem


def unwritable(path: Path, problem: Exception) -> FileError:
    """Say in one line why `path` cannot be written."""
    number = getattr(problem, "errno", None)
    if found := re.search(r"\(os error (\d+)\)", str(problem)):  # as safetensors says it
        number = int(found[1])
    reason = os.strerror(number) if number else " ".join(str(problem).split())
    step = "free some space there, or choose another disk" if number in FULL else "name another"
    return FileError(f"{path}: cannot be written: {reason}; {step}")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `FileError` where `path` could not be written, leaving whatever is there."""
    target = Path(path)
    try:
        if target.is_dir():
            raise FileError(f"{target}: is a directory; name a file in it")
        if target.exists():
            _check_file(target)
        if _is_stream(target):
            return
        final = Path(os.path.realpath(target))
        if final.is_symlink():
            raise FileError(f"{target}: cannot be written: its links lead in a circle; remove them")
        folder = final.parent
        if not folder.is_dir():
            raise FileError(
                f"{target}: cannot be written: there is no folder {folder}; make it first"
            )
        if not os.access(folder, os.W_OK):
            raise FileError(f"{target}: cannot be written: choose a directory that you can write")
        with tempfile.TemporaryFile(dir=folder):  # as in /proc, where even root makes no file
            pass
    except (OSError, ValueError) as problem:  # a name too long, a circle of links, a null byte
        raise unwritable(target, problem) from problem


def _check_file(target: Path) -> None:
    """Raise `FileError` for what is there and protected, or takes no bytes."""
    mode = target.stat().st_mode
    if stat.S_ISSOCK(mode):
        raise FileError(f"{target}: cannot be written: it is a socket; name a file")
    # who made a file read-only meant it: replacing it would go round that
    if not mode & 0o222 or not os.access(target, os.W_OK):
        raise FileError(
            f"{target}: cannot be written: it is read-only; make it writable, or name another file"
        )
