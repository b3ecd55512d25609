"""The README is true: its Python runs from top to bottom, and so do its command lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import Done

README = Path(__file__).parents[2] / "README.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Hold one fenced block: its language, its text and the line where the text starts."""

    language: str
    text: str
    line: int


def blocks(*languages: str) -> list[Block]:
    source = README.read_text(encoding="utf-8")
    found = (
        Block(match[1], match[2], source[: match.start(2)].count("\n") + 1)
        for match in FENCE.finditer(source)
    )
    return [block for block in found if block.language in languages]


def commands() -> list[list[str]]:
    lines = (line for block in blocks("sh") for line in block.text.splitlines())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("fxprune ")]


def run_python(block: Block, namespace: dict[str, object]) -> None:
    """Execute a block such that a traceback points at the README's own lines."""
    padded = "\n" * (block.line - 1) + block.text
    exec(compile(padded, str(README), "exec"), namespace)


def write_file(block: Block) -> None:
    """Write a block whose first line is a comment with a file name."""
    name = block.text.splitlines()[0].removeprefix("#").strip()
    Path(name).write_text(block.text, encoding="utf-8")


def test_blocks_are_found() -> None:
    assert len(blocks("python")) >= 5
    assert len(commands()) >= 5


@pytest.mark.usefixtures("told_clock")
def test_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Done]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks("python", "toml"):
        if block.language == "python":
            run_python(block, namespace)
        if block.language == "toml" or re.match(r"# \w+\.py$", block.text.splitlines()[0]):
            write_file(block)
    for arguments in commands():
        assert command(*arguments).status == 0, f"fxprune {shlex.join(arguments)}"


def test_promised_files_exist() -> None:
    links = re.findall(r"\]\((\w[\w./-]*)\)", README.read_text(encoding="utf-8"))
    scripts = re.findall(r"tools/[\w/]+\.\w+", README.read_text(encoding="utf-8"))
    missing = [name for name in {*links, *scripts} if not (README.parent / name).exists()]
    assert not missing
