"""Measure how the analysis grows with depth and with width, and fit the exponent.

Two networks, of residual convolution blocks and of transformer blocks, from 12 to 96 blocks deep
and from 128 to 1024 wide; their weights are on the meta device, for the analysis reads sizes only.
Seconds are CPU seconds of couple (with the discovery of targets), of allocate (half of the MACs,
every width rounded as by default) and of shrink, the least of `--repeats`. The exponent is the
slope of log seconds against log size over the larger half, where fixed costs no longer count: 1 is
linear. Above `LIMIT` the run fails.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fxprune import passes, pipeline
from fxprune.capture import capture
from fxprune.metrics.registry import Scored
from fxprune.program import Program
from fxprune.targets import Selection

DEPTHS = (12, 24, 48, 96)
WIDTHS = (128, 256, 512, 1024)
LIMIT = 1.25  # the largest exponent that passes for linear, noise included
PHASES = ("couple", "allocate", "shrink")


class Residual(nn.Module):
    """A bottleneck of two convolutions with batch norm on a residual stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(width, width // 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU()),
            *(nn.Conv2d(width // 2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def convolutional(depth: int, width: int) -> tuple[nn.Module, torch.Tensor]:
    """Return a residual network and an input for it."""
    blocks = [Residual(width) for _ in range(depth)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(nn.Conv2d(3, width, 3), *blocks, *head), torch.randn(2, 3, 8, 8)


def transformer(depth: int, width: int) -> tuple[nn.Module, torch.Tensor]:
    """Return a pre-norm transformer with heads of 32 and an input for it."""
    block = nn.TransformerEncoderLayer(
        width, width // 32, 4 * width, batch_first=True, norm_first=True
    )
    body = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(16, width), body, nn.Linear(width, 10)), torch.randn(2, 8, 16)


NETWORKS: dict[str, Callable[[int, int], tuple[nn.Module, torch.Tensor]]] = {
    "convolution": convolutional,
    "transformer": transformer,
}


@dataclass(frozen=True)
class Point:
    """Hold the CPU seconds of each phase for one network of one size."""

    network: str
    axis: str
    size: int
    nodes: int
    seconds: dict[str, float]


def captured(network: str, depth: int, width: int) -> Program:
    """Return the captured network, its tensors on the meta device."""
    with torch.device("meta"):
        model, x = NETWORKS[network](depth, width)
    return capture(model, (x,))


def timed(program: Program) -> dict[str, float]:
    """Return the CPU seconds of each phase. Scores are random: there are no weights to score."""
    spent: dict[str, float] = {}
    for name in PHASES:
        options = {"macs": 0.5} if name == "allocate" else {}
        began = time.process_time()
        program = pipeline.run(program, [passes.make(name, options)])
        spent[name] = time.process_time() - began
        if name == "couple":
            random = np.random.default_rng(0)
            scores = tuple(random.random(len(target)) for target in program[Selection].targets)
            program = program.with_(Scored(scores))
    return spent


def measure(network: str, axis: str, size: int, fixed: int, repeats: int) -> Point:
    """Return the least seconds of some runs, the first of which is not counted."""
    depth, width = (size, fixed) if axis == "depth" else (fixed, size)
    program = captured(network, depth, width)
    timed(program)
    runs = [timed(program) for _ in range(repeats)]
    least = {name: min(run[name] for run in runs) for name in PHASES}
    return Point(network, axis, size, len(program.module.graph.nodes), least)


def exponent(points: Sequence[Point], phase: str | None = None) -> float:
    """Return the slope of log seconds against log size over the larger half of the points."""
    large = points[len(points) // 2 - 1 :]
    seconds = [p.seconds[phase] if phase else sum(p.seconds.values()) for p in large]
    slope, _ = np.polyfit([math.log(p.size) for p in large], np.log(seconds), 1)
    return float(slope)


def report(series: Sequence[Sequence[Point]]) -> int:
    """Print every series with its exponents; return the exit status."""
    table = Table("network", "axis", "size", "nodes", *PHASES, "sum", title="CPU seconds")
    for points in series:
        for p in points:
            spent = [f"{s:.3f}" for s in (*p.seconds.values(), sum(p.seconds.values()))]
            table.add_row(p.network, p.axis, str(p.size), str(p.nodes), *spent)
        fits = [f"n^{exponent(points, phase):.2f}" for phase in (*PHASES, None)]
        table.add_row(points[0].network, points[0].axis, "fit", "", *fits, end_section=True)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    met = True
    for points in series:
        slope, good = exponent(points), exponent(points) <= LIMIT
        met &= good
        name = f"{points[0].network} by {points[0].axis}"
        console.print(f"{'PASS' if good else 'FAIL'}  {name}: n^{slope:.2f}, at most n^{LIMIT}")
    return int(not met)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the points to this file too")
    parser.add_argument("--profile", choices=NETWORKS, help="profile the deepest one instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.profile:
        program = captured(options.profile, DEPTHS[-1], 256)
        profile = cProfile.Profile()
        profile.runcall(timed, program)
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        return
    sizes = {"depth": (DEPTHS, 256), "width": (WIDTHS, 12)}
    series = [
        [measure(network, axis, size, fixed, options.repeats) for size in grown]
        for network in NETWORKS
        for axis, (grown, fixed) in sizes.items()
    ]
    if options.json:
        points = [asdict(point) for points in series for point in points]
        options.json.write_text(json.dumps(points, indent=1))
    sys.exit(report(series))


if __name__ == "__main__":
    main()
