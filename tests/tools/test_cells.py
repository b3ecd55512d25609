"""The cells of a benchmark: each measured once, apart, and kept in a file that can be cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import cells


def key(row: cells.Row) -> tuple[Any, ...]:
    return (row["n"],)


def square(cell: cells.Row) -> cells.Row:
    return {"square": cell["n"] ** 2}


def never(cell: cells.Row) -> cells.Row:
    raise AssertionError(f"measured {cell}")


def test_what_the_file_holds_is_not_measured_again(tmp_path: Path) -> None:
    file, wanted = tmp_path / "cells.jsonl", [{"n": 2}, {"n": 3}]
    first = list(cells.measured(wanted, file, key, square))
    assert first == [{"n": 2, "square": 4}, {"n": 3, "square": 9}]
    assert list(cells.measured(wanted, file, key, never)) == first
    assert [json.loads(line) for line in file.read_text().splitlines()] == first


def test_half_a_line_is_measured_again(tmp_path: Path) -> None:
    file, wanted = tmp_path / "cells.jsonl", [{"n": 2}, {"n": 3}]
    whole = list(cells.measured(wanted, file, key, square))
    file.write_text(file.read_text()[:-7])
    asked: list[int] = []

    def noted(cell: cells.Row) -> cells.Row:
        asked.append(cell["n"])
        return square(cell)

    assert list(cells.measured(wanted, file, key, noted)) == whole
    assert asked == [3]
    assert list(cells.measured(wanted, file, key, never)) == whole


def test_without_a_file_nothing_is_kept() -> None:
    assert list(cells.measured([{"n": 1}], None, key, square)) == [{"n": 1, "square": 1}]


SCRIPTS = {
    "a row": ("print('noise'); print(json.dumps({'got': cell['n']}))", {"got": 5}),
    "the environment": (
        "print(json.dumps([os.environ['OMP_NUM_THREADS'], os.environ['XDG_CACHE_HOME']]))",
        ["1", "kept"],
    ),
    "an error": ("raise ValueError('no such thing')", "ended with status 1 ValueError: no such"),
    "nothing": ("sys.exit(3)", "ended with status 3"),
    "no end": ("import time; time.sleep(60)", "not done after 2 s"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_cell_apart(name: str, tmp_path: Path) -> None:
    body, expected = SCRIPTS[name]
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, sys\nassert sys.argv[1] == '--worker'\n"
        f"cell = json.loads(sys.argv[2])\n{body}\n"
    )
    row = cells.apart(str(script), {"n": 5}, 2.0 if name == "no end" else 1000.0, "kept")
    if isinstance(expected, str):
        assert row["failed"].startswith(expected)
        assert "\n" not in row["failed"]
    else:
        assert row == expected


def test_numbers_and_tables() -> None:
    assert cells.mean([1.0, 4.0]) == pytest.approx(2.0)
    assert cells.mean([]) != cells.mean([])
    assert cells.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |\n"
