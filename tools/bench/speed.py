"""Measure fxprune against Torch-Pruning 1.6.1: the same models, half of the channels, in turn.

Every measurement is a process of its own with one thread; the two tools take turns, `--repeats`
times, and medians count. Seconds are CPU seconds of the process, so that a busy machine disturbs
little. Building the model and importing the libraries are in neither total, nor is what a tool does
once a process: each first prunes a network of three layers (column `once`: what that took).

What each total holds:

- fxprune: capture (torch.export), analysis (couple, select, score, allocate) and rewrite (shrink,
  restore). `verify` compares the result with the zeroed original on the example inputs, for which
  Torch-Pruning has no counterpart, so it stands in a column of its own. The targets are all kinds
  but whole heads: those Torch-Pruning leaves by default, too. Inputs: a batch of 2.
- Torch-Pruning: init (tracing, grouping) and step (importance, pruning), as its documentation has
  it: group magnitude, the classifier ignored, `num_heads` given for vision transformers, and
  `hidden_dim` set afterwards. Inputs: a batch of 1.

Each result must then run; what crashes, never ends or no longer runs is said in the cell, and that
model counts in no mean, but for one of its own, in which what Torch-Pruning did not finish counts
with the time limit. Memory is the most that the process ever held, imports and model included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from math import exp, log
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cells import listed, told
from cells import table as lines

sys.path.append(str(Path(__file__).parents[1]))  # the zoo's models lie beside zoo.py
from speed_tools import OURS, THEIRS, measure
from zoo_models import cases

GIANTS = ("vit_h_14", "vit_l_*", "regnet_*_128gf", "regnet_*_32gf", "regnet_y_16gf")
LARGE = 25_000_000  # parameters: ResNet-50's size
SECONDS = ("densenet201", "swin_*", "maxvit_t")  # that must take seconds: fewer than PATIENCE
PATIENCE = 60.0

# ---- the comparison ------------------------------------------------------------------------------


@dataclass
class Side:
    """Collect the measurements of one tool on one model."""

    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def problem(self) -> str:
        return next((run["problem"] for run in self.runs if run["problem"]), "")

    def seconds(self, *phases: str) -> float:
        """Return the median over the runs of the sum of some phases."""
        return statistics.median(
            sum(run["seconds"].get(phase, 0.0) for phase in phases) for run in self.runs
        )

    @property
    def limit(self) -> float:
        """Return the seconds after which a measurement was given up, or none."""
        return max((run.get("limit", 0.0) for run in self.runs), default=0.0)

    @property
    def peak(self) -> float:
        return statistics.median(run["peak"] for run in self.runs)


@dataclass
class Pair:
    """Hold both tools' measurements of one model."""

    name: str
    ours: Side = field(default_factory=Side)
    theirs: Side = field(default_factory=Side)

    @property
    def both(self) -> bool:
        return not (self.ours.problem or self.theirs.problem)

    @property
    def total(self) -> float:
        return self.ours.seconds("capture", "analysis", "rewrite")

    @property
    def core(self) -> float:
        return self.ours.seconds("analysis", "rewrite")

    @property
    def rival(self) -> float:
        return self.theirs.seconds("init", "step")


