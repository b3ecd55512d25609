"""Compare the accuracy that tools keep at one measured latency: same checkpoint, data and file.

    python tools/bench/equal_latency.py --json equal.jsonl --markdown equal.md

The networks are ResNet-20 and a small ViT trained on Fashion-MNIST (`fashion.py`) and MobileNetV2
with its ImageNet weights (`stamps.py`, 62 photos). Each cell is one tool on one network at one
share of the original's latency in ONNX Runtime: one thread, one image, ONNX files timed in turn
with the original. All judge by the magnitude of weights.

- optimal, uniform, global: fxprune, with the latency as its objective.
- tp-uniform, tp-global: Torch-Pruning 1.6.1, told heads and classifier; its ratio is bisected until
  the exported file takes the share that was asked, at widths that are multiples of 8, else of 4,
  else any.
- onnxsim: `apply_structured_pruning` and head pruning of onnxsim 0.8.1, bisected likewise.

`ratio` is measured once more at last, with the middle half of the rounds; where it is over 3 % off
the goal the row is marked and counts in no verdict. The accuracies, on test images that nothing
else has looked at: `pruned`, as the tool left it; `BN`, after the statistics of batch norms are
estimated anew on the same batches, by the same code, for every tool; `tuned`, after the same few
steps of training, and BN again. ViT has no batch norm. What onnxsim prunes has its norms folded
away: its channels are told from the file and cut out of the PyTorch module, which must then give
the file's numbers.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxprune
from cells import Row, apart, listed, measured, table, told
from equal_tasks import TASKS, Task
from fxprune.errors import FxpruneError, first_line
from fxprune.onnx.bench import common_feeds
from fxprune.onnx.costs import costs
from fxprune.onnx.reading import read
from fxprune.onnx.sessions import open_session
from rivals import TOLERANCE, Clock, Pruned, onnxsim, torch_pruning

# ---- tools ---------------------------------------------------------------------------------------


def ours(task: Task, kept: float, clock: Clock, folder: Path, allocation: str) -> Pruned:
    """Prune with fxprune, a latency being its objective."""
    latency = {"latency": kept, "device": "ort-cpu", "threads": 1, "batch": 1}
    spec = {"metric": "l2", "allocation": allocation, "objective": latency}
    slim = fxprune.prune(task.model, spec, task.inputs)
    path = folder / "pruned.onnx"
    fxprune.export_onnx(slim, path)
    return Pruned(path, slim, "" if slim.report.latency.met else "said to miss")


def theirs(task: Task, kept: float, clock: Clock, folder: Path, whole: bool) -> Pruned:
    """Prune with Torch-Pruning."""
    return torch_pruning(task.model, task.inputs, kept, clock, folder, whole)


def simplified(task: Task, kept: float, clock: Clock, folder: Path) -> Pruned:
    """Prune with onnxsim."""
    return onnxsim(task.model, task.inputs, kept, clock, folder)


METHODS: dict[str, Callable[[Task, float, Clock, Path], Pruned]] = {
    "optimal": partial(ours, allocation="optimal"),
    "uniform": partial(ours, allocation="uniform"),
    "global": partial(ours, allocation="global"),
    "tp-uniform": partial(theirs, whole=False),
    "tp-global": partial(theirs, whole=True),
    "onnxsim": simplified,
}


# ---- one cell ------------------------------------------------------------------------------------


class Session(nn.Module):
    """Run an ONNX file as a module, for tools that make nothing else."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = open_session(path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        name = self.session.get_inputs()[0].name
        return torch.from_numpy(self.session.run(None, {name: x.numpy()})[0])


def measure(task: Task, kept: float, method: str, seconds: float, steps: int) -> Row:
    """Prune with one tool to one share of latency; time and test what it made."""
    torch.manual_seed(0)
    row: Row = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clock = Clock(folder / "original.onnx", seconds)
        try:
            fxprune.export_onnx(task.model, clock.original, task.inputs)
            made = METHODS[method](task, kept, clock, folder)
            row["seconds"] = time.perf_counter() - began
            row["ratio"], row["ratio_low"], row["ratio_high"] = clock.ratio(made.path, times=3.0)
            row |= sizes(clock.original, made.path) | {"note": made.note}
            return row | accuracies(task, made, steps)
        except FxpruneError as error:
            return row | {"failed": first_line(error)}
        except Exception as error:  # whatever another tool raises is its result
            traceback.print_exc()
            return row | {"failed": f"{type(error).__name__}: {first_line(error)}"[:200]}


def sizes(original: Path, pruned: Path) -> Row:
    """Return the shares of MACs and parameters that are kept."""
    feeds = common_feeds([original, pruned], 1)
    shapes = {name: array.shape for name, array in feeds.items()}
    before, after = (costs(read(path, weights=False), shapes) for path in (original, pruned))
    return {"macs": after.macs / before.macs, "params": after.parameters / before.parameters}


