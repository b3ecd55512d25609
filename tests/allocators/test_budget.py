"""Objectives are met within one per cent, bounds are kept, and nothing is ever emptied."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import fxprune
from fxprune.errors import ObjectiveError

TOLERANCE = 0.01


class Block(nn.Module):
    """Residual convolutions, a GLU, a fused attention and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.first, self.second = nn.Conv2d(32, 48, 3, padding=1), nn.Conv2d(48, 32, 3, padding=1)
        self.gate, self.qkv = nn.Conv2d(32, 64, 1), nn.Linear(32, 96)
        self.project, self.head = nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        x = x + self.second(F.relu(self.first(x)))
        x = F.glu(self.gate(x), dim=1).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(self.project(mixed).mean(1))


def chain() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    )


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "chain": (chain, (2, 16)),
    "block": (Block, (2, 3, 8, 8)),
    "resnet18": (torchvision.models.resnet18, (2, 3, 32, 32)),
}
GOALS = [("macs", 0.5), ("macs", 0.8), ("params", 0.5), ("params", 0.3), ("ratio", 0.5)]


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize(("objective", "goal"), GOALS)
@pytest.mark.parametrize("net", NETS)
def test_objectives_are_met(net: str, objective: str, goal: float, allocation: str) -> None:
    make, shape = NETS[net]
    spec = {"objective": {objective: goal}, "allocation": allocation}
    slim = fxprune.prune(make().eval(), spec, (torch.randn(shape),))
    report = slim.report
    assert slim(torch.randn(5, *shape[1:])).shape == (5, 10 if net != "resnet18" else 1000)
    assert all(1 <= target.kept <= target.units for target in report.targets)
    if objective == "ratio":
        units = sum(target.units for target in report.targets)
        kept = sum(target.kept for target in report.targets)
        assert kept == pytest.approx(units * (1 - goal), rel=TOLERANCE)
        return
    name = {"macs": "macs", "params": "parameters"}[objective]
    share = getattr(report, f"{name}_after") / getattr(report, f"{name}_before")
    assert share == pytest.approx(goal, rel=TOLERANCE)
    assert not any("nearest reachable" in note for note in report.notes)


def test_uniform_takes_the_same_share_of_every_target() -> None:
    spec = {"objective": {"ratio": 0.25}, "allocation": {"name": "uniform", "round_to": 1}}
    targets = fxprune.prune(Block(), spec, (torch.randn(2, 3, 8, 8),)).report.targets
    assert {target.kept / target.units for target in targets} == {0.75}


def test_global_follows_the_scores() -> None:
    """One layer's weights vary, the other's do not: the weak units of the first go before it."""
    model = chain()
    with torch.no_grad():
        for weight in (model[0].weight, model[0].bias, model[2].weight, model[4].weight):
            weight.fill_(0.1)
        model[2].bias.fill_(0.1)
        model[0].weight[:32] = model[0].bias[:32] = 0.0
        model[2].weight[:, :32] = 0.001
    spec = {"objective": {"ratio": 32 / 112}, "allocation": {"name": "global", "round_to": 1}}
    slim = fxprune.prune(model, spec, (torch.randn(2, 16),))
    assert slim.plan.kept["0.weight"][0].tolist() == list(range(32, 64))
    assert len(slim.plan.kept["2.weight"][0]) == 48


@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_the_weakest_units_leave(metric: str) -> None:
    model = chain()
    spec = {"metric": metric, "objective": {"ratio": 0.5}, "target": {"include": "0"}}
    slim = fxprune.prune(model, spec, (torch.randn(2, 16),))
    parts = torch.cat([model[0].weight, model[0].bias[:, None], model[2].weight.T], dim=1)
    strength = parts.detach().norm(p=int(metric[1]), dim=1)
    assert slim.plan.kept["0.weight"][0].tolist() == sorted(strength.topk(32).indices.tolist())


# ---- bounds --------------------------------------------------------------------------------------

BOUNDS: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Any], bool]]] = {
    "min_keep": ({"macs": 0.3}, {"min_keep": 20}, lambda t: t.kept >= min(20, t.units)),
    "max_ratio": ({"macs": 0.6}, {"max_ratio": 0.3}, lambda t: t.kept >= 0.7 * t.units - 1e-6),
    "round_to 8": ({"ratio": 0.5}, {"round_to": 8}, lambda t: t.kept % 8 == 0),
    "round_to 7": ({"macs": 0.5}, {"round_to": 7}, lambda t: t.kept % 7 == 0 or t.kept == t.units),
    "all": (
        {"params": 0.6},
        {"min_keep": 12, "max_ratio": 0.75, "round_to": 4},
        lambda t: t.kept % 4 == 0 and t.kept >= max(12, t.units / 4),
    ),
}


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_kept(name: str, allocation: str) -> None:
    objective, bounds, holds = BOUNDS[name]
    spec = {"objective": objective, "allocation": {"name": allocation, **bounds}}
    targets = fxprune.prune(chain(), spec, (torch.randn(2, 16),)).report.targets
    assert [target for target in targets if not holds(target)] == []
    assert any(target.kept < target.units for target in targets)


