"""With `same = "structure"` targets of one structure keep equal numbers, whatever allocates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.allocators import Bounds
from fxprune.allocators.equal_widths import Listed, equal_widths
from fxprune.targets import Target
from tests.support.noise import noise


class Layers(nn.Module):
    """Three equal MLPs, whose weights are of other sizes, and one that is narrower."""

    def __init__(self) -> None:
        super().__init__()
        widths = (48, 48, 48, 24)
        self.up = nn.ModuleList(nn.Linear(16, n) for n in widths)
        self.down = nn.ModuleList(nn.Linear(n, 16) for n in widths)
        with torch.no_grad():
            for scale, one in enumerate(self.up, 1):
                one.weight.copy_(noise(*one.weight.shape) * noise(len(one.weight), 1) ** scale)

    def forward(self, x: Tensor) -> Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(up(x).relu())
        return x


def kept(allocation: dict[str, Any], objective: dict[str, Any], **given: Any) -> dict[str, int]:
    spec = {"metric": "l1", "allocation": allocation, "objective": objective}
    slim = fxprune.prune(Layers().eval(), spec, (noise(4, 16),), **given)
    goal = next(iter(objective))
    if goal == "macs":
        assert slim.report.macs_after / slim.report.macs_before == pytest.approx(0.5, abs=0.02)
    return {one.name: one.kept for one in slim.report.targets}


@pytest.mark.parametrize("objective", [{"macs": 0.5}, {"ratio": 0.5}])
@pytest.mark.parametrize("name", ["optimal", "uniform", "global", "isomorphic"])
def test_equal_targets_keep_equal_numbers(name: str, objective: dict[str, Any]) -> None:
    found = kept({"name": name, "same": "structure", "round_to": 1}, objective)
    assert len({found[f"up.{k}:hidden"] for k in range(3)}) == 1
    assert found["up.0:hidden"] < 48
    if name == "global":
        apart = kept({"name": name, "round_to": 1}, objective)
        assert len({apart[f"up.{k}:hidden"] for k in range(3)}) > 1


def test_an_evaluator_is_asked_about_all_of_them() -> None:
    found = kept(
        {"name": "sensitivity", "same": "structure"},
        {"macs": 0.5},
        evaluate=lambda module: -float(module(noise(4, 16)).detach().norm()),
    )
    assert len({found[f"up.{k}:hidden"] for k in range(3)}) == 1


def test_widths_are_multiples_over_several_steps() -> None:
    spec = {
        "metric": "l1",
        "allocation": {"name": "global", "same": "structure", "round_to": 4},
        "objective": {"macs": 0.5},
        "schedule": {"name": "linear", "steps": 2},
    }
    slim = fxprune.prune(Layers().eval(), spec, (noise(4, 16),))
    (width,) = {one.kept for one in slim.report.targets if one.units == 48}
    assert width % 4 == 0
    assert width < 48


def test_a_group_takes_the_least_of_each_first() -> None:
    one = Target("a:hidden", "hidden", np.array([3, 4, 5]), (("a", 0),), True, structure=("s",))
    two = Target("b:hidden", "hidden", np.array([6, 7, 8]), (("b", 0),), False, structure=("s",))
    three = Target("c:hidden", "hidden", np.array([9]), (("c", 0),), True, structure=("s",))
    scores = [np.array([3.0, 1, 2]), np.array([10.0, 20, 30]), np.array([5.0])]
    bounds = [Bounds(round_to=2)] * 3
    got = equal_widths(Listed([one, two, three], scores, bounds, [3, 3, 1], scores))
    assert [len(t) for t in got.targets] == [6, 1]
    assert got.targets[0].units.tolist() == [4, 6, 5, 7, 3, 8]
    assert got.targets[0].footprint == (("a", 0), ("b", 0))
    assert not got.targets[0].exact
    assert got.scores[0].tolist() == [5.5, 5.5, 11.0, 11.0, 16.5, 16.5]
    assert got.bounds[0] == Bounds(2, 1.0, 4)
    assert got.sizes == [6, 1]
    assert got.losses[0].tolist() == [13.0, 13.0, 21.0, 21.0, 32.0, 32.0]


def test_another_word_is_refused() -> None:
    with pytest.raises(fxprune.FxpruneError, match="same"):
        kept({"name": "uniform", "same": "kind"}, {"ratio": 0.5})
