"""Measure what every preset costs in accuracy, on the two networks trained on Fashion-MNIST.

    python tools/bench/accuracy.py --json cells.jsonl --markdown table.md

Each cell is one preset on one network at one level. All are given the same: the batches for
`calibrate`, the loss, `evaluate` on 1,000 images held out of the training set, and as many training
steps in all, divided equally among the calls of `fine_tune` that the schedule makes. Where a preset
follows the original as a teacher, it does so here. Test images are only ever looked at. The
columns of accuracy:

- pruned: right after the last removal. A schedule that trains before that has had some of its
  training steps by then; one that removes once and learns nothing has had none.
- BN: the same, after the statistics of batch norms alone are estimated anew (`recalibrate`).
- tuned: at the end, after all of the training steps.

Levels are shares of MACs, but for blocks (masks save no MACs): there they are shares of parameters;
and for presets that ask for a ratio of units, such as heads: there they are that ratio. What the
library refuses is shown with its reason. Searches get few trials (`TRIALS`). Seconds are CPU
seconds of the process: `prune` all but training and testing, `tune` the training. A cell that the
file already holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import fashion
import fxprune
import versus
from fxprune.errors import CallbackError, FxpruneError, first_line
from fxprune.loop.fine_tuning import recalibrate
from fxprune.spec import Spec, presets

HELD_OUT = 1000  # training images that are only evaluated on, the last ones
CALIBRATION = (16, 64)  # batches, and the images of each
BATCH = 128
SEED = 0
TRIALS: Mapping[str, Mapping[str, Any]] = {  # of each search
    "optuna": {"trials": 20},
    "simulated-annealing": {"trials": 20},
    "netadapt": {"step": 0.2},
    "sensitivity": {"step": 0.3},
}
# how each network is fine-tuned
OPTIMIZERS: Mapping[str, Callable[[Any], torch.optim.Optimizer]] = {
    "resnet20": lambda given: torch.optim.SGD(given, 0.05, 0.9, nesterov=True, weight_decay=5e-4),
    "vit": lambda given: torch.optim.AdamW(given, 1e-3, weight_decay=0.05),
}
NETWORKS = [*fashion.NETWORKS, "mobilenet_v2"]  # the last with --versus only
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Hold what all presets are given on one network, and the test images."""

    name: str
    model: nn.Module
    test: fashion.Split
    held_out: fashion.Split
    calibrate: list[fashion.Split]
    train: list[fashion.Split]

    @classmethod
    def of(
        cls,
        name: str,
        model: nn.Module,
        train: fashion.Split,
        test: fashion.Split,
        steps: int,
        held_out: int = HELD_OUT,
    ) -> Bench:
        """Divide the training images, none of them to two uses."""
        count, size = CALIBRATION
        rest = fashion.Split(train.images[:-held_out], train.labels[:-held_out])
        held = fashion.Split(train.images[-held_out:], train.labels[-held_out:])
        source = torch.Generator().manual_seed(SEED)
        order = torch.randperm(len(rest.labels), generator=source)
        first = order[: count * size].split(size)
        calibrate = [fashion.Split(rest.images[one], rest.labels[one]) for one in first]
        batch = min(BATCH, len(rest.labels))
        drawn = list(fashion.batches(rest, batch, steps, source))
        model = model.eval().to(memory_format=torch.channels_last)
        return cls(name, model, test, held, calibrate, drawn)


def loss(module: nn.Module, batch: fashion.Split) -> torch.Tensor:
    """Return the cross entropy."""
    images, labels = batch
    return F.cross_entropy(module(images), labels)


# ---- one cell ------------------------------------------------------------------------------------


