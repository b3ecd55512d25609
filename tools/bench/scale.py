"""What capture and analysis of large decoders cost: on the meta device, by depth and by width.

    python tools/bench/scale.py --json scale.json --markdown table.md

Each decoder is a process of its own: CPU seconds of capture and of analysis, the peak of memory
above what the process held before, and the CPU seconds of `torch.export` alone in another.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from decoders import SHAPES, Shape, on_meta
from fxprune import pipeline
from fxprune.capture import capture
from fxprune.passes import PASSES
from fxprune.targets import Discovery

LAYERS = (2, 8, 32, 80)
IDS = torch.zeros(2, 16, dtype=torch.int64, device="meta")
WHAT = ("capture", "analysis", "export")


def memory(name: str) -> float:
    """Return MiB that the kernel keeps of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call gives, and its CPU seconds."""
    began = time.process_time()
    found = call()
    return found, time.process_time() - began


def export(model: torch.nn.Module) -> Any:
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (IDS,), dynamic_shapes=({0: batch},), strict=False)


def cell(shape: Shape, layers: int, alone: bool) -> dict[str, float]:
    """Return what one decoder costs; a small one is done before, so that everything is loaded."""
    small = on_meta(Shape(64, 4, 2, 64, 64), 1)
    if alone:
        export(small)
        return {"export": timed(lambda: export(on_meta(shape, layers)))[1]}
    analyzed(capture(small, IDS))
    model, idle = on_meta(shape, layers), memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    program, captured = timed(lambda: capture(model, IDS))
    program, coupled = timed(lambda: analyzed(program))
    return {
        "parameters": sum(one.numel() for one in model.parameters()),
        "capture": captured,
        "analysis": coupled,
        "MiB": memory("VmHWM") - idle,
        "coverage": program[Discovery].coverage,
    }


def analyzed(program: Any) -> Any:
    return pipeline.run(program, [PASSES["couple"]()])


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the power of x with which y grows, by least squares of the logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 3)
    2.0
    """
    x, y = ([math.log(max(one, 1e-9)) for one in some] for some in (xs, ys))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mx) ** 2 for a in x)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / over


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown, and under them the exponents."""
    columns = ("width", "layers", "parameters", *WHAT, "MiB", "coverage")
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        shown = (
            *(row["width"], str(row["layers"]), f"{row['parameters'] / 1e9:.2f} G"),
            *(f"{row[name]:.2f}" for name in WHAT),
            *(f"{row['MiB']:.0f}", f"{row['coverage']:.3f}"),
        )
        lines.append(f"| {' | '.join(shown)} |")
    lines.append("")
    for width in dict.fromkeys(row["width"] for row in rows):
        mine = [row for row in rows if row["width"] == width]
        if len(mine) > 1:
            layers = [row["layers"] for row in mine]
            powers = (
                f"{name} {exponent(layers, [row[name] for row in mine]):.2f}" for name in WHAT
            )
            lines.append(f"{width}, in the number of layers: {', '.join(powers)}.")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", nargs="+", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--layers", nargs="+", type=int, default=[*LAYERS])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.cell:
        width, layers, alone = given.cell
        print(json.dumps(cell(SHAPES[width], int(layers), alone == "export")))
        return
    rows = []
    for width in given.widths:
        for layers in given.layers:
            row: dict[str, Any] = {"width": width, "layers": layers}
            for what in ("ours", "export"):
                words = [
                    sys.executable,
                    "-W",
                    "ignore",
                    __file__,
                    "--cell",
                    width,
                    str(layers),
                    what,
                ]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                row |= json.loads(done.stdout.splitlines()[-1])
            print(json.dumps(row), flush=True)
            rows.append(row)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    if given.markdown:
        given.markdown.write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
