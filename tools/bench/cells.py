"""Measure the cells of a table: each once, in a process of its own, kept in a file of JSON lines.

A file that holds a cell already is not asked for it again, so that a run that was killed goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import exp, log
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Verdict = tuple[bool, str]  # whether a requirement is met, and the numbers
Key = Callable[[Row], tuple[Any, ...]]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def known(path: Path | None, key: Key) -> dict[tuple[Any, ...], Row]:
    """Return the rows that a file holds; half a line, as a killed run leaves, is cut off."""
    if path is None or not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    rows = map(json.loads, whole.splitlines())
    return {key(row): row for row in rows}


def measured(
    wanted: Iterable[Row], path: Path | None, key: Key, measure: Callable[[Row], Row]
) -> Iterator[Row]:
    """Yield a row for each cell: what the file holds, else what is measured and added to it."""
    held = known(path, key)
    for cell in wanted:
        row = held.get(key(cell))
        if row is None:
            row = cell | measure(cell)
            if path is not None:
                with path.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
        yield row


def apart(script: str, cell: Row, timeout: float, cache: str | None = None) -> Row:
    """Measure a cell in a new process of one thread: `script --worker CELL` prints the row last.

    A `cache` is where that process keeps what programs keep for their next run.
    """
    call = [sys.executable, script, "--worker", json.dumps(cell)]
    environment = os.environ | dict.fromkeys(THREADS, "1")
    if cache is not None:
        environment |= dict.fromkeys(("XDG_CACHE_HOME", "FXPRUNE_CACHE"), cache)
    with tempfile.TemporaryFile("w+") as said:
        try:
            done = subprocess.run(
                call,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                timeout=timeout,
                env=environment,
                check=False,
            )
            found: Row = json.loads(done.stdout.splitlines()[-1])
            return found
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {timeout:.0f} s"}
        except (IndexError, ValueError):
            said.seek(0)
            last = [line for line in said.read().splitlines() if line.strip()][-1:]
            status = f"ended with status {done.returncode}"
            return {"failed": " ".join([status, *last])[:200]}


def mean(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return exp(sum(map(log, values)) / len(values)) if values else float("nan")


def listed(verdicts: Iterable[Verdict]) -> str:
    """Return the verdicts as a list in Markdown."""
    return "".join(f"- {'PASS' if met else 'FAIL'}: {text}\n" for met, text in verdicts)


def told(verdicts: Iterable[Verdict], say: Callable[[str], None] = print) -> int:
    """Say each verdict; return the exit status."""
    checks = list(verdicts)
    for met, text in checks:
        say(f"{'PASS' if met else 'FAIL'}  {text}")
    return int(not all(met for met, _ in checks))


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; all columns but the first stand on the right."""
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