@dataclass
class Tuner:
    """Fine-tune with a share of the steps; test when the last removal has just been made."""

    bench: Bench
    calls: int
    removed: int  # the number of the call, from 0, that follows the last removal
    options: Row = field(default_factory=dict)  # a teacher to follow, where the preset has one
    seconds: float = 0.0
    testing: float = 0.0
    found: Row = field(default_factory=dict)

    def __call__(self, module: nn.Module, number: int) -> None:
        if number == self.removed:
            self.found |= self.tested(module)
        started = time.process_time()
        steps = self.bench.train
        edges = [len(steps) * k // self.calls for k in (number, number + 1)]
        share = steps[edges[0] : edges[1]]
        if share:
            optimizer = OPTIMIZERS.get(self.bench.name, OPTIMIZERS["resnet20"])
            tune = fxprune.FineTune(
                batches=share, loss=loss, optimizer=optimizer, recalibrate=False, **self.options
            )
            tune(module)
            if number >= self.calls - 1:
                recalibrate(module, self.bench.calibrate, loss)
        self.seconds += time.process_time() - started

    def tested(self, module: nn.Module) -> Row:
        """Return the accuracy as it is, and with batch norms estimated anew; change nothing."""
        started = time.process_time()
        row = {"pruned": fashion.accuracy(module, self.bench.test)}
        if any(isinstance(one, nn.BatchNorm2d) for one in module.modules()):
            state = {name: value.clone() for name, value in module.state_dict().items()}
            recalibrate(module, self.bench.calibrate, loss)
            row["bn"] = fashion.accuracy(module, self.bench.test)
            module.load_state_dict(state)
        self.testing += time.process_time() - started
        return row


def asked(preset: str, level: float) -> tuple[Spec, str]:
    """Return the specification of a preset at a level, and what the level is a share of."""
    spec = Spec.of(preset)
    listed = [(one.kind,) if isinstance(one.kind, str) else one.kind for one in spec.target]
    objective, what = {"macs": level}, "MACs"
    if spec.objective.chosen[0] == "ratio":
        objective, what = {"ratio": 1.0 - level}, "units"
    elif any("block" in kinds for kinds in listed):
        objective, what = {"params": level}, "parameters"
    given: Row = {"preset": preset, "objective": objective, "fine_tune": None}  # done by Tuner
    if options := TRIALS.get(spec.allocation.name):
        given["allocation"] = dict(options)
    return Spec.of(given), what


def followed(bench: Bench, preset: str) -> Row:
    """Return how a preset's own training follows the original; nothing where it does not."""
    own = Spec.of(preset).fine_tune
    if own is None:
        return {}
    made = own.made()
    names = ("distillation", "temperature", "distance", "features", "clip")
    return {"teacher": bench.model} | {name: getattr(made, name) for name in names}


def measured(bench: Bench, preset: str, level: float) -> Row:
    """Prune by a preset and test it on the way."""
    row: Row = {"model": bench.name, "preset": preset, "kept": level, "steps": len(bench.train)}
    try:
        spec, row["of"] = asked(preset, level)
        schedule = spec.schedule.made()
        reached = [schedule.sparsity(step, 0.5) for step in range(1, schedule.count + 1)]
        last = next(k for k, part in enumerate(reached) if part >= reached[-1] - 1e-12)
        calls = schedule.warmup + schedule.count
        tuner = Tuner(bench, calls, schedule.warmup + last, followed(bench, preset))
        started = time.process_time()
        torch.manual_seed(SEED)
        slim = fxprune.prune(
            bench.model,
            spec,
            (bench.calibrate[0].images[:2],),
            calibrate=bench.calibrate,
            loss=loss,
            evaluate=lambda module: fashion.accuracy(module, bench.held_out),
            fine_tune=tuner,
        )
    except CallbackError as error:  # of the callbacks here, which raise nothing by themselves
        return row | {"failed": first_line(error)}
    except FxpruneError as error:
        return row | {"refused": first_line(error)}
    except Exception as error:
        traceback.print_exc()
        return row | {"failed": f"{type(error).__name__}: {first_line(error)}"}
    spent = time.process_time() - started - tuner.testing - tuner.seconds
    row |= tuner.found | {"tuned": fashion.accuracy(slim, bench.test)}
    report = slim.report
    row["macs"] = report.macs_after / report.macs_before
    row["params"] = (report.parameters_after - report.masked) / report.parameters_before
    return row | {"seconds": spent, "tuning": tuner.seconds}


# ---- the table -----------------------------------------------------------------------------------

HEADINGS = ("preset", "pruned", "BN", "tuned", "MACs", "params", "prune s", "tune s")


def cells(row: Row) -> list[str]:
    """Return the cells of one measurement."""
    for what in ("refused", "failed"):
        if what in row:
            return [row["preset"], f"{what}: {row[what]}", *[""] * 6]
    shares = [f"{100 * row[key]:.2f}" if key in row else "" for key in ("pruned", "bn", "tuned")]
    costs = [f"{row['macs']:.1%}", f"{row['params']:.1%}"]
    mark = {"MACs": "", "parameters": " ¹", "units": " ²"}[row["of"]]
    return [row["preset"] + mark, *shares, *costs, f"{row['seconds']:.0f}", f"{row['tuning']:.0f}"]


def markdown(rows: list[Row], before: Mapping[str, float]) -> str:
    """Return one table for every network and level."""
    text = ""
    groups = sorted({(row["model"], -row["kept"]) for row in rows})
    for model, level in groups:
        some = [row for row in rows if (row["model"], -row["kept"]) == (model, level)]
        text += f"### {model}, {1 + level:.0%} less: {100 * before[model]:.2f} % before\n\n"
        lines = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1))]
        lines += [cells(row) for row in sorted(some, key=lambda row: row["preset"])]
        text += "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"
    return text + (
        "¹ blocks: a share of the parameters, masked; no fewer MACs. ² a share of the units.\n"
    )


