"""The map is true: ARCHITECTURE.md against the folders, the files and the order of the contract."""

from __future__ import annotations

import ast
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fxprune"
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES, LAYERS, SENTENCES = 12, 20, 3  # at most, at most, at least


def packages(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/__init__.py"))


def standing() -> set[str]:
    """Return what stands directly in fxprune/: `folder/` and `module.py`."""
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    return modules | {f"{path.name}/" for path in packages(PACKAGE)}


def layers() -> list[str]:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    return next(one["layers"] for one in contracts if one["type"] == "layers")


def contract() -> list[str]:
    """Return what the contract puts in order, as paths inside fxprune/."""
    modules = [part.strip() for layer in layers() for part in re.split("[|:]", layer)]
    names = [module.removeprefix("fxprune.") for module in modules]
    return [f"{name}/" if (PACKAGE / name).is_dir() else f"{name}.py" for name in names]


def picture(text: str) -> set[str]:
    """Return the folders and modules of the first fenced block."""
    fenced = text.split("```")
    return set(re.findall(r"\w+/|\w+\.py\b", fenced[1])) if len(fenced) > 1 else set()


def table(text: str) -> list[str]:
    """Return the first cell of every row, in order."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def named(text: str) -> list[str]:
    """Return what stands in backticks or behind a link."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose) + re.findall(r"\]\(([^)#]+)\)", prose)


def absent_paths(text: str) -> list[str]:
    """Return the paths of a text, placeholders left out, that are not there."""
    paths = [one for one in named(text) if re.fullmatch(r"[\w./-]*(\w/|\w\.(py|toml|md|sh))", one)]
    paths += re.findall(r"\b(?:tools|tests)/[\w/]+\.\w+", text)  # commands in fences as well
    real = [one for one in paths if not re.search(r"\b(name|verb|folder)\b", one)]
    return [
        one for one in real if not any((at / one).exists() for at in (PACKAGE, ROOT, ROOT / "docs"))
    ]


def absent_modules(text: str) -> Iterator[str]:
    for one in named(text):
        if re.fullmatch(r"fxprune(\.\w+)+", one):
            try:
                pkgutil.resolve_name(one)
            except (ImportError, AttributeError):
                yield one


def errors(text: str) -> list[str]:
    """Return what a text says of the folders that is not so."""
    rows, drawn, here = table(text), picture(text), standing()
    found = [f"not in the picture: {name}" for name in sorted(here - drawn - {"__main__.py"})]
    found += [f"drawn, and not there: {name}" for name in sorted(drawn - here)]
    found += [f"no row: {name}" for name in sorted(here - set(rows))]
    found += [f"a row, and not there: {name}" for name in rows if name not in here]
    found += [
        f"named, and not there: {name}" for name in (*absent_paths(text), *absent_modules(text))
    ]
    if rows != contract():
        found.append(f"the rows stand in another order than the contract: {contract()}")
    return found


def test_the_map_is_true() -> None:
    assert not errors(TEXT)


SWAPPED = re.sub(r"(\| `loop/`.*\n)(.*\n)", r"\2\1", TEXT)
WRONG = {  # what is wrong: the text, and what is said of it
    "a folder is not drawn": (TEXT.replace(" capture/\n", "\n", 1), "picture: capture/"),
    "a drawn folder is gone": (TEXT.replace(" capture/\n", " trace/\n", 1), "not there: trace/"),
    "a folder has no row": (TEXT.replace("| `rules/` |", "| rules |"), "no row: rules/"),
    "a row has no folder": (TEXT.replace("| `rules/` |", "| `laws/` |"), "not there: laws/"),
    "a file is gone": (TEXT.replace("`loop/steps.py`", "`loop/old.py`"), "not there: loop/old.py"),
    "a module is gone": (TEXT.replace("`fxprune.passes`", "`fxprune.old`"), "there: fxprune.old"),
    "two rows are swapped": (SWAPPED, "another order"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_map_that_is_wrong_is_refused(text: str, message: str) -> None:
    assert any(message in error for error in errors(text))


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_names_files_that_are_there(document: Path) -> None:
    assert not absent_paths(document.read_text(encoding="utf-8"))


def test_a_file_that_is_gone_is_noticed_in_prose_and_in_commands() -> None:
    text = "`cli/old.py`\n```sh\npython tools/bench/old.py\n```\n`passes/verb.py`"
    assert absent_paths(text) == ["cli/old.py", "tools/bench/old.py"]


def test_the_contract_orders_all_that_stands_in_the_package() -> None:
    assert sorted(contract()) == sorted(standing())


def test_few_modules_lie_loose_and_the_layers_are_few() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MODULES
    assert len(layers()) <= LAYERS


def rooms() -> list[Path]:
    tops = packages(PACKAGE)
    return tops + [inner for top in tops for inner in packages(top)]


@pytest.mark.parametrize("room", rooms(), ids=lambda room: room.relative_to(PACKAGE).as_posix())
def test_a_folder_says_what_it_is(room: Path) -> None:
    source = (room / "__init__.py").read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(source)) or ""
    ends = re.findall(r"\w\W*[.!?](?=\s|$)", said)
    assert len(ends) >= SENTENCES, "say what happens here, how, and who uses it"
