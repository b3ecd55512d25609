"""Files are written whole or not at all, where users mean them to be."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fxprune.errors import FileError
from fxprune.files import append, atomic_write, check_writable


def written(path: str | os.PathLike[str], text: str = "new") -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "x.pt2").write_text("old")
    (tmp_path / "x.pt2").chmod(0o640)
    written(tmp_path / "x.pt2")
    assert (tmp_path / "x.pt2").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "x.pt2").stat().st_mode) == 0o640
    assert names(tmp_path) == ["x.pt2"]


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here.pt2").symlink_to("there/real.pt2")
    for text in ("first", "second"):  # that the file is not there yet makes no difference
        written(tmp_path / "here.pt2", text)
        assert (tmp_path / "here.pt2").is_symlink()
        assert (tmp_path / "there" / "real.pt2").read_text() == text
    assert names(tmp_path / "there") == ["real.pt2"]


def test_a_device_stays_a_device() -> None:
    before = os.stat(os.devnull)
    written(os.devnull)
    after = os.stat(os.devnull)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "x.pt2"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    written(pipe)
    reader.join()
    assert read == ["new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["x.pt2"]


@pytest.mark.parametrize("to", ["pipe", "file"])
def test_standard_output_is_written_to(to: str, tmp_path: Path) -> None:
    code = (
        "from fxprune.files import atomic_write\n"
        "print('before', flush=True)\n"
        "with atomic_write('/dev/stdout') as temporary: temporary.write_text('new\\n')\n"
        "print('after', flush=True)\n"
    )
    place = tmp_path / "out"
    with place.open("w") as file:
        out = subprocess.PIPE if to == "pipe" else file
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", code], stdout=out, cwd=root, check=True)
    said = done.stdout.decode() if to == "pipe" else place.read_text()
    assert said.split() == ["before", "new", "after"]
    assert names(tmp_path) == ["out"]


def folder(tmp_path: Path) -> str:
    (tmp_path / "x.pt2").mkdir()
    return "is a directory"


def missing(tmp_path: Path) -> str:
    (tmp_path / "x.pt2").symlink_to("no/where.pt2")
    return "there is no folder"


def read_only(tmp_path: Path) -> str:
    (tmp_path / "x.pt2").write_text("old")
    (tmp_path / "x.pt2").chmod(0o444)
    return "it is read-only"


def circle(tmp_path: Path) -> str:
    (tmp_path / "x.pt2").symlink_to("y.pt2")
    (tmp_path / "y.pt2").symlink_to("x.pt2")
    return "its links lead in a circle"


def not_a_folder(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("old")
    (tmp_path / "x.pt2").symlink_to("file/x.pt2")
    return "there is no folder"


REFUSED = [folder, missing, read_only, circle, not_a_folder]


@pytest.mark.parametrize("made", REFUSED)
def test_what_cannot_be_written_is_refused_at_first(made: object, tmp_path: Path) -> None:
    said = made(tmp_path)  # type: ignore[operator]
    before, path = names(tmp_path), tmp_path / "x.pt2"
    with pytest.raises(FileError, match=rf"x\.pt2: .*{said}"):
        check_writable(path)
    with pytest.raises(FileError, match=said), atomic_write(path):
        pytest.fail("the body ran")
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "said"), [("x" * 300, "File name too long"), ("x\0y", "null"), ("", "is a directory")]
)
def test_names_that_are_none(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=said):
        written(tmp_path / name)


def test_a_long_name_is_no_hindrance(tmp_path: Path) -> None:
    written(tmp_path / ("x" * 250 + ".pt2"))
    assert len(names(tmp_path)) == 1


def test_a_body_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "x.pt2").write_text("old")

    def fail() -> None:
        with atomic_write(tmp_path / "x.pt2") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "x.pt2").read_text() == "old"
    assert names(tmp_path) == ["x.pt2"]


def test_a_writer_inside_another_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    def inner(path: Path) -> None:
        with atomic_write(path):
            raise OSError(28, "No space left on device")

    with pytest.raises(FileError) as raised, atomic_write(tmp_path / "x.pt2") as temporary:
        inner(temporary)
    assert str(raised.value).startswith(f"{tmp_path / 'x.pt2'}: cannot be written: No space")
    assert names(tmp_path) == []


def test_the_bytes_are_on_the_disk_before_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    flush, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("flush"), flush(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("move"), replace(a, b)))
    written(tmp_path / "x.pt2")
    assert done == ["flush", "move", "flush"]


def test_a_line_is_added_whole(tmp_path: Path) -> None:
    append(tmp_path / "x", "one\n")
    append(tmp_path / "x", "two\n")
    assert (tmp_path / "x").read_text() == "one\ntwo\n"
    with pytest.raises(FileError, match="cannot be written"):
        append(tmp_path / "no" / "x", "one\n")
