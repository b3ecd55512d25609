"""The accuracy benchmark on a tiny network and random images: no download, no real image."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import accuracy
import fashion


class Tiny(nn.Module):
    """Two convolutions, both normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, 2), nn.BatchNorm2d(16)
        self.last, self.norm2 = nn.Conv2d(16, 16, 3, 2), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, fashion.CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm2(self.last(self.norm(self.first(x)).relu())).relu()
        return self.fc(x.mean((2, 3)))


def random_split(count: int) -> fashion.Split:
    labels = torch.arange(count) % 2
    images = torch.randn(count, 1, 28, 28) + 2.0 * labels[:, None, None, None]
    return fashion.Split(images, labels)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[], accuracy.Bench]:
    monkeypatch.setattr(accuracy, "CALIBRATION", (2, 8))
    monkeypatch.setattr(accuracy, "BATCH", 16)

    def made() -> accuracy.Bench:
        torch.manual_seed(0)
        data = random_split(64), random_split(40)
        return accuracy.Bench.of("tiny", Tiny(), *data, steps=7, held_out=16)

    return made


def options(presets: list[str], file: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(presets=presets, kept=[0.5], steps=7, json=file)


def test_a_preset_is_tested_before_and_after_it_is_tuned(bench: Any, tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    rows = accuracy.run({"tiny": bench}, options(["l2", "slim"], file))

    assert [json.loads(line) for line in file.read_text().splitlines()] == rows
    for row in rows:
        assert all(0.0 <= row[key] <= 1.0 for key in ("pruned", "bn", "tuned"))
        assert row["macs"] <= 0.5 + 0.01
        assert row["params"] < 1.0
    table = accuracy.markdown(rows, {"tiny": 0.5})
    assert table.startswith("### tiny, 50% less: 50.00 % before")
    assert "| l2 |" in table


def test_what_the_file_holds_is_not_measured_again(bench: Any, tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    first = accuracy.run({"tiny": bench}, options(["l2"], file))

    def never() -> accuracy.Bench:
        raise AssertionError("it measured")

    assert accuracy.run({"tiny": never}, options(["l2"], file)) == first


def test_what_is_refused_is_told_with_its_reason(bench: Any) -> None:
    row = accuracy.measured(bench(), "transformer-head", 0.5)

    assert "head" in row["refused"]
    assert "refused: " in accuracy.cells(row)[1]


@pytest.mark.parametrize("preset", ["l2", "slim", "linear", "movement", "admm"])
def test_each_preset_trains_for_as_many_steps_in_all(
    bench: Any, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(
        accuracy.fxprune,
        "FineTune",
        lambda batches, **_: lambda module: steps.append(len(batches)),
    )
    made = bench()
    schedule = accuracy.asked(preset, 0.5)[0].schedule.made()
    tuner = accuracy.Tuner(made, schedule.warmup + schedule.count, schedule.warmup + 1)
    for number in range(tuner.calls):
        tuner(made.model, number)

    assert sum(steps) == 7


def test_a_level_of_blocks_is_a_share_of_the_parameters() -> None:
    spec, what = accuracy.asked("level", 0.3)
    assert (spec.objective.chosen, what) == (("params", 0.3), "parameters")
    assert accuracy.asked("transformer-head", 0.3)[0].objective.chosen == ("ratio", 0.7)
    assert accuracy.asked("amc", 0.3)[0].allocation.options["trials"] < 100


def test_testing_changes_nothing(bench: Any) -> None:
    made = bench()
    before = {name: value.clone() for name, value in made.model.state_dict().items()}

    row = accuracy.Tuner(made, 1, 0).tested(made.model)

    assert set(row) == {"pruned", "bn"}
    torch.testing.assert_close(dict(made.model.state_dict()), before)
