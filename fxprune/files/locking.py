"""Let processes that read a file, add to it and write it do so in turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fxprune.files.atomic import unwritable


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock of a file, which another process waits for; a process that dies lets it go.

    The lock is a file of its own, since the file itself is replaced. Raises `FileError` where it
    cannot be made.
    """
    target = Path(os.path.realpath(path))
    place = target.with_name(f".{target.name}.lock")
    try:
        handle = _opened(place)
    except OSError as problem:
        raise unwritable(Path(path), problem) from problem
    try:
        yield
    finally:
        with suppress(OSError):  # while it is held: who waits for it sees that it is gone
            place.unlink()
        os.close(handle)


def _opened(place: Path) -> int:
    """Return the handle of a lock file that is held, and still there."""
    while True:
        handle = _made(place)
        try:
            with suppress(OSError):  # a file system without locks: better unlocked than not at all
                _lock(handle)
            if place.exists() and os.path.samestat(os.fstat(handle), place.stat()):
                return handle
        except FileNotFoundError:  # gone between the two
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _made(place: Path) -> int:
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not place.exists():
            raise
        return os.open(place, os.O_RDONLY)  # another user's, who lets it be read


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_LOCK, 1)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX)
