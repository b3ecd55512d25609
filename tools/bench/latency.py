"""Ask for shares of the latency and measure what comes out: one thread, one example, ONNX Runtime.

    python tools/bench/latency.py --json latency.jsonl --markdown latency.md --repeat

Each cell is one model at one share by one allocation, in a process of its own; a cell that the file
already holds is not measured again. `predicted` and `measured` are what the report says. Then both
ONNX files are written, opened and timed anew, in turn in one process: `ratio` is the median over
the rounds of pruned over original, `spread` the middle half of these, and every verdict looks at
them, not at the report. `silently missed` is a cell whose report says met while that whole middle
half lies more than 3 % off. `conversion` is `ratio` over the share of MACs that is kept: 1 when
MACs turn into time one to one. Weights are random but for MiniLM; accuracy is not looked at.

`solve` are the seconds spent in allocation, `total` those of the whole call of `prune`. With
`--repeat` each cell has a cache folder of its own, and `again` are the seconds of the same call in
a new process, which finds what the first has kept there.

`macs` among the allocations is what other tools offer: the same share of every layer, until that
share of the *MACs* is left. It promises no latency and is there for its conversion.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxprune
from cells import Row, apart, listed, mean, measured, table, told
from fxprune.errors import FxpruneError, first_line
from fxprune.onnx.bench import bench
from latency_models import MODELS

TOLERANCE = 0.03
AIM = 1.1  # the conversion to stay under, on the geometric mean
MACS = "macs"  # the allocation that looks at no latency


# ---- one cell ------------------------------------------------------------------------------------


def measure(
    made: Callable[[], tuple[nn.Module, Any]],
    kept: float,
    allocation: str,
    seconds: float = 5.0,
    again: bool = False,
) -> Row:
    """Prune to a share of the latency; say what was foretold, measured, and measured anew."""
    torch.set_num_threads(1)
    row: Row = {}
    try:
        model, inputs = made()
        slim = timed_prune(model, inputs, kept, allocation, row)
        if again:
            return row
        row |= reported(slim.report)
        return row | anew(model, inputs, slim, seconds)
    except FxpruneError as error:
        return row | {"failed": first_line(error)}


def timed_prune(
    model: nn.Module, inputs: Any, kept: float, allocation: str, row: Row
) -> fxprune.SlimModule:
    """Prune; write down the seconds it took in all and to solve, and the tries that were timed."""
    latency = {"latency": kept, "device": "ort-cpu", "threads": 1, "batch": 1}
    spec = {"metric": "l2", "allocation": allocation, "objective": latency}
    if allocation == MACS:
        spec |= {"allocation": "uniform", "objective": {"macs": kept}}
    said: list[str] = []
    began = time.perf_counter()
    try:
        slim = fxprune.prune(model, spec, inputs, progress=said.append)
        row["solve_s"] = slim.report.seconds["allocate"]
        return slim
    finally:
        row["total_s"] = time.perf_counter() - began
        row["tries"] = sum(text.startswith("latency on ") for text in said)


def reported(report: Any) -> Row:
    """Return what the report says."""
    latency = report.latency
    promised: Row = (
        {}
        if latency is None
        else {
            "requested": latency.requested,
            "predicted": latency.predicted,
            "measured": latency.measured,
            "said_ratio": latency.ratio,
            "said_met": latency.met,
        }
    )
    return promised | {
        "macs": report.macs_after / report.macs_before,
        "params": report.parameters_after / report.parameters_before,
    }


def anew(model: nn.Module, inputs: Any, slim: fxprune.SlimModule, seconds: float) -> Row:
    """Write both ONNX files and time them in turn; trust nothing that was measured before."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "original.onnx", Path(folder) / "pruned.onnx"]
        fxprune.export_onnx(model, files[0], inputs)
        fxprune.export_onnx(slim, files[1])
        first, second = bench(files, threads=(1,), batch=1, seconds=seconds)
    return {
        "original_ms": first.median_ms,
        "pruned_ms": second.median_ms,
        "ratio": second.ratio,
        "ratio_low": second.ratio_low,
        "ratio_high": second.ratio_high,
        "rounds": second.rounds,
    }


def both(cell: Row, timeout: float, repeat: bool) -> Row:
    """Measure a cell in a process of its own, and with `repeat` the same call in another one."""
    if not repeat:
        return apart(__file__, cell, timeout)
    with tempfile.TemporaryDirectory() as cache:
        row = apart(__file__, cell, timeout, cache)
        if "failed" in row:
            return row
        second = apart(__file__, cell | {"again": True}, timeout, cache)
    return row | {"again_s": second.get("total_s"), "again_failed": second.get("failed")}


# ---- the verdicts and the table ------------------------------------------------------------------


