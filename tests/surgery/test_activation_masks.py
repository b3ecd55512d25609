"""Masks of the inputs and outputs of modules: multiplications in the graph."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.support.masked_net import X, train

# ---- activations ---------------------------------------------------------------------------------


class Staged(nn.Module):
    """A stem, two residual blocks in a container, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stages = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for stage in self.stages:
            x = x + stage(x.relu())
        return self.head(x.mean((2, 3)))


SITES: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = {
    "entries of an output": (
        {"tensor": "output", "include": ["stem"]},
        "stem:output",
        (1, 8, 8, 8),
    ),
    "channels of an output": (
        {"tensor": "output", "include": ["stages.0"], "block": ["all", "all"], "axes": [2, 3]},
        "stages.0:output",
        (1, 8, 8, 8),
    ),
    "blocks of an input": (
        {"tensor": "input", "include": ["stages.1"], "block": [3, 4], "axes": [2, 3]},
        "stages.1:input",
        (1, 8, 8, 8),
    ),
    "n:m of an input": (
        {"tensor": "input", "include": ["head"], "block": {"n": 2, "m": 4}, "axes": [1]},
        "head:input",
        (1, 8),
    ),
}


@pytest.mark.parametrize("schedule", ["one-shot", {"name": "linear", "steps": 2}])
@pytest.mark.parametrize("name", SITES)
def test_masks_of_activations(name: str, schedule: Any, tmp_path: Path) -> None:
    """What the mask drops is zero where the module hands it on, in this and every later form."""
    table, place, shape = SITES[name]
    torch.manual_seed(0)
    model = Staged().eval()
    images = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    spec = {
        "target": {"kind": "block", **table},
        "metric": "activation",
        "schedule": schedule,
        "objective": {"ratio": 0.5},
        "repair": "none",
    }
    slim = fxprune.prune(model, spec, X, calibrate=images)
    mask = slim.plan.masks[place]
    assert mask.shape == shape
    assert 0.4 < float(mask.float().mean()) < 0.65
    module = model.get_submodule(place.split(":")[0])
    hook: Any = (
        module.register_forward_hook(lambda m, args, result: result * mask)
        if place.endswith("output")
        else module.register_forward_pre_hook(lambda m, args: (args[0] * mask,))
    )
    x = torch.randn(5, 3, 8, 8)
    wanted = model(x)
    hook.remove()
    fxprune.save(slim, tmp_path / "slim.pt2")
    fxprune.export_onnx(slim, tmp_path / "slim.onnx")  # compared with the module there
    for one in (slim, copy.deepcopy(slim), fxprune.load(tmp_path / "slim.pt2")):
        assert torch.allclose(one(x), wanted, atol=1e-5)
        train(one.train())
        assert any(name.startswith("activation_masks") for name in one.state_dict())
    assert not torch.allclose(model(x), wanted, atol=1e-3)


def test_the_weakest_activations_are_masked() -> None:
    model = Staged().eval()
    with torch.no_grad():
        model.stem.weight[2:5] *= 1e-3
        model.stem.bias[2:5] = 0
    spec = {
        "target": {**SITES["channels of an output"][0], "kind": "block", "include": ["stem"]},
        "metric": "activation",
        "objective": {"ratio": 3 / 8},
    }
    slim = fxprune.prune(model, spec, X, calibrate=[torch.randn(4, 3, 8, 8)])
    gone = (~slim.plan.masks["stem:output"]).all(3).all(2).flatten().nonzero().flatten()
    assert gone.tolist() == [2, 3, 4]