def accuracies(task: Task, made: Pruned, steps: int) -> Row:
    """Test what a tool made, with its norms estimated anew, and after the same few steps."""
    row: Row = {"original": task.test(task.model)}
    if made.module is None:
        return row | {"pruned": task.test(Session(made.path))}
    row["pruned"] = task.test(made.module)
    module = copy.deepcopy(made.module)
    if any(isinstance(one, nn.BatchNorm2d) for one in module.modules()):
        task.estimate(module)
        row["bn"] = task.test(module)
    if steps:
        module = copy.deepcopy(made.module)
        task.tune(module)
        task.estimate(module)
        row["tuned"] = task.test(module.eval())
    return row


# ---- the verdicts and the tables -----------------------------------------------------------------

HEADINGS = ("tool", "ratio", "spread", "MACs", "params", "pruned", "BN", "tuned", "s", "note")


def met(row: Row) -> bool:
    """Tell whether the latency that was measured at last is the one that was asked."""
    return "failed" not in row and abs(row["ratio"] / row["kept"] - 1.0) <= TOLERANCE


def groups(rows: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    """Return the rows of every network and share."""
    found: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        found.setdefault((row["task"], row["kept"]), []).append(row)
    return found


def verdicts(rows: Sequence[Row]) -> Iterator[tuple[bool, str]]:
    """Return whether `optimal` keeps at least the accuracy of each other tool, and the numbers."""
    for (task, kept), some in groups(rows).items():
        by = {row["method"]: row for row in some if met(row)}
        mine = by.pop("optimal", None)
        if mine is None:
            yield False, f"{task} at {kept:g}: optimal is not there, or not at this latency"
            continue
        for column, said in (("pruned", "as left"), ("bn", "after BN"), ("tuned", "tuned")):
            theirs = {name: row[column] for name, row in by.items() if column in row}
            if column not in mine or not theirs:
                continue
            best = max(theirs, key=theirs.__getitem__)
            yield (
                mine[column] >= theirs[best],
                f"{task} at {kept:g}, {said}: optimal {mine[column]:.2%}, the best other is "
                f"{best} with {theirs[best]:.2%}",
            )


def cells(row: Row) -> list[str]:
    """Return the cells of one measurement."""
    if "failed" in row:
        return [row["method"], f"failed: {row['failed']}", *[""] * (len(HEADINGS) - 2)]
    mark = "" if met(row) else " ✗"
    line = [row["method"], f"{row['ratio']:.3f}{mark}"]
    line += [f"{row['ratio_low']:.3f} … {row['ratio_high']:.3f}"]
    line += [f"{row['macs']:.1%}", f"{row['params']:.1%}"]
    line += [f"{row[one]:.2%}" if one in row else "" for one in ("pruned", "bn", "tuned")]
    return [*line, f"{row['seconds']:.0f}", row["note"]]


def markdown(rows: Sequence[Row]) -> str:
    """Return a table for every network and share, and the verdicts."""
    text = ""
    for (task, kept), some in groups(rows).items():
        before = next((row["original"] for row in some if "original" in row), float("nan"))
        text += f"### {task}, {kept:g} of the latency: {before:.2%} before\n\n"
        text += table(HEADINGS, map(cells, some)) + "\n"
    text += f"✗: more than {TOLERANCE:.0%} off the latency that was asked.\n\n"
    return text + listed(verdicts(rows))


def key(row: Row) -> tuple[Any, ...]:
    """Return what makes a cell another one."""
    return row["task"], row["kept"], row["method"], row["steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", default=",".join(TASKS), help="by commas")
    parser.add_argument("--kept", default="0.5,0.35", help="shares of the latency, by commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="by commas")
    parser.add_argument("--steps", type=int, default=60, help="of training; 0 leaves it out")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing a file once")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds that a cell has")
    parser.add_argument("--json", type=Path, help="a line a cell; those it holds are not repeated")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        cell = json.loads(options.worker)
        task = TASKS[cell["task"]](cell["steps"])
        row = measure(task, cell["kept"], cell["method"], cell["seconds"], cell["steps"])
        print(json.dumps(row))
        return
    tasks, methods = options.tasks.split(","), options.methods.split(",")
    for name, given, legal in (("tasks", tasks, TASKS), ("methods", methods, METHODS)):
        if unknown := [one for one in given if one not in legal]:
            parser.error(f"--{name}: unknown: {', '.join(unknown)}; known: {', '.join(legal)}")
    common = {"steps": options.steps, "seconds": options.seconds}
    wanted = [
        {"task": task, "kept": kept, "method": method, **common}
        for task in tasks
        for kept in map(float, options.kept.split(","))
        for method in methods
    ]
    rows: list[Row] = []
    run = partial(apart, __file__, timeout=options.timeout)
    for row in measured(wanted, options.json, key, run):
        rows.append(row)
        print(row["task"], row["kept"], *cells(row), sep=" | ", flush=True)
        if options.markdown:
            options.markdown.write_text(markdown(rows), encoding="utf-8")
    sys.exit(told(verdicts(rows)))


if __name__ == "__main__":
    main()
