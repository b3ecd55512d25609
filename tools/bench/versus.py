"""Compare our choice and repair with Torch-Pruning's, at equal MACs, before and after repair.

    python tools/bench/accuracy.py --versus torch-pruning --models resnet20 --json v.jsonl

Every tool is given the same checkpoint, the same unlabelled calibration images and, where steps
are asked for, the same training after it; seeds draw other calibration images. Torch-Pruning ranks
by magnitude, uniformly and globally, told heads and ignored layers; its ratio is bisected until
the MACs are those asked for. No tool rounds widths. Columns:

- as cut: what the tool leaves, nothing corrected.
- BN: the same with the statistics of batch norms estimated anew on the calibration images.
- repaired: the same as cut, with `fxprune.repair` instead, on the same images.
- tuned: the repaired (`tp-…`: the one with BN) after the steps of training; empty for none.

Accuracy is in % of the test images; means over the seeds, and the spread (largest − smallest).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

import fashion
import fxprune
from fxprune.loop.fine_tuning import recalibrate

TRIES = 12  # of a bisection
CLOSE = 0.01  # relative: as near to the MACs asked as ours comes
OURS = {
    "obs": {
        "metric": {"name": "obs", "weigh": "outputs"},
        "allocation": {"name": "optimal", "round_to": 1},
    },
    "l2": {"metric": "l2", "allocation": {"name": "uniform", "round_to": 1}},
}
TOOLS = ("obs", "l2", "tp-uniform", "tp-global")
Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """Hold a network, how it is tested, images to calibrate by, and how it is trained."""

    name: str
    model: nn.Module
    test: Callable[[nn.Module], float]
    images: Callable[[int], Sequence[Tensor]]
    tune: Callable[[nn.Module], None] | None = None


def needed() -> None:
    """Exit with what to do where Torch-Pruning is not there."""
    if find_spec("torch_pruning") is None:
        raise SystemExit("versus: Torch-Pruning is not installed: pip install torch-pruning==1.6.1")


def tasks(names: Sequence[str], images: int, steps: int) -> list[Task]:
    """Return the tasks by name, each with so many calibration images."""
    return [
        _photos(images) if name == "mobilenet_v2" else _fashion(name, images, steps)
        for name in names
    ]


def _fashion(name: str, images: int, steps: int) -> Task:
    from accuracy import OPTIMIZERS, Bench, loss

    train, test = fashion.load_data("train"), fashion.load_data("test")
    bench = Bench.of(name, fashion.trained(name)[0], train, test, steps)
    rest = len(train.images) - len(bench.held_out.labels)

    def drawn(seed: int) -> Sequence[Tensor]:
        order = torch.randperm(rest, generator=torch.Generator().manual_seed(seed))
        return train.images[order[:images]].split(128)

    def tune(module: nn.Module) -> None:
        optimizer = OPTIMIZERS[name]
        fxprune.FineTune(batches=bench.train, loss=loss, optimizer=optimizer, recalibrate=False)(
            module
        )

    def tested(module: nn.Module) -> float:
        return fashion.accuracy(module, test)

    return Task(name, bench.model, tested, drawn, tune if steps else None)


def _photos(images: int) -> Task:
    import stamps

    photos, others = stamps.photos(), stamps.others(images)

    def drawn(seed: int) -> Sequence[Tensor]:
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
        return others[order].split(32)

    return Task("mobilenet_v2", stamps.mobilenet(), lambda m: stamps.accuracy(m, photos), drawn)


def macs(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """Return the multiplications of one example."""
    empty = {"allocation": {"name": "uniform", "max_ratio": 0.0}, "objective": {"ratio": 0.0}}
    return fxprune.prune(model, empty, inputs).report.macs_before


def cut(task: Task, tool: str, kept: float, images: Sequence[Tensor]) -> tuple[nn.Module, float]:
    """Return what a tool makes of a network without repair, and the share of MACs that it keeps."""
    inputs = (images[0][:2],)
    if tool in OURS:
        spec = {**OURS[tool], "objective": {"macs": kept}, "repair": "none"}
        slim = fxprune.prune(task.model, spec, inputs, calibrate=images)
        return slim, slim.report.macs_after / slim.report.macs_before
    from rivals import narrowed_by_ratio

    whole, low, high = macs(task.model, inputs), 0.0, 1.0
    found: tuple[nn.Module, float] | None = None
    for _ in range(TRIES):
        ratio = (low + high) / 2
        module = narrowed_by_ratio(task.model, inputs, tool == "tp-global", None, ratio)
        share = macs(module, inputs) / whole
        if found is None or abs(share - kept) < abs(found[1] - kept):
            found = module, share
        if abs(share / kept - 1.0) <= CLOSE:
            break
        low, high = (ratio, high) if share > kept else (low, ratio)
    assert found is not None
    return found


def measured(task: Task, tool: str, kept: float, seed: int) -> Row:
    """Cut, and test with nothing, with batch norms estimated anew, repaired and trained."""
    images, started = task.images(seed), time.process_time()
    row: Row = {"model": task.name, "tool": tool, "kept": kept, "seed": seed}
    module, row["macs"] = cut(task, tool, kept, images)
    row |= {"seconds": time.process_time() - started, "as cut": task.test(module)}
    best = module
    if any(isinstance(one, nn.BatchNorm2d) for one in module.modules()):
        best = copy.deepcopy(module)
        recalibrate(best, images, lambda m, batch: m(batch))
        row["BN"] = task.test(best)
    started = time.process_time()
    mended = fxprune.repair(module, task.model, images, (images[0][:2],))
    row |= {"repair seconds": time.process_time() - started, "repaired": task.test(mended)}
    if task.tune is not None:
        best = mended if tool in OURS else best
        task.tune(best)
        row["tuned"] = task.test(best)
    return row


COLUMNS = ("as cut", "BN", "repaired", "tuned")


def markdown(rows: Sequence[Row]) -> str:
    """Return one table for each network."""
    text = ""
    for model in dict.fromkeys(row["model"] for row in rows):
        text += f"### {model}\n\n| kept | tool | MACs | {' | '.join(COLUMNS)} | s | repair s |\n"
        text += f"| {' | '.join(['---'] * 2 + ['---:'] * (len(COLUMNS) + 3))} |\n"
        mine = [row for row in rows if row["model"] == model]
        for kept, tool in dict.fromkeys((row["kept"], row["tool"]) for row in mine):
            some = [row for row in mine if (row["kept"], row["tool"]) == (kept, tool)]
            cells = [_cell([row[key] for row in some if key in row]) for key in COLUMNS]
            costs = [
                f"{fmean(row[key] for row in some):.0f}" for key in ("seconds", "repair seconds")
            ]
            share = f"{fmean(row['macs'] for row in some):.1%}"
            text += f"| {' | '.join([f'{kept:g}', tool, share, *cells, *costs])} |\n"
        text += "\n"
    return text


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {50 * (max(values) - min(values)):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{spread}"


def compare(options: argparse.Namespace) -> list[Row]:
    """Measure every cell that the file does not hold, and write the tables."""
    needed()
    known = (
        options.json.read_text("utf-8").splitlines()
        if options.json and options.json.exists()
        else []
    )
    rows: list[Row] = [json.loads(line) for line in known]
    done = {(row["model"], row["tool"], row["kept"], row["seed"]) for row in rows}
    for task in tasks(options.models, options.images, options.steps):
        for kept, tool, seed in (
            (k, t, s) for s in range(options.seeds) for k in options.kept for t in TOOLS
        ):
            if (task.name, tool, kept, seed) in done:
                continue
            rows.append(measured(task, tool, kept, seed))
            print(rows[-1], flush=True)
            if options.json:
                with options.json.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(rows[-1]) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(rows), encoding="utf-8")
    return rows
