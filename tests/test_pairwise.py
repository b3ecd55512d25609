"""Every pair of kind, metric, allocation, schedule and objective: it works, or says why it cannot.

The names come from the registries: what is registered is covered without being told.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.allocators import ALLOCATORS
from fxprune.errors import CalibrationError, FxpruneError, ObjectiveError, SpecError
from fxprune.metrics import METRICS
from fxprune.objectives import OBJECTIVES
from fxprune.schedules import SCHEDULES
from tests.support.noise import noise

FAST = 120  # combinations that run by default: the first of a greedy array cover most pairs


class Convolutional(nn.Module):
    """Residual, concatenated and grouped channels, all of them normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.grouped, self.third = nn.Conv2d(16, 16, 3, groups=4), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.stem(x)).relu()
        inner = self.other(self.body(x)).relu()
        x = torch.cat([x + inner, inner], 1)
        return self.head(self.third(self.grouped(x)).relu().mean((2, 3)))


class Transformer(nn.Module):
    """One layer: four heads of four, an MLP of thirty-two, and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.before, self.after = nn.Linear(6, 16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        q, k, v = self.qkv(self.before(x)).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.after(x))))
        return self.head(x.mean(1))


MODELS = {"cnn": (Convolutional, (3, 6, 6)), "transformer": (Transformer, (5, 6))}


def kinds() -> list[str]:
    """Return each model's own kinds, with all of them and with blocks: `model:kind`."""
    found = []
    for name, (model, shape) in MODELS.items():
        with torch.random.fork_rng():
            made = model().eval()
        targets = fxprune.analyze(made, (noise(2, *shape),)).targets
        own = dict.fromkeys(target.kind for target in targets)
        found += [f"{name}:{kind}" for kind in (*own, "all", "block")]
    return found


Row = tuple[str, ...]
AXES = ("target", "metric", "allocation", "schedule", "objective")


def covering(values: Sequence[Sequence[str]]) -> list[Row]:
    """Return rows, one value an axis, in which every pair of values of two axes stands together."""
    left = {
        (i, a, j, b)
        for i, j in combinations(range(len(values)), 2)
        for a in values[i]
        for b in values[j]
    }
    rows = []
    used = {(i, a): 0 for i, listed in enumerate(values) for a in listed}
    while left:
        i, a, j, b = min(left, key=lambda pair: (used[pair[:2]] + used[pair[2:]], pair))
        row = {i: a, j: b}
        for k in sorted(set(range(len(values))) - {i, j}, key=lambda k: -len(values[k])):
            row[k] = min(values[k], key=partial(_gain, left, used, row, k))
        for m, n in combinations(range(len(values)), 2):
            left.discard((m, row[m], n, row[n]))
        for place in row.items():
            used[place] += 1
        rows.append(tuple(row[k] for k in range(len(values))))
    return rows


def _gain(left: Any, used: Any, row: dict[int, str], k: int, one: str) -> tuple[int, int, str]:
    """Order values by how many uncovered pairs they cover, and by how seldom they were used."""
    pairs = ((m, v, k, one) if m < k else (k, one, m, v) for m, v in row.items())
    return -sum(pair in left for pair in pairs), used[k, one], one


VALUES = [kinds(), [*METRICS], [*ALLOCATORS], [*SCHEDULES], [*OBJECTIVES]]
ROWS = covering(VALUES)

GOALS = {"ratio": 0.3}  # of the others so much is kept:
KEEP = 0.7
pytestmark = pytest.mark.usefixtures("told_clock")  # it brings the device of that name
SMALL = {"trials": 3, "steps": 2, "step": 0.3, "device": "clock"}  # whichever of them it has

Reason = tuple[type[FxpruneError], str, dict[str, str]]
ASKED = r"([\d.]+) was asked"
REASONS: list[Reason] = [  # legitimate refusals: the error, its words, and the rows that may say it
    (SpecError, r"metric: slim: no norm with a weight scales \S+; exclude it", {"metric": "slim"}),
    (SpecError, r"metric: \S+ says nothing of blocks of weights", {"target": "block"}),
    (CalibrationError, r"metric: reap scores experts that a router chooses", {"metric": "reap"}),
    (ObjectiveError, rf"the selected targets can go down to ([\d.]+)[^,]*, and {ASKED}", {}),
    (ObjectiveError, rf"the selected targets can lose ([\d.]+) of .* and {ASKED}", {}),
]


