"""Accuracy of every preset on two small networks, with equal data and equally many training steps.

    python tools/bench_accuracy.py --models resnet20 vit --kept 0.5 0.3 --out results.jsonl

For each preset and share of MACs: test accuracy before, after the last removal as it is, after
batch norms alone were re-estimated, and after fine-tuning. All fine-tunings of a preset together
take `--steps` steps of 128 images, so that one that trains in many rounds trains less in each.
Searches score candidates on held-out training images; test images choose nothing. Results are
appended to a file, one JSON line a cell, and cells that are there are not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent))
import fashion

import fxprune
from fxprune import presets
from fxprune.tuning import recalibrate

TRIALS = {"simulated-annealing": 8, "optuna": 8}  # few: a search is shown to work, not to win
RATES = {"resnet20": 0.02, "vit": 3e-4}
COLUMNS = ("model", "preset", "kept", "macs", "params", "masked", "raw", "bn", "tuned", "seconds")


def loss(module: torch.nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def drawn(data: fashion.Split, count: int, size: int, seed: int) -> list[Any]:
    """Return batches of training images, the same ones for the same seed."""
    made = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.labels), generator=made)[: count * size]
    return [(data.images[k], data.labels[k]) for k in order.split(size)]


def spec_of(preset: str, kept: float) -> dict[str, Any]:
    """Return a preset at a share of the MACs, or of what else its targets can lower."""
    data = presets.read(preset)
    spec: dict[str, Any] = {"preset": preset, "objective": {"macs": kept}}
    target = data.get("target")
    if isinstance(target, dict) and target.get("kind") == "block":
        spec["objective"] = {"params": kept}  # masks lower no MACs
    if target == "head":
        spec["objective"] = {"ratio": 1 - kept}  # heads alone are too few of the MACs
    allocation = data.get("allocation", "uniform")
    table = dict(allocation) if isinstance(allocation, dict) else {"name": allocation}
    if table["name"] in TRIALS:
        spec["allocation"] = {**table, "trials": TRIALS[table["name"]]}
    if table["name"] == "netadapt":
        spec["allocation"] = {**table, "step": 0.15}
    return spec


class Cell:
    """Measure one preset on one network at one share."""

    def __init__(self, name: str, data: dict[str, fashion.Split], steps: int) -> None:
        self.name, self.data, self.steps = name, data, steps
        self.model, _ = fashion.trained(name)

    def accuracy(self, module: torch.nn.Module) -> float:
        return fashion.accuracy(module, self.data["test"])

    def measured(self, preset: str, kept: float) -> dict[str, Any]:
        found: dict[str, Any] = {"model": self.name, "preset": preset, "kept": kept}
        spec = fxprune.Spec.of(spec_of(preset, kept))
        schedule = spec.schedule.made()
        calls = schedule.warmup + schedule.count
        train, seen = self.data["train"], drawn(self.data["train"], 8, 64, 7)

        def tune(module: torch.nn.Module, step: int) -> None:
            if step == calls - 1:
                found["raw"] = self.accuracy(module)
                still = copy.deepcopy(module)
                recalibrate(still, seen, loss)
                found["bn"] = self.accuracy(still)
                module.train()
            rate = RATES[self.name]
            fxprune.FineTune(
                batches=drawn(train, max(1, self.steps // calls), 128, step),
                loss=loss,
                lr=rate,
                optimizer=None
                if self.name == "resnet20"
                else lambda free: torch.optim.AdamW(free, rate),
            )(module, step)

        began = time.perf_counter()
        try:
            slim = fxprune.prune(
                self.model,
                spec,
                (self.data["test"].images[:2],),
                calibrate=seen,
                loss=loss,
                evaluate=lambda module: fashion.accuracy(module, self.data["held"]),
                fine_tune=tune,
            )
        except fxprune.FxpruneError as error:
            return found | {"refused": str(error)}
        report = slim.report
        return found | {
            "macs": report.macs_after / report.macs_before,
            "params": report.parameters_after / report.parameters_before,
            "masked": report.masked / report.parameters_before,
            "tuned": self.accuracy(slim),
            "seconds": time.perf_counter() - began,
        }


def markdown(rows: list[dict[str, Any]], before: dict[str, float]) -> str:
    """Return the table of all cells."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in sorted(rows, key=lambda r: (r["model"], -r["kept"], r["preset"])):
        if "refused" in row:
            said = f"refused: {row['refused']}"
            lines.append(f"| {row['model']} | {row['preset']} | {row['kept']:.0%} | {said} |")
            continue
        shares = [f"{row[name]:.1%}" for name in COLUMNS[3:9]]
        cells = [row["model"], row["preset"], f"{row['kept']:.0%}", *shares]
        lines.append("| " + " | ".join([*cells, f"{row['seconds']:.0f}"]) + " |")
    said = ", ".join(f"{name} {value:.2%}" for name, value in before.items())
    return f"Before: {said}.\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["resnet20", "vit"])
    parser.add_argument("--presets", nargs="+", default=presets.names())
    parser.add_argument("--kept", nargs="+", type=float, default=[0.5, 0.3])
    parser.add_argument("--steps", type=int, default=60, help="training steps of each preset")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--out", type=Path, default=Path("accuracy.jsonl"))
    parser.add_argument("--markdown", type=Path, help="write the table here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = fashion.load_data("train"), fashion.load_data("test")
    data = {
        "train": fashion.Split(train.images[:-1000], train.labels[:-1000]),
        "held": fashion.Split(train.images[-500:], train.labels[-500:]),
        "test": fashion.Split(test.images[: given.test], test.labels[: given.test]),
    }
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["model"], row["preset"], row["kept"]) for row in rows}
    before: dict[str, float] = {}
    for name in given.models:
        cell = Cell(name, data, given.steps)
        before[name] = cell.accuracy(cell.model)
        for kept in given.kept:
            for preset in given.presets:
                if (name, preset, kept) in done:
                    continue
                torch.manual_seed(0)
                row = cell.measured(preset, kept)
                rows.append(row)
                with given.out.open("a") as out:
                    out.write(json.dumps(row) + "\n")
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    table = markdown(rows, before)
    print(table)
    if given.markdown:
        given.markdown.write_text(table)


if __name__ == "__main__":
    main()
