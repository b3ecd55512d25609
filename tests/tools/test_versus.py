"""The comparison with Torch-Pruning on a tiny network, the rival played by ourselves."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
import versus


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3)).eval()


def task(name: str = "tiny") -> versus.Task:
    images = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = net()
    wanted = model(images).argmax(1)

    def tested(module: nn.Module) -> float:
        return float((module(images).argmax(1) == wanted).float().mean())

    return versus.Task(name, model, tested, lambda seed: images.split(8))


def played(model: nn.Module, inputs: Any, whole: bool, rounding: Any, ratio: float) -> nn.Module:
    spec = {
        "allocation": {"name": "global" if whole else "uniform", "round_to": 1},
        "objective": {"ratio": min(ratio, 0.8)},
    }
    return fxprune.prune(model, spec, inputs)


def test_every_tool_is_measured_at_the_same_macs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(versus, "needed", lambda: None)
    monkeypatch.setattr(versus, "tasks", lambda *given: [task()])
    monkeypatch.setattr("rivals.narrowed_by_ratio", played)
    options = argparse.Namespace(
        models=["tiny"], kept=[0.5], seeds=1, steps=0, images=24, json=tmp_path / "rows.jsonl"
    )
    options.markdown = tmp_path / "table.md"
    rows = versus.compare(options)
    assert [row["tool"] for row in rows] == [*versus.TOOLS]
    assert all(abs(row["macs"] - 0.5) < 0.1 for row in rows)
    assert all(0.0 <= row[key] <= 1.0 for row in rows for key in ("as cut", "BN", "repaired"))
    assert options.markdown.read_text().count("| 0.5 |") == len(versus.TOOLS)
    assert versus.compare(options) == rows  # read from the file


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versus, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install torch-pruning"):
        versus.needed()
