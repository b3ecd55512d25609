"""Tables for people: as text that fits the terminal, and as HTML for a notebook."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape

WIDE = 120  # columns, where nothing says how wide it is
GAP, FIRST, NARROWEST = 2, 24, 8  # columns between two, of the first if cut, of others
FULL, EMPTY = "█", "░"


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
    headings: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()
) -> str:
    """Return a table as text that fits the terminal; columns named in `right` hold numbers.

    Where it is too wide, the widest columns of text are cut in the middle: the end of a path tells
    more than what stands before it.

    >>> print(as_text(["name", "n"], [["a", "1"], ["b", "20"]], ["n"]))
    name   n
    a      1
    b     20
    """
    lines = [tuple(headings), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [heading in right for heading in headings]
    room = columns() - GAP * (len(widths) - 1)
    while sum(widths) > room:
        least = [FIRST, *[NARROWEST] * (len(widths) - 1)]
        cuttable = [k for k, n in enumerate(widths) if not sides[k] and n > least[k]]
        if not cuttable:
            break
        widths[max(cuttable, key=widths.__getitem__)] -= 1
    return "\n".join(_line(cells, widths, sides) for cells in lines)


def _line(cells: Sequence[str], widths: Sequence[int], sides: Sequence[bool]) -> str:
    shown = (
        cut(cell, width).rjust(width) if side else cut(cell, width).ljust(width)
        for cell, width, side in zip(cells, widths, sides, strict=True)
    )
    return (" " * GAP).join(shown).rstrip()


def cut(text: str, width: int) -> str:
    """Return a text of at most `width` characters, cut in the middle where it is longer.

    >>> cut("encoder.layers.3.mlp", 12)
    'encod….3.mlp'
    """
    if len(text) <= width:
        return text
    tail = width // 2
    return f"{text[: width - tail - 1]}…{text[len(text) - tail :]}"


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
