"""No call of the library changes what its caller holds, whatever the model keeps in its forward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import ExportError, FxpruneError
from tests.support.noise import noise
from tests.support.state_keepers import KEEPERS, Keeper, Writes, described, differences

HALF = {"metric": "l2", "objective": {"ratio": 0.5}}

CALLS: dict[str, Callable[[Keeper, Tensor, Path], Any]] = {
    "analyze": lambda model, x, path: fxprune.analyze(model, (x,)),
    "prune": lambda model, x, path: fxprune.prune(model, HALF, (x,)),
    "run": lambda model, x, path: fxprune.run(model, "restore", (x,)),
    "speedup": lambda model, x, path: fxprune.speedup(model, (x,)),
    "export_onnx": lambda model, x, path: fxprune.export_onnx(model, path / "a.onnx", (x,)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KEEPERS)
def test_a_call_changes_nothing(kind: type[Keeper], call: str, tmp_path: Path) -> None:
    model, x = kind().train(), noise(4, 8)
    model.drop.eval()
    before = described(model, x)
    refused = kind is Writes and call == "export_onnx"  # of a constant that is written to
    with pytest.raises(ExportError, match="plain") if refused else nullcontext():
        CALLS[call](model, x, tmp_path)
    assert differences(before, described(model, x)) == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KEEPERS)
def test_a_call_that_fails_changes_nothing(kind: type[Keeper], call: str, tmp_path: Path) -> None:
    """The forward fails last: for its inputs, or for the exporter alone."""
    for fails in (refuses, branches):
        model, x = kind().train(), noise(4, 8)
        model.fails = fails
        before = described(model, x)
        with pytest.raises(FxpruneError):
            CALLS[call](model, x, tmp_path)
        assert differences(before, described(model, x)) == []


def refuses(x: Tensor) -> None:
    raise ValueError("not these")


def branches(x: Tensor) -> None:
    if x.sum() > 1000.0:
        raise ValueError("not these")


class Grid(nn.Module):
    """A table for the size seen last, as detection heads keep one."""

    table, shape = torch.zeros(0), None

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.last(self.first(x).relu())
        if self.shape != y.shape:
            self.table = torch.arange(y.shape[2] * y.shape[3], dtype=y.dtype)
            self.shape = y.shape
        return y.flatten(2) + self.table


@pytest.mark.parametrize("call", CALLS)
def test_the_model_runs_and_is_copied_afterwards(call: str, tmp_path: Path) -> None:
    model, x = Grid().eval(), noise(2, 3, 8, 8)
    CALLS[call](model, x, tmp_path)
    assert (model.shape, model.table.shape) == (None, (0,))
    assert type(copy.deepcopy(model)(x)) is Tensor
    assert any("changes table, shape" in note for note in fxprune.analyze(Grid(), (x,)).notes)
