"""Write files so that a reader finds the whole new file or the old one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FileError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new empty file beside `path`, moved onto it when the body succeeds.

    The temporary file keeps the suffix of `path`, since some writers look at it, and is removed
    when the body raises. Its permissions are those of any new file (the umask applies), or those
    of the file that it replaces.

    Raises `FileError`, before the body runs, when the directory cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise FileError(f"{target}: is a directory; name a file in it")
    # Follow a link to its file: replacing the link itself would leave the file stale.
    final = Path(os.path.realpath(target))
    temporary = final.with_name(f".{final.stem}.{secrets.token_hex(6)}{final.suffix}")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as problem:
        raise unwritable(target, problem) from problem
    try:
        if final.exists():
            os.chmod(temporary, final.stat().st_mode & 0o777)
        yield temporary
        os.replace(temporary, final)
    except OSError as problem:
        raise unwritable(target, problem) from problem
    finally:
        temporary.unlink(missing_ok=True)


def unwritable(path: Path, problem: OSError) -> FileError:
    """Say in one line why `path` cannot be written."""
    reason = problem.strerror or str(problem)
    return FileError(f"{path}: cannot be written: {reason}; choose a directory that you can write")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `FileError` where `path` could not be written, leaving whatever is there."""
    target = Path(path)
    if target.is_dir():
        raise FileError(f"{target}: is a directory; name a file in it")
    folder = Path(os.path.realpath(target)).parent
    if not folder.is_dir():
        raise FileError(f"{target}: cannot be written: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise FileError(f"{target}: cannot be written: choose a directory that you can write")