def off(row: Row) -> float:
    """Return how far the ratio that was measured anew is from what was asked, relatively."""
    return abs(float(row["ratio"]) / float(row["kept"]) - 1.0)


def silent(row: Row) -> bool:
    """Tell whether a report says met where even the nearer end of the middle half is a miss."""
    low, high = row["ratio_low"] / row["kept"], row["ratio_high"] / row["kept"]
    return bool(row.get("said_met")) and (low > 1.0 + TOLERANCE or high < 1.0 - TOLERANCE)


def conversion(row: Row) -> float:
    """Return the share of time over the share of MACs."""
    return float(row["ratio"]) / float(row["macs"])


def verdicts(rows: Sequence[Row]) -> Iterator[tuple[bool, str]]:
    """Return whether each requirement is met, and the numbers, one allocation after the other."""
    for allocation in dict.fromkeys(row["allocation"] for row in rows):
        mine = [row for row in rows if row["allocation"] == allocation]
        good = [row for row in mine if "failed" not in row]
        value = mean([conversion(row) for row in good])
        if allocation == MACS:
            yield True, f"by MACs alone: conversion {value:.3f} on the geometric mean"
            continue
        near = sum(off(row) <= TOLERANCE for row in good)
        said = sum(row["said_met"] for row in good)
        yield (
            10 * near >= 9 * len(mine),
            f"{allocation}: {near} of {len(mine)} cells within {TOLERANCE:.0%} when measured anew "
            f"({said} by their reports, {len(mine) - len(good)} failed)",
        )
        quiet = [f"{row['model']} at {row['kept']:g}" for row in good if silent(row)]
        text = f"{allocation}: silently missed: {', '.join(quiet) or 'none'}"
        yield not quiet, text
        yield value <= AIM, f"{allocation}: conversion {value:.3f} on the geometric mean"


HEADINGS = ("model", "share", "allocation", "asked ms", "predicted", "measured", "ratio", "spread")
HEADINGS = (*HEADINGS, "met", "MACs", "conversion", "tries", "solve s", "total s", "again s")


def cells(row: Row) -> list[str]:
    """Return the cells of one measurement."""
    left = [row["model"], f"{row['kept']:g}", row["allocation"]]
    if "failed" in row:
        return [*left, f"failed: {row['failed']}", *[""] * (len(HEADINGS) - 4)]
    times = ("requested", "predicted", "measured")
    left += [f"{row[name]:.2f}" if name in row else "" for name in times]
    left += [f"{row['ratio']:.3f}", f"{row['ratio_low']:.3f} … {row['ratio_high']:.3f}"]
    met = "yes" if off(row) <= TOLERANCE else ("SILENTLY NO" if silent(row) else "no")
    left += [met if "said_met" in row else ""]
    left += [f"{row['macs']:.3f}", f"{conversion(row):.3f}", str(row["tries"])]
    again = row.get("again_s")
    left += [f"{row['solve_s']:.1f}", f"{row['total_s']:.1f}"]
    return [*left, "" if again is None else f"{again:.1f}"]


def markdown(rows: Sequence[Row]) -> str:
    """Return the table and the verdicts."""
    return table(HEADINGS, map(cells, rows)) + "\n" + listed(verdicts(rows))


def key(row: Row) -> tuple[Any, ...]:
    """Return what makes a cell another one."""
    return row["model"], row["kept"], row["allocation"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="by commas")
    parser.add_argument("--kept", default="0.5,0.35", help="shares of the latency, by commas")
    parser.add_argument("--allocations", default="optimal,uniform,global,macs", help="by commas")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing anew, for each file")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds that a cell has")
    parser.add_argument("--repeat", action="store_true", help="time the same call once more")
    parser.add_argument("--json", type=Path, help="a line a cell; those it holds are not repeated")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        cell = json.loads(options.worker)
        made, again = MODELS[cell["model"]], bool(cell.get("again"))
        row = measure(made, cell["kept"], cell["allocation"], cell["seconds"], again)
        print(json.dumps(row))
        return
    models = options.models.split(",")
    if unknown := [name for name in models if name not in MODELS]:
        parser.error(f"--models: unknown: {', '.join(unknown)}; known: {', '.join(MODELS)}")
    wanted = [
        {"model": model, "kept": kept, "allocation": one, "seconds": options.seconds}
        for model in models
        for kept in map(float, options.kept.split(","))
        for one in options.allocations.split(",")
    ]
    rows: list[Row] = []
    run = partial(both, timeout=options.timeout, repeat=options.repeat)
    for row in measured(wanted, options.json, key, run):
        rows.append(row)
        print(" | ".join(cells(row)), flush=True)
        if options.markdown:
            options.markdown.write_text(markdown(rows), encoding="utf-8")
    sys.exit(told(verdicts(rows)))


if __name__ == "__main__":
    main()
