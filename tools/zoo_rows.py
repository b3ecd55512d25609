"""The rows of the zoo's table: what is known of one model, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LIMIT = 1e-4  # the largest relative error: max|a-b| / max|a|
COVERAGE = {False: 0.99, True: 0.97}  # by whether the model has attention heads


@dataclass
class Row:
    """Hold what is known of one model: `refused` is torch.export's own reason, `failed` ours."""

    name: str
    group: str
    capture: float = math.nan  # seconds
    analysis: float = math.nan
    rewrite: float = math.nan
    targets: int = 0
    coverage: float = math.nan
    attention: bool = False
    heads: int = 0  # targets whose units are attention heads
    params: int = 0
    params_after: int = 0
    macs: int = 0
    macs_after: int = 0
    batch: bool = False  # it runs at another batch size: right shapes, finite numbers
    exact: int = 0  # targets that the law was tried on
    masked: float = math.nan  # zeroed original against shrunk, relative
    onnx: float = math.nan  # shrunk against ONNX Runtime, relative
    changed: float = math.nan  # original against shrunk: the law said something
    free: str = ""  # the axes that may have any size, of each input
    fixed: tuple[str, ...] = ()  # why the others may not, and under which conditions
    second: str = ""  # the shapes of the inputs at which the law was tried once more
    masked_second: float = math.nan  # zeroed original against shrunk there, relative
    seconds: float = 0.0
    gigabytes: float = 0.0  # the most memory the process held
    refused: str = ""
    failed: str = ""

    def faults(self, onnx: bool = True) -> list[str]:
        """Return what is wrong with the model's row; torch.export's refusal is no fault of ours."""
        if self.refused:
            return []
        if self.failed:
            return [self.failed]
        least = COVERAGE[self.attention]
        found = [
            (self.coverage >= least, f"coverage {self.coverage:.4f} is below {least:g}"),
            (self.heads or not self.attention, "it has attention, and no head was found"),
            (self.macs_after <= 0.505 * self.macs, "the MACs were not halved"),
            (self.batch, "another batch size gives other shapes, or numbers that are not finite"),
            (self.masked <= LIMIT, f"masked and shrunk differ by {self.masked:.1e}"),
            (not onnx or self.onnx <= LIMIT, f"shrunk and ONNX Runtime differ by {self.onnx:.1e}"),
            (
                not self.second or self.masked_second <= LIMIT,
                f"masked and shrunk differ by {self.masked_second:.1e} at {self.second}",
            ),
            (self.changed > 1e-3, f"pruning changed the output by {self.changed:.1e} only"),
        ]
        return [text for holds, text in found if not holds]


HEADINGS = (
    *("model", "capture s", "analysis s", "rewrite s", "targets", "coverage"),
    *("params M", "MACs G", "free axes", "exact", "masked", "second size", "masked there", "ORT"),
    "verdict",
)


def cells(row: Row, onnx: bool) -> tuple[str, ...]:
    """Return the cells of one row."""
    if row.refused or math.isnan(row.capture):
        verdict = f"not exported: {row.refused}" if row.refused else f"FAIL: {row.failed}"
        return (row.name, *[""] * (len(HEADINGS) - 2), verdict)
    faults = row.faults(onnx)
    return (
        row.name,
        *(f"{s:.2f}" for s in (row.capture, row.analysis, row.rewrite)),
        str(row.targets),
        f"{row.coverage:.2%}",
        f"{row.params / 1e6:.2f} → {row.params_after / 1e6:.2f}",
        f"{row.macs / 1e9:.3f} → {row.macs_after / 1e9:.3f}",
        row.free,
        str(row.exact),
        f"{row.masked:.0e}",
        row.second or "none",
        f"{row.masked_second:.0e}" if row.second else "",
        f"{row.onnx:.0e}",
        f"FAIL: {'; '.join(faults)}" if faults else "holds",
    )


def markdown(rows: Sequence[Row], onnx: bool) -> Iterator[str]:
    """Return the table as lines of Markdown."""
    yield f"| {' | '.join(HEADINGS)} |"
    yield f"|{'|'.join(['---'] * len(HEADINGS))}|"
    for row in rows:
        yield f"| {' | '.join(cells(row, onnx))} |"


def summary(rows: Sequence[Row], onnx: bool) -> str:
    """Return one line about all rows."""
    refused = sum(bool(row.refused) for row in rows)
    failed = sum(bool(row.faults(onnx)) for row in rows)
    seconds = [row.capture + row.analysis + row.rewrite for row in rows if row.targets]
    return (
        f"{len(rows)} models: {len(rows) - refused - failed} hold, {failed} fail, {refused} are "
        f"refused by torch.export itself; {sum(seconds):.0f} s of capture, analysis and rewriting"
    )
