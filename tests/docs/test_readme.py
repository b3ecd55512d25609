"""README and documentation are true: their Python runs, and so do their command lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import Done

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
# the manual is read from page to page: what one page defines, the next ones use
MANUAL = [
    DOCS / "quickstart.md",
    *(
        DOCS / "guide" / f"{name}.md"
        for name in (
            *("reports", "own_class", "specification", "repair", "steps", "allocation", "masks"),
            *("latency", "presets", "large", "command_line"),
        )
    ),
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Hold one fenced block: its page, its language, its text and the line where that starts."""

    page: Path
    language: str
    text: str
    line: int

    def run(self, namespace: dict[str, object]) -> None:
        """Execute the block such that a traceback points at the page's own lines."""
        padded = "\n" * (self.line - 1) + self.text
        exec(compile(padded, str(self.page), "exec"), namespace)

    def write(self) -> None:
        """Write a block whose first line is a comment with a file name."""
        name = self.text.splitlines()[0].removeprefix("#").strip()
        Path(name).write_text(self.text, encoding="utf-8")


def blocks(page: Path, *languages: str) -> list[Block]:
    source = page.read_text(encoding="utf-8")
    found = (
        Block(page, match[1], match[2], source[: match.start(2)].count("\n") + 1)
        for match in FENCE.finditer(source)
    )
    return [block for block in found if block.language in languages]


def commands(*pages: Path) -> list[list[str]]:
    texts = (block.text for page in pages for block in blocks(page, "sh"))
    lines = (line for text in texts for line in text.splitlines())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("fxprune ")]


def run_pages(*pages: Path) -> None:
    """Run the Python of some pages in one namespace, and write the files that they name."""
    namespace: dict[str, object] = {"__name__": "manual"}
    for page in pages:
        for block in blocks(page, "python", "toml"):
            if block.language == "python":
                block.run(namespace)
            if block.language == "toml" or re.match(r"# \w+\.py$", block.text.splitlines()[0]):
                block.write()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_blocks_are_found() -> None:
    assert len(blocks(README, "python")) >= 2
    assert len(commands(README)) >= 5
    assert sum(len(blocks(page, "python")) for page in MANUAL) >= 20
    assert len(commands(*MANUAL)) >= 12
    assert {*(DOCS / "guide").glob("*.md")} <= {*MANUAL}


@pytest.mark.parametrize("pages", [[README], MANUAL], ids=["README", "manual"])
@pytest.mark.usefixtures("told_clock", "folder")
def test_pages_run(pages: list[Path], command: Callable[..., Done]) -> None:
    run_pages(*pages)
    for arguments in commands(*pages):
        done = command(*arguments)
        assert done.status == 0, f"fxprune {shlex.join(arguments)}: {done.err}"


GALLERY = blocks(DOCS / "gallery.md", "python")


@pytest.mark.parametrize("block", GALLERY, ids=lambda block: f"line {block.line}")
@pytest.mark.usefixtures("told_clock", "folder")
def test_an_example_of_the_gallery_runs_by_itself(block: Block) -> None:
    block.run({"__name__": "gallery"})


@pytest.mark.usefixtures("folder")
def test_migrating_runs() -> None:
    run_pages(DOCS / "migrating.md")


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


# ---- links ---------------------------------------------------------------------------------------

PAGES = [README, *sorted(DOCS.glob("*.md")), *sorted((DOCS / "guide").glob("*.md"))]


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs write them."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken(page: Path) -> Iterator[str]:
    """Yield the links of a page that lead nowhere."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^):]+)\)", prose):
        path, _, anchor = link.partition("#")
        place = page.parent / path if path else page
        if not place.exists() or (anchor and anchor not in slugs(place)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not list(broken(page))
    scripts = re.findall(r"tools/[\w/]+\.\w+", page.read_text(encoding="utf-8"))
    assert not [name for name in scripts if not (ROOT / name).exists()]


def test_the_site_has_every_page() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [one for one in PAGES[1:] if str(one.relative_to(DOCS)) not in site]