def run(benches: Mapping[str, Callable[[], Bench]], options: argparse.Namespace) -> list[Row]:
    """Measure every cell that the file does not hold; return all that were asked for."""
    known: dict[tuple[Any, ...], Row] = {}
    if options.json and options.json.exists():
        for line in options.json.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            known[_key(found)] = found
    rows: list[Row] = []
    for level in options.kept:
        for name, made in benches.items():
            bench: Bench | None = None
            for preset in options.presets:
                row: Row | None = known.get((name, preset, level, options.steps))
                if row is None:
                    bench = bench or made()
                    row = measured(bench, preset, level)
                    if options.json:
                        with options.json.open("a", encoding="utf-8") as lines:
                            lines.write(json.dumps(row) + "\n")
                rows.append(row)
                print(name, level, *cells(row), sep=" | ", flush=True)
    return rows


def _key(row: Row) -> tuple[Any, ...]:
    return row["model"], row["preset"], row["kept"], row["steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=["vit", "resnet20"])
    parser.add_argument("--versus", choices=["torch-pruning"], help="see versus.py")
    parser.add_argument("--images", type=int, default=1024, help="to calibrate by, with --versus")
    parser.add_argument("--seeds", type=int, default=3, help="with --versus")
    parser.add_argument("--presets", nargs="+", choices=presets.names(), default=presets.names())
    parser.add_argument("--kept", nargs="+", type=float, default=[0.5, 0.3])
    parser.add_argument("--steps", type=int, default=60, help="training steps in all")
    parser.add_argument("--json", type=Path, help="a line a cell; those it holds are not repeated")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.versus:
        return print(len(versus.compare(options)), "rows")
    data = {split: fashion.load_data(split) for split in ("train", "test")}

    def bench(name: str) -> Bench:
        return Bench.of(name, fashion.trained(name)[0], **data, steps=options.steps)

    rows = run({name: partial(bench, name) for name in options.models}, options)
    if options.markdown:
        before = {
            name: fashion.accuracy(bench(name).model, data["test"]) for name in options.models
        }
        options.markdown.write_text(markdown(rows, before), encoding="utf-8")


if __name__ == "__main__":
    main()
