"""The benchmark at equal latency, on tiny networks: every tool, every column, and the verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import accuracy
import equal_latency as bench
import equal_tasks
import fashion
import fxprune
import rivals
from fxprune.errors import FxpruneError
from rivals import Clock, Pruned
from tests.support.noise import noise
from tests.support.told_clock import ToldClock

X = (noise(2, 1, 28, 28),)


class Tiny(nn.Module):
    """Convolutions with norms, one of them depthwise, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, 2, bias=False), nn.BatchNorm2d(16)
        self.deep, self.norm2 = nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.BatchNorm2d(16)
        self.last, self.norm3 = nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.wide, self.norm4 = nn.Conv2d(24, 24, 3, bias=False), nn.BatchNorm2d(24)
        self.fc = nn.Linear(24, fashion.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.norm2(self.deep(x)).relu()
        x = self.norm4(self.wide(self.norm3(self.last(x)).relu())).relu()
        return self.fc(x.mean((2, 3)))


def tiny() -> nn.Module:
    torch.manual_seed(0)
    model = Tiny().train()
    for _ in range(3):
        model(torch.randn(8, 1, 28, 28))
    for one in model.modules():
        if isinstance(one, nn.BatchNorm2d):
            nn.init.normal_(one.bias)
            nn.init.uniform_(one.weight, 0.5, 1.5)
    return model.eval()


def split(count: int) -> fashion.Split:
    labels = torch.arange(count) % 2
    return fashion.Split(torch.randn(count, 1, 28, 28) + 2.0 * labels[:, None, None, None], labels)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> equal_tasks.Task:
    monkeypatch.setattr(accuracy, "CALIBRATION", (2, 8))
    monkeypatch.setattr(accuracy, "BATCH", 16)
    torch.manual_seed(0)
    data = split(64), split(40)
    made = accuracy.Bench.of("tiny", tiny(), *data, steps=2, held_out=16)
    return equal_tasks.of_bench(made)


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file take as long as it has weights; look at few of them."""
    monkeypatch.setattr(rivals, "TRIES", 3)
    monkeypatch.setattr(rivals, "ROUNDINGS", (None,))

    def weight(path: Path) -> int:
        arrays = onnx.load(path).graph.initializer
        return sum(numpy_helper.to_array(one).size for one in arrays)

    def ratio(self: Clock, path: Path, times: float = 1.0) -> tuple[float, float, float]:
        share = weight(path) / weight(self.original)
        return share, share - 0.01, share + 0.01

    monkeypatch.setattr(Clock, "ratio", ratio)


# ---- one cell ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tp-uniform", "tp-global", "onnxsim"])
def test_a_rival_is_bisected_to_the_latency(method: str, task: Any, sized: None) -> None:
    pytest.importorskip("onnxsim" if method == "onnxsim" else "torch_pruning")
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    row = bench.measure(task, 0.6, method, seconds=0.05, steps=2)
    assert "failed" not in row, row
    assert row["ratio"] == pytest.approx(0.6, rel=0.15)  # so few channels leave few widths
    assert 0.0 < row["macs"] < 1.0
    assert row["params"] < 1.0
    assert all(0.0 <= row[name] <= 1.0 for name in ("original", "pruned", "bn", "tuned"))
    torch.testing.assert_close(dict(task.model.state_dict()), before, rtol=0, atol=0)
    line = bench.cells({"task": "tiny", "kept": 0.6, "method": method} | row)
    assert len(line) == len(bench.HEADINGS)


@pytest.mark.parametrize("method", ["uniform", "global"])
def test_ours_has_the_latency_as_its_objective(
    method: str, task: Any, sized: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune, asked = fxprune.prune, list[Any]()

    def by_macs(model: nn.Module, spec: Any, inputs: Any) -> Any:
        asked.append(spec)
        slim = prune(model, spec | {"objective": {"params": 0.6}}, inputs)
        object.__setattr__(slim.report, "latency", type("Told", (), {"met": False})())
        return slim

    monkeypatch.setattr(bench.fxprune, "prune", by_macs)
    row = bench.measure(task, 0.6, method, seconds=0.05, steps=0)
    assert asked[0]["allocation"] == method
    assert asked[0]["objective"] == {
        "latency": 0.6,
        "device": "ort-cpu",
        "threads": 1,
        "batch": 1,
    }
    assert row["note"] == "said to miss"
    assert "tuned" not in row
    assert {"pruned", "bn"} <= row.keys()


def test_all_pieces_fit(task: Any, told_clock: ToldClock) -> None:
    """Files are written, run and timed as in the benchmark, but what they take is told."""
    row = bench.measure(task, 0.7, "uniform", seconds=0.02, steps=0)
    assert "failed" not in row, row
    assert 0.0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert row["ratio"] == pytest.approx(0.7, rel=0.05)
    assert json.loads(json.dumps(row)) == row


def test_what_another_tool_raises_is_its_result(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Pruned:
        raise ZeroDivisionError("by its own hand")

    monkeypatch.setitem(bench.METHODS, "onnxsim", broken)
    row = bench.measure(task, 0.6, "onnxsim", seconds=0.05, steps=0)
    assert row["failed"] == "ZeroDivisionError: by its own hand"


def test_without_a_module_the_file_is_tested(task: Any, tmp_path: Path) -> None:
    fxprune.export_onnx(task.model, tmp_path / "m.onnx", task.inputs)
    row = bench.accuracies(task, Pruned(tmp_path / "m.onnx", None), steps=2)
    assert row == {"original": row["original"], "pruned": row["original"]}


# ---- bisection, and what onnxsim leaves ----------------------------------------------------------


@pytest.mark.parametrize("goal", [0.8, 0.5, 0.21])
def test_bisection(goal: float, tmp_path: Path) -> None:
    made: list[float] = []

    class Told:
        def ratio(self, path: Path, times: float = 1.0) -> tuple[float]:
            return (1.0 - made[-1],)

    def make(ratio: float) -> Pruned:
        made.append(ratio)
        return Pruned(tmp_path, None, f"{ratio}")

    found, off = rivals.bisected(make, Told(), goal)  # type: ignore[arg-type]
    assert off <= 0.03
    assert 1.0 - float(found.note) == pytest.approx(goal, rel=0.03)
    assert len(made) <= rivals.TRIES


def test_a_hit_that_was_chance_is_looked_at_again(tmp_path: Path) -> None:
    made: list[float] = []

    class Noisy:
        def ratio(self, path: Path, times: float = 1.0) -> tuple[float]:
            lucky = len(made) == 1 and times == 1.0
            return (0.3 if lucky else 1.0 - made[-1],)

    def make(ratio: float) -> Pruned:
        made.append(ratio)
        return Pruned(tmp_path, None, f"{ratio}")

    found, off = rivals.bisected(make, Noisy(), 0.3)  # type: ignore[arg-type]
    assert 1.0 - float(found.note) == pytest.approx(0.3, rel=0.03)
    assert off <= 0.03


def test_bisection_of_a_staircase_gives_the_nearest(tmp_path: Path) -> None:
    shares: list[float] = []

    class Told:
        def ratio(self, path: Path, times: float = 1.0) -> tuple[float]:
            return (shares[-1],)

    def make(ratio: float) -> Pruned:
        shares.append(0.9 if ratio < 0.7 else 0.4)
        return Pruned(tmp_path, None, str(shares[-1]))

    found, off = rivals.bisected(make, Told(), 0.5)  # type: ignore[arg-type]
    assert (found.note, off) == ("0.4", pytest.approx(0.2))
    assert len(shares) == rivals.TRIES


def test_channels_are_told_from_the_file(tmp_path: Path) -> None:
    sim = pytest.importorskip("onnxsim")
    model = tiny()
    fxprune.export_onnx(model, tmp_path / "whole.onnx", X)
    whole = onnx.load(tmp_path / "whole.onnx")
    cut = sim.apply_structured_pruning(onnx.load(tmp_path / "whole.onnx"), sparsity=0.5)
    onnx.save(cut, tmp_path / "cut.onnx")
    small = rivals.narrowed(model, X, whole, cut)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    rivals.agreeing(small, X, tmp_path / "cut.onnx")
    small.train()(X[0])  # its norms can be trained
    with pytest.raises(FxpruneError, match="differ by"):
        rivals.agreeing(model, X, tmp_path / "cut.onnx")


FOUND: dict[str, Callable[[], Any]] = {
    "twins": lambda: rivals._found(np.array([1.0, 1.0, 2.0]), np.array([1.0])),
    "strangers": lambda: rivals._found(np.array([1.0, 2.0]), np.array([3.0])),
}


@pytest.mark.parametrize("name", FOUND)
def test_channels_in_doubt_are_not_guessed(name: str) -> None:
    with pytest.raises(FxpruneError, match="cannot be told"):
        FOUND[name]()
    assert rivals._found(np.array([5.0, 1.0, 2.0]), np.array([5.0, 2.0])).tolist() == [0, 2]


# ---- verdicts ------------------------------------------------------------------------------------


def row(method: str, pruned: float, **changes: Any) -> dict[str, Any]:
    near = {"ratio": 0.5, "ratio_low": 0.49, "ratio_high": 0.51, "macs": 0.4, "params": 0.4}
    cell = {"task": "t", "kept": 0.5, "method": method, "steps": 2, "seconds": 3.0, "note": ""}
    return {**cell, **near, "pruned": pruned, "original": 0.9, **changes}


VERDICTS: dict[str, tuple[list[dict[str, Any]], list[bool]]] = {
    "better": ([row("optimal", 0.8), row("global", 0.7)], [True]),
    "worse": ([row("optimal", 0.8), row("global", 0.7), row("tp-global", 0.81)], [False]),
    "better than one that is slower than asked": (
        [row("optimal", 0.8), row("global", 0.7), row("tp-global", 0.9, ratio=0.6)],
        [True],
    ),
    "off itself": ([row("optimal", 0.8, ratio=0.4), row("global", 0.7)], [False]),
    "failed": ([row("optimal", 0.8, failed="x"), row("global", 0.7)], [False]),
    "column by column": (
        [row("optimal", 0.8, bn=0.82, tuned=0.9), row("global", 0.7, bn=0.83, tuned=0.88)],
        [True, False, True],
    ),
    "alone": ([row("optimal", 0.8)], []),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdicts(name: str) -> None:
    rows, expected = VERDICTS[name]
    assert [met for met, _ in bench.verdicts(rows)] == expected
    text = bench.markdown(rows)
    assert text.startswith("### t, 0.5 of the latency: 90.00% before\n")
    assert text.count("\n- ") == len(expected)


def test_each_step_count_is_a_cell_of_its_own() -> None:
    assert bench.key(row("optimal", 0.8)) != bench.key(row("optimal", 0.7, steps=0))
