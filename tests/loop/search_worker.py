"""Run one search in a process of its own: `python search_worker.py FOLDER NAME ALLOCATION KILL`.

Every evaluation adds a line to FOLDER/asked.NAME; at the evaluation KILL the process kills itself.
With no KILL, NAME is "a" or "b", and the first few evaluations of both take turns, so that each has
a part in the search. ALLOCATION is JSON; the units that the search keeps are printed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import fxprune

WIDTHS = (24, 40, 32)
X = (torch.ones(2, 8),)
TURNS = 3  # evaluations of which each process waits for the other's


def net() -> nn.Module:
    """Return a chain of linear layers, the same in every process."""
    torch.manual_seed(5)
    sizes = (8, *WIDTHS, 4)
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    parts = [part for layer in layers[:-1] for part in (layer, nn.ReLU())]
    return nn.Sequential(*parts, layers[-1]).eval()


def value(module: nn.Module) -> float:
    """Score widths: what is left of the second layer is worth most."""
    weights = [p.detach() for n, p in module.named_parameters() if n.endswith("weight")]
    pairs = zip(weights, WIDTHS, strict=False)
    live = [float((weight.abs().sum(1) > 0).sum()) / width for weight, width in pairs]
    return 1.0 - float(np.dot([0.3, 1.0, 0.2], [(1 - share) ** 2 for share in live]))


def search(
    allocation: dict[str, Any],
    evaluate: Callable[[nn.Module], float],
    checkpoint: Path | None = None,
) -> list[list[int]]:
    """Return the plan of a search as the units kept of each layer."""
    spec = {"objective": {"params": 0.5}, "allocation": allocation}
    slim = fxprune.prune(net(), spec, X, evaluate=evaluate, checkpoint=checkpoint)
    assert slim.plan is not None
    return [slim.plan.kept[f"{2 * k}.weight"][0].tolist() for k in range(3)]


def count(asked: Path) -> int:
    """Return how many evaluations there have been."""
    return len(asked.read_text().splitlines()) if asked.exists() else 0


def main(folder: Path, name: str, allocation: dict[str, Any], kill: int) -> None:
    """Run the search, and die at evaluation `kill`, if that is above 0."""
    asked, other = folder / f"asked.{name}", folder / f"asked.{'b' if name == 'a' else 'a'}"

    def evaluate(module: nn.Module) -> float:
        with asked.open("a") as lines:
            lines.write("asked\n")
        if count(asked) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        while not kill and count(other) < min(count(asked), TURNS):
            time.sleep(0.01)
        return value(module)

    print(json.dumps(search(allocation, evaluate)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