def small(name: str, registry: Any) -> dict[str, Any]:
    known = {field.name for field in fields(registry[name])}
    return {key: value for key, value in SMALL.items() if key in known}


def spec_of(row: Row) -> dict[str, Any]:
    kind, metric, allocation, schedule, objective = row
    steps: dict[str, Any] = {"name": schedule, **small(schedule, SCHEDULES)}
    if METRICS[metric]().needs == "training":
        steps["warmup"] = 2
    target: dict[str, Any] = {"kind": kind.partition(":")[2]}
    if target["kind"] == "block":
        target["block"] = 8
    return {
        "target": target,
        "metric": metric,
        "allocation": {"name": allocation, **small(allocation, ALLOCATORS)},
        "schedule": steps,
        "objective": {objective: GOALS.get(objective, KEEP), **small(objective, OBJECTIVES)},
    }


def run(row: Row) -> tuple[Any, Tensor]:
    model, shape = MODELS[row[0].partition(":")[0]]
    net, x = model().eval(), torch.randn(4, *shape)
    batches = [(torch.randn(4, *shape), torch.randint(5, (4,))) for _ in range(2)]
    wanted = net(x).detach()

    def loss(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0]), batch[1])

    def evaluate(module: Any) -> float:
        with torch.no_grad():
            return -float((module(x) - wanted).square().mean())

    def fine_tune(module: Any, step: int) -> None:
        optimizer = torch.optim.SGD(module.parameters(), 1e-3)
        for batch in batches:
            optimizer.zero_grad()
            loss(module, batch).backward()
            optimizer.step()

    given = {"calibrate": batches, "loss": loss, "evaluate": evaluate, "fine_tune": fine_tune}
    return fxprune.prune(net, spec_of(row), (x,), **given), x


def legitimate(error: FxpruneError, row: Row) -> bool:
    """Tell whether a refusal is one of those that may be, and true where it gives numbers."""
    said = dict(zip(AXES, row, strict=True))
    for kind, words, where in REASONS:
        found = re.search(words, str(error))
        if not isinstance(error, kind) or found is None:
            continue
        reached, asked = [float(one) for one in found.groups()] or (1.0, 0.0)
        if found.groups() and row[-1] == "ratio":
            reached, asked = (
                asked,
                reached,
            )  # of a ratio too little can go, of a cost too much stays
        return reached > asked and all(said[axis].endswith(end) for axis, end in where.items())
    return False


def check(row: Row) -> None:
    error = None
    try:
        slim, x = run(row)
    except (SpecError, ObjectiveError, CalibrationError) as refused:
        error = refused
    if error is not None:
        assert legitimate(error, row), f"{row}: not a legitimate reason: {error}"
        return
    assert slim(x).shape == (len(x), 5)
    assert slim(x[:1]).isfinite().all()
    last = slim.report.steps[-1]
    goal = 1.0 - GOALS["ratio"] if row[-1] == "ratio" else KEEP
    assert last.goal == pytest.approx(goal)
    near = abs(last.achieved - goal) <= 0.01 * goal + 1e-9
    said = [note for note in slim.report.notes if f"objective.{row[-1]}" in note]
    assert near or said, f"{row}: {last.achieved} is not {goal}, and no note says so"


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[pytest.mark.slow] if number >= FAST else [])
        for number, row in enumerate(ROWS)
    ],
    ids=" ".join,
)
def test_it_works_or_says_why_not(row: Row) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(row)


def test_every_pair_is_covered() -> None:
    for i, j in combinations(range(len(VALUES)), 2):
        found = {(row[i], row[j]) for row in ROWS}
        assert found == {(a, b) for a in VALUES[i] for b in VALUES[j]}
    assert len(ROWS) < 2 * len(VALUES[0]) * len(VALUES[1])