def apart(tool: str, name: str, timeout: float) -> dict[str, Any]:
    """Measure in a new process."""
    call = [sys.executable, __file__, "--worker", tool, "--only", name]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    lost = {"seconds": {}, "peak": 0.0, "before": 0, "after": 0}
    try:
        done = subprocess.run(
            call, capture_output=True, text=True, timeout=timeout, env=os.environ | threads
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    except subprocess.TimeoutExpired:
        return lost | {"problem": f"not done after {timeout:.0f} s", "limit": timeout}
    except (IndexError, ValueError):
        return lost | {"problem": f"ended with status {done.returncode}"}


def compare(name: str, repeats: int, timeout: float) -> Pair:
    """Measure both tools in turn; one that has failed is not tried again."""
    pair = Pair(name)
    for _ in range(repeats):
        for tool, side in ((OURS, pair.ours), (THEIRS, pair.theirs)):
            if not side.problem:
                side.runs.append(apart(tool, name, timeout))
    return pair


def mean(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return exp(sum(map(log, values)) / len(values)) if values else float("nan")


def verdicts(pairs: Sequence[Pair]) -> Iterator[tuple[bool, str]]:
    """Return whether each requirement is met, and the numbers."""
    fair = [pair for pair in pairs if pair.both]
    total = mean([pair.total / pair.rival for pair in fair])
    with_verify = mean([(p.total + p.ours.seconds("verify")) / p.rival for p in fair])
    peak = mean([pair.ours.peak / pair.theirs.peak for pair in fair])
    yield not any(p.ours.problem for p in pairs), "fxprune prunes every model, and each runs"
    yield (
        total <= 1,
        f"total with capture: {total:.2f} of Torch-Pruning's on the geometric mean of {len(fair)} "
        f"models ({with_verify:.2f} with verify; peak memory {peak:.2f})",
    )
    large = [p for p in fair if p.ours.runs[0]["before"] >= LARGE]
    worst = max(large, key=lambda pair: pair.core / pair.rival, default=None)
    if worst is not None:
        share = worst.core / worst.rival
        yield (
            share <= 0.5,
            f"analysis + rewrite: at most {share:.2f} of init + step ({worst.name}) on the "
            f"{len(large)} models of {LARGE / 1e6:.0f} M parameters or more",
        )
    for pair in pairs:
        if any(fnmatchcase(pair.name, pattern) for pattern in SECONDS):
            yield pair.total < PATIENCE, f"{pair.name} in seconds: {pair.total:.1f}"


def remarks(pairs: Sequence[Pair]) -> Iterator[str]:
    """Say what the means leave out: what Torch-Pruning did not finish, and what else it could not.

    A model that it did not finish counts with the time limit, which is less than it would take.
    """
    late = [p for p in pairs if not p.ours.problem and p.theirs.limit]
    if late:
        ratios = [p.total / p.rival for p in pairs if p.both]
        with_late = mean([*ratios, *(p.total / p.theirs.limit for p in late)])
        names = ", ".join(pair.name for pair in late)
        yield (
            f"total with capture, timeouts counted: {with_late:.2f} of Torch-Pruning's on the "
            f"geometric mean of {len(ratios) + len(late)} models, {len(late)} of which it did not "
            f"finish and which count with its time limit: {names}"
        )
    failed = [p.name for p in pairs if p.theirs.problem and not p.theirs.limit]
    if failed:
        yield f"in no mean, since Torch-Pruning's result is of no use: {', '.join(failed)}"


# ---- the table -----------------------------------------------------------------------------------

HEADINGS = (
    *("model", "M params", "capture", "analysis", "rewrite", "total", "verify", "once", "MB"),
    *(
        "TP init",
        "TP step",
        "TP total",
        "TP once",
        "TP MB",
        "total ratio",
        "core ratio",
        "MB ratio",
    ),
)


def cells(pair: Pair) -> list[str]:
    """Return the cells of one model."""
    us, them = pair.ours, pair.theirs
    left = [f"{us.seconds(phase):.2f}" for phase in ("capture", "analysis", "rewrite")]
    left += [f"{pair.total:.2f}", *(f"{us.seconds(one):.2f}" for one in ("verify", "once"))]
    right = [f"{them.seconds('init'):.2f}", f"{them.seconds('step'):.2f}", f"{pair.rival:.2f}"]
    left, right = [*left, f"{us.peak:.0f}"], [*right, f"{them.seconds('once'):.2f}"]
    right += [f"{them.peak:.0f}"]
    row = [pair.name, f"{us.runs[0]['before'] / 1e6:.1f}"]
    row += [us.problem, *[""] * 6] if us.problem else left
    row += [them.problem, *[""] * 4] if them.problem else right
    if not pair.both:
        return [*row, "", "", ""]
    ratios = (pair.total / pair.rival, pair.core / pair.rival, us.peak / them.peak)
    return [*row, *(f"{ratio:.2f}" for ratio in ratios)]


def markdown(pairs: Sequence[Pair]) -> str:
    """Return the table and the verdicts."""
    said = listed(verdicts(pairs)) + "".join(f"- {text}\n" for text in remarks(pairs))
    return lines(HEADINGS, map(cells, pairs)) + "\n" + said


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="shell patterns of models, by commas")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each tool")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds a measurement has")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker, options.only)))
        return
    wanted = options.only.split(",") if options.only else ["*"]
    left_out = () if options.only else GIANTS
    console, pairs = Console(width=None if sys.stdout.isatty() else 200), list[Pair]()
    for name in [case.name for case in cases(["cls"])]:
        chosen = any(fnmatchcase(name, pattern) for pattern in wanted)
        if chosen and not any(fnmatchcase(name, pattern) for pattern in left_out):
            pairs.append(compare(name, options.repeats, options.timeout))
            print(" | ".join(cells(pairs[-1])), flush=True)
            if options.json:
                rows = {pair.name: [pair.ours.runs, pair.theirs.runs] for pair in pairs}
                options.json.write_text(json.dumps(rows, indent=1))
            if options.markdown:
                options.markdown.write_text(markdown(pairs), encoding="utf-8")
    sys.exit(report(console, pairs))


def report(console: Console, pairs: Sequence[Pair]) -> int:
    """Print the table and the verdicts; return the exit status."""
    table = Table(*HEADINGS, title="CPU seconds and MB, medians; ratios below 1 are fxprune's gain")
    for pair in pairs:
        table.add_row(*map(escape, cells(pair)))
    console.print(table)
    status = told(verdicts(pairs), partial(console.print, markup=False))
    for text in remarks(pairs):
        console.print(f"NOTE  {text}", markup=False)
    return status


if __name__ == "__main__":
    main()
