"""Keyword arguments may come in any order, as a tokenizer's do, and in any mapping."""

from __future__ import annotations

from collections import UserDict
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxprune

SPEC = {"metric": "l2", "objective": {"macs": 0.5}}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, z: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert y is not None
        assert z is not None
        found: torch.Tensor = self.out((self.first(x) * 2 + self.second(z) - self.second(y)).relu())
        return found


def drawn(names: Any, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    values = {name: torch.randn(3, 8) for name in "xyz"}
    return {name: values[name] for name in names}


@pytest.mark.parametrize("names", permutations("xyz"), ids="".join)
def test_any_order_of_keywords(names: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, given = Net().eval(), drawn(names, 1)
    slim = fxprune.prune(net, SPEC, given, calibrate=[drawn("zyx", 2), drawn("yxz", 3)])
    other = drawn("yzx", 4)
    told = slim(**other)
    assert torch.equal(told, slim(**{name: other[name] for name in "xyz"}))
    fxprune.save(slim, tmp_path / "slim.pt2")
    again = fxprune.load(tmp_path / "slim.pt2")
    assert torch.allclose(again(**other), told, atol=1e-6)
    fxprune.export_onnx(slim, tmp_path / "slim.onnx")  # which compares
    assert fxprune.analyze(again, UserDict(given)).coverage > 0.9


def test_any_order_for_an_exported_program() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    exported = torch.export.export(net, (), drawn("zxy", 1))
    for inputs in (None, drawn("zxy", 2), drawn("yzx", 2)):
        slim = fxprune.prune(exported, SPEC, inputs)
        assert slim.report.macs_after < slim.report.macs_before


def test_a_positional_argument_before_keywords() -> None:
    torch.manual_seed(0)
    net, given = Net().eval(), drawn("zyx", 1)
    fxprune.prune(net, SPEC, ((given.pop("x"),), given))