UNREACHABLE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "too few macs": ({"macs": 0.0001}, {}, r"objective\.macs: .*can go down to 0\.\d+"),
    "too few parameters": ({"params": 0.001}, {}, r"objective\.params: .*can go down to 0\.\d+"),
    "max_ratio forbids": ({"macs": 0.2}, {"max_ratio": 0.1}, r"can go down to 0\.[78]"),
    "ratio beyond max_ratio": ({"ratio": 0.5}, {"max_ratio": 0.25}, r"objective\.ratio.*0\.250"),
    "round_to as wide as all": ({"ratio": 0.5}, {"round_to": 128}, r"objective\.ratio.*0\.000"),
}


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("name", UNREACHABLE)
def test_goals_out_of_reach_name_the_nearest(name: str, allocation: str) -> None:
    objective, bounds, said = UNREACHABLE[name]
    spec = {"objective": objective, "allocation": {"name": allocation, **bounds}}
    with pytest.raises(ObjectiveError, match=said) as error:
        fxprune.prune(chain(), spec, (torch.randn(2, 16),))
    assert "\n" not in str(error.value)


class Looked(nn.Module):
    """Look rows up and add them: nothing multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 16)

    def forward(self, x: Tensor) -> Any:
        return self.table(x).sum(-1)


def test_a_model_without_macs_has_no_share_of_them() -> None:
    model = Looked()
    with pytest.raises(ObjectiveError, match="no macs"):
        fxprune.prune(model, {"objective": {"macs": 0.5}}, (torch.randint(0, 10, (2, 3)),))


def test_a_whole_is_left_whole() -> None:
    slim = fxprune.prune(chain(), {"objective": {"macs": 1.0}}, (torch.randn(2, 16),))
    assert slim.report.parameters_after == slim.report.parameters_before
    assert any("nothing was removed" in note for note in slim.report.notes)


# ---- against all choices -------------------------------------------------------------------------

WIDTHS = (6, 5, 4)


@pytest.mark.parametrize("goal", [0.9, 0.7, 0.55, 0.4, 0.25])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_no_choice_is_nearer(allocation: str, goal: float) -> None:
    """Every choice of widths of a tiny chain is tried; ours is as near, or within one per cent."""
    sizes = (7, *WIDTHS, 3)

    def macs(widths: tuple[int, ...]) -> int:
        return sum(a * b for a, b in pairwise(widths))

    model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
    spec = {"objective": {"macs": goal}, "allocation": allocation}
    report = fxprune.prune(model, spec, (torch.randn(2, 7),)).report
    choices = product(*(range(1, width + 1) for width in WIDTHS))
    nearest = min(abs(macs((7, *choice, 3)) / macs(sizes) - goal) for choice in choices)
    off = abs(report.macs_after / report.macs_before - goal)
    assert off <= max(nearest + 1e-9, TOLERANCE * goal)


# ---- no axis is emptied --------------------------------------------------------------------------


class Halves(nn.Module):
    """Two halves of one axis go different ways: each must keep something."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Conv2d(3, 16, 1)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.spread.weight[:8] *= 1e-3
            self.left.weight *= 1e-3

    def forward(self, x: Tensor) -> Any:
        left, right = self.spread(x).chunk(2, dim=1)
        return self.left(left) + self.right(right)


class Shared(nn.Module):
    """A whole axis, of which another layer reads a slice whose weights are the weakest."""

    def __init__(self) -> None:
        super().__init__()
        self.spread, self.whole = nn.Linear(4, 16), nn.Linear(16, 4)
        self.part = nn.Linear(3, 4)
        with torch.no_grad():
            for weight in (self.spread.weight[:3], self.whole.weight[:, :3], self.part.weight):
                weight *= 1e-3

    def forward(self, x: Tensor) -> Any:
        wide = self.spread(x).relu()
        return self.whole(wide) + self.part(wide[:, :3])


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize(("make", "shape"), [(Halves, (2, 3, 4, 4)), (Shared, (2, 4))])
@pytest.mark.parametrize("ratio", [0.5, 0.7])
def test_no_axis_is_emptied(make: Any, shape: Any, ratio: float, allocation: str) -> None:
    spec = {"objective": {"ratio": ratio}, "allocation": {"name": allocation, "round_to": 1}}
    slim = fxprune.prune(make(), spec, (x := torch.randn(shape),))
    assert slim(x).isfinite().all()
    assert min(size for p in slim.parameters() for size in p.shape) >= 1
    assert slim.report.parameters_after < slim.report.parameters_before
