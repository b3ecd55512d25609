"""Tables for people: as text that fits the terminal, and as HTML for a notebook."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import zip_longest

WIDE = 120  # columns, where nothing says how wide it is
GAP, FIRST, NARROWEST = 2, 24, 10  # columns between two, of the first if folded, of others
LITTLE = 16  # columns too many, for which nothing is left out yet
FULL, EMPTY = "█", "░"
MARKS, TREE, INDENT = " ._:/", "│├└ ", "  "


def columns() -> int:
    """Return how wide text may be: as the terminal or `COLUMNS` says, else 120."""
    if os.environ.get("COLUMNS", "").isdigit():
        return max(40, int(os.environ["COLUMNS"]))
    try:
        return max(40, os.get_terminal_size(1).columns)
    except (OSError, ValueError):
        return WIDE


def bar(share: float, width: int = 10) -> str:
    """Return a share as a bar of text.

    >>> bar(0.5, 4)
    '██░░'
    """
    full = round(max(0.0, min(1.0, share)) * width)
    return FULL * full + EMPTY * (width - full)


def as_text(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Iterable[str] = (),
    spare: str = "",
) -> str:
    """Return a table as text that fits the terminal; columns named in `right` hold numbers.

    Where it is much too wide, the `spare` column is left out. Where it still is too wide, what
    stands in the widest columns of text goes on below, indented: no name is cut.

    >>> print(as_text(["name", "n"], [["a", "1"], ["b", "20"]], ["n"]))
    name   n
    a      1
    b     20
    """
    lines = [tuple(headings), *map(tuple, rows)]
    if spare and _widest(lines) > columns() + LITTLE:
        at = headings.index(spare)
        headings = [*headings[:at], *headings[at + 1 :]]
        lines = [(*cells[:at], *cells[at + 1 :]) for cells in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [heading in right for heading in headings]
    room = columns() - GAP * (len(widths) - 1)
    while sum(widths) > room:
        least = [FIRST, *[NARROWEST] * (len(widths) - 1)]
        cuttable = [k for k, n in enumerate(widths) if not sides[k] and n > least[k]]
        if not cuttable:
            break
        widths[max(cuttable, key=widths.__getitem__)] -= 1
    return "\n".join(line for cells in lines for line in _lines(cells, widths, sides))


def _widest(lines: Sequence[Sequence[str]]) -> int:
    """Return how wide a table would be of which nothing goes on below."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return sum(widths) + GAP * (len(widths) - 1)


def _lines(cells: Sequence[str], widths: Sequence[int], sides: Sequence[bool]) -> Iterator[str]:
    """Yield the lines of a row: one, unless a cell is too long."""
    stacks = [folded(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for parts in zip_longest(*stacks, fillvalue=""):
        shown = (
            part.rjust(width) if side else part.ljust(width)
            for part, width, side in zip(parts, widths, sides, strict=True)
        )
        yield (" " * GAP).join(shown).rstrip()


def folded(text: str, width: int) -> list[str]:
    """Return a text as lines of at most `width` characters, broken where a path or words part.

    >>> folded("encoder.layers.3.mlp", 12)
    ['encoder.', '  layers.3.', '  mlp']
    """
    lines, room = list[str](), width
    rest, indent = text, ""
    while len(rest) > room:
        inside = len(rest) - len(rest.lstrip(TREE))  # the lines of a tree are no place to break
        places = (rest.rfind(mark, inside + 1, room + (mark == " ")) for mark in MARKS)
        broken = max(places) + 1
        end = broken if broken > inside + 1 else room
        lines.append(indent + rest[:end].rstrip())
        rest, indent = rest[end:].lstrip(), INDENT
        room = width - len(INDENT)
    return [*lines, indent + rest]


STYLE = "border-collapse:collapse;font-size:90%;font-family:ui-monospace,monospace"
CELL = "padding:2px 10px;border-bottom:1px solid rgba(128,128,128,.3);white-space:pre"


def as_html(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Iterable[str] = (),
    caption: str = "",
) -> str:
    """Return a table as HTML whose colours are those around it, so that it is read dark and light.

    >>> "<td" in as_html(["a"], [["1 < 2"]]) and "1 &lt; 2" in as_html(["a"], [["1 < 2"]])
    True
    """
    sides = ["right" if heading in right else "left" for heading in headings]
    head = _row("th", headings, sides)
    body = "".join(_row("td", row, sides) for row in rows)
    title = f'<caption style="text-align:left">{escape(caption)}</caption>' if caption else ""
    return f'<table style="{STYLE}">{title}<thead>{head}</thead><tbody>{body}</tbody></table>'


def _row(tag: str, cells: Sequence[str], sides: Sequence[str]) -> str:
    shown = "".join(
        f'<{tag} style="{CELL};text-align:{side}">{escape(cell)}</{tag}>'
        for cell, side in zip(cells, sides, strict=True)
    )
    return f"<tr>{shown}</tr>"


def as_notes(lines: Iterable[str]) -> str:
    """Return lines as small paragraphs of HTML."""
    return "".join(f'<div style="font-size:85%">{escape(line)}</div>' for line in lines)
