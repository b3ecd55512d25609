"""The commands on ONNX files: compare some, and compact one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fxprune.cli import options
from fxprune.cli.help import under
from fxprune.cli.models import check_output
from fxprune.errors import InputError, SpecError
from fxprune.onnx.limits import RTOL

if TYPE_CHECKING:
    from fxprune.onnx.bench import Facts
    from fxprune.onnx.program import OnnxPass
    from fxprune.onnx.turns import Timing

app = typer.Typer()


@app.command(name="bench", epilog=under("bench"))
def bench_files(
    files: options.Files,
    threads: options.Threads = None,
    batch: options.LeadingAxis = None,
    seconds: options.Seconds = 2.0,
    repeats: options.Repeats = None,
    shape: options.Shape = None,
    as_json: options.Json = False,
) -> None:
    """Compare ONNX files in ONNX Runtime: time, memory, size, parameters and MACs."""
    from fxprune.onnx.bench import bench, common_feeds, facts

    counts, shapes = _threads(threads), _shapes(shape)
    feeds = common_feeds(files, batch, shapes)
    found = bench(
        files, threads=counts, batch=batch, shapes=shapes, seconds=seconds, repeats=repeats
    )
    about = [facts(file, feeds) for file in files]
    inputs = {name: list(array.shape) for name, array in feeds.items()}
    if as_json:
        told = {"inputs": inputs, "files": list(map(asdict, about))}
        print(json.dumps(told | {"timings": list(map(asdict, found))}, indent=1))
        return
    sizes = ", ".join(f"{name}={'x'.join(map(str, dims))}" for name, dims in inputs.items())
    console = Console()
    console.print(_sizes(about, f"inputs {sizes}"), _times(found))
    console.print(
        "Times are medians of runs in turn; a ratio is to the first file in the same round. "
        "Peak memory is that of a process of its own which loads and runs the file on one thread, "
        "less what it held before.",
        style="dim",
    )
    for one in about:
        if one.macs_missing:
            print(f"note: {one.path}: MACs leave out {one.macs_missing} operators of unknown size")


@app.command(name="compact", epilog=under("compact"))
def compact_one(
    file: options.OnnxFile,
    output: options.OnnxOutput,
    passes: options.OnnxPasses = None,
    shape: options.Shape = None,
    rtol: options.Rtol = RTOL,
    as_json: options.Json = False,
) -> None:
    """Make an ONNX file smaller; ONNX Runtime compares it with the old one after each pass."""
    check_output(output, ".onnx")
    from fxprune.onnx.compaction import compact_file

    chosen = None if passes is None else _onnx_passes(passes)
    done = compact_file(file, output, chosen, shapes=_shapes(shape), rtol=rtol)
    if as_json:
        print(json.dumps(asdict(done), indent=1, default=str))
        return
    for step in done.steps:
        print(f"{step.name}: {step.before} -> {step.after} nodes, changed by {step.error:.1e}")
    for note in done.notes:
        print(f"note: {note}")
    print(
        f"wrote {done.path} ({done.bytes_after:,} bytes, {done.nodes_after} nodes; "
        f"before: {done.bytes_before:,} and {done.nodes_before})"
    )


def _onnx_passes(text: str) -> tuple[OnnxPass, ...]:
    """Parse passes over ONNX graphs; raises SpecError for others."""
    from fxprune import api
    from fxprune.onnx.passes import FACT, ORDER

    # a name of another pass is known, and refused for what it is
    chosen: tuple[Any, ...] = api.parse_passes(text)
    for one in chosen:
        if FACT not in one.requires:
            raise SpecError(
                f'--passes: "{one.name}" is no pass over ONNX graphs: {", ".join(ORDER)}'
            )
    return chosen


def _sizes(about: list[Facts], title: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("file", overflow="fold")
    for name in ("MB", "nodes", "parameters", "MMACs", "peak MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in about:
        peak = "?" if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.1f}"
        macs = f"{'≥ ' if one.macs_missing else ''}{one.macs / 1e6:,.2f}"
        held = (f"{one.bytes / 1e6:.2f}", str(one.nodes), f"{one.parameters:,}", macs, peak)
        table.add_row(escape(one.path), *held)
    return table


def _times(found: list[Timing]) -> Table:
    table = Table()
    table.add_column("file", overflow="fold")
    for name in ("threads", "ms", "middle half", "ratio", "middle half"):
        table.add_column(name, justify="right", no_wrap=True)
    for before, one in zip([None, *found], found, strict=False):
        if before is not None and before.threads != one.threads:
            table.add_section()
        spread, ratios = _half(one.low_ms, one.high_ms), _half(one.ratio_low, one.ratio_high)
        cells = (str(one.threads), f"{one.median_ms:.2f}", spread, f"{one.ratio:.2f}", ratios)
        table.add_row(escape(one.path), *cells)
    return table


def _half(low: float, high: float) -> str:
    return f"{low:.2f} … {high:.2f}"


def _threads(text: str | None) -> list[int]:
    """Read `1,4`; raises InputError for what is no list of positive numbers."""
    if text is None:
        return sorted({1, os.cpu_count() or 1})
    counts = _numbers(text)
    if not counts:
        raise InputError(f'--threads "{text}": not a list of positive numbers; write it as 1,4')
    return list(dict.fromkeys(counts))


def _shapes(given: list[str] | None) -> dict[str, tuple[int, ...]]:
    """Read `name=1,3,224,224`; raises InputError for what is not of that form."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in given or ():
        name, equals, sizes = text.rpartition("=")
        numbers = _numbers(sizes)
        if not (equals and name and numbers):
            raise InputError(f'--shape "{text}": write it as name=1,3,224,224')
        shapes[name] = tuple(numbers)
    return shapes


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    right = all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts)
    return list(map(int, parts)) if right else []
