"""The metric obs: what consumers lose without a unit, once the rest is refitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune import passes, pipeline
from fxprune.capture import capture
from fxprune.errors import CalibrationError, SpecError
from fxprune.metrics import Calibration
from fxprune.metrics.elimination import Block, eliminated
from fxprune.metrics.registry import Curve, Scored
from fxprune.targets import Selection
from tests.support.noise import noise


class Mlp(nn.Module):
    """Two hidden layers."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, hidden), nn.Linear(hidden, 8)
        self.c = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


class Residual(nn.Module):
    """A stem that three layers read, a grouped and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner, self.depth = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8)
        self.back, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        inner = self.depth(self.inner(x).relu()).relu()
        return self.head((x[:, :, 1:-1, 1:-1] + self.back(inner)).relu().mean((2, 3)))


def scored(model: nn.Module, batches: Any, **options: Any) -> dict[str, tuple[Any, Any]]:
    """Return scores and losses of each target, units in the order of their first index."""
    program = capture(model.eval(), (batches[0],)).with_(Calibration(batches))
    steps = [("couple", {}), ("select", {}), ("score", {"metric": "obs", "options": options})]
    program = pipeline.run(program, [passes.make(name, given) for name, given in steps])
    found = program[Scored]
    pairs = zip(program[Selection].targets, found.scores, found.losses, strict=True)
    return {t.name: (s[np.argsort(t.units, kind="stable")], lost) for t, s, lost in pairs}


def refitted(x: Tensor, weights: Tensor, gone: list[int]) -> float:
    """Return what a layer loses without some features, the others refitted, as a share."""
    y = x @ weights
    left = x[:, [k for k in range(x.shape[1]) if k not in gone]]
    x1, y1 = left - left.mean(0), y - y.mean(0)
    off = y1 - x1 @ torch.linalg.lstsq(x1, y1).solution
    return float(off.square().sum() / y1.square().sum())


def test_the_loss_is_that_of_refitting_the_rest() -> None:
    model, x = Mlp(), noise(400, 6)
    found, lost = scored(model, [x], damping=0.0)["a:hidden"]
    h = model.a(x).relu().detach().double()
    weights = model.b.weight.detach().double().T
    singles = [refitted(h, weights, [k]) for k in range(8)]
    order = np.argsort(found)
    assert order[0] == int(np.argmin(singles))
    for many in range(1, 8):
        wanted = refitted(h, weights, order[:many].tolist())
        assert lost[many - 1] == pytest.approx(wanted, rel=3e-2, abs=1e-7)
    assert lost[7] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("weigh", ["relative", "outputs"])
def test_curves_never_fall_and_scores_follow_them(weigh: str) -> None:
    for scores, lost in scored(Residual(), [noise(6, 3, 8, 8)] * 2, weigh=weigh).values():
        assert (np.diff(lost, prepend=0.0) >= 0.0).all()
        assert len(np.unique(scores)) == len(scores)


def test_what_others_say_goes_first_and_costs_nothing() -> None:
    model = Mlp()
    with torch.no_grad():
        model.a.weight[5], model.a.bias[5] = 2.0 * model.a.weight[1], 2.0 * model.a.bias[1]
        model.a.weight[7], model.a.bias[7] = 0.0, 0.3  # constant, which a bias makes up for
    x = noise(300, 6)
    scores, lost = scored(model, [x], damping=1e-6)["a:hidden"]
    assert {1, 5} & set(np.argsort(scores)[:2].tolist())
    assert 7 in np.argsort(scores)[:2]
    assert lost[1] < 1e-4
    spec = {
        "target": {"include": ["a"]},
        "metric": {"name": "obs", "damping": 1e-6},
        "allocation": {"round_to": 1},
        "objective": {"ratio": 0.25},
        "repair": {"name": "least-squares", "damping": 0.0},
    }
    slim = fxprune.prune(model, spec, (x[:2],), calibrate=[x])
    assert slim.report.targets[0].kept == 6
    torch.testing.assert_close(slim(x), model(x), rtol=1e-4, atol=1e-4)


def test_depthwise_weights_are_no_consumers_of_what_leaves_with_them() -> None:
    model, x = Residual(), noise(8, 3, 8, 8)
    with torch.no_grad():
        model.back.weight[:, 3] = 0.0
    scores, lost = scored(model, [x])["inner:channel"]
    assert np.argmin(scores) == 3
    assert lost[0] < 1e-9


def test_outputs_weigh_a_layer_by_what_it_changes() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 6)
            self.c, self.d = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x).relu()) + 0.01 * self.d(self.b(x).relu())

    model, x = Two(), noise(200, 4)
    with torch.no_grad():
        for mine, yours in ((model.a, model.b), (model.c, model.d)):
            yours.load_state_dict(mine.state_dict())
    found = scored(model, [x], weigh="outputs")
    assert found["a:hidden"][1][-1] > 1e3 * found["b:hidden"][1][-1] > 0.0
    alike = scored(model, [x])
    assert alike["a:hidden"][1][-1] == pytest.approx(alike["b:hidden"][1][-1], rel=1e-4)


def test_several_at_once_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(500, 40).double()
    moments, weights = x.T @ x / 500, noise(40, 5).double()
    owners = np.repeat(np.arange(10), 4)

    def lost() -> Any:
        return eliminated([Block(moments, weights, owners, 1e-9)], 10)[1]

    alone = lost()
    monkeypatch.setattr("fxprune.metrics.elimination.ROUNDS", 3)
    together = lost()
    assert together[-1] == pytest.approx(alone[-1], rel=1e-6)
    ends = [2, 4, 5, 6, 7, 8, 9]  # of the rounds, of 3, 2, 1, … units
    assert (together[ends] >= alone[ends] - 1e-6).all()


def test_scores_of_a_curve_keep_its_order() -> None:
    curve = Curve(np.array([2, 0, 1, 3]), np.array([0.0, 0.0, 3.0, 4.0]))
    assert np.argsort(curve.scores).tolist() == [2, 0, 1, 3]


def test_a_norm_behind_makes_small_results_count() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    small: Any = model
    with torch.no_grad():  # each result repeats one unit, the second a thousand times smaller
        small[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1e-3]]))
        small[0].weight.copy_(torch.eye(4)[:2])
        small[2].running_var.copy_(torch.tensor([1.0, 1e-6]))
        small[2].eps = 1e-12
    scores, _ = scored(model, [torch.randn(4000, 4)], damping=1e-9)["0:hidden"]
    assert scores.max() < 1.5 * scores.min()


@pytest.mark.parametrize("batch", [noise(1, 6), noise(3, 6), torch.zeros(4, 6)])
def test_few_and_dead_inputs_give_finite_curves(batch: Tensor) -> None:
    for scores, lost in scored(Mlp(), [batch] if len(batch) > 1 else [batch, batch]).values():
        assert np.isfinite(scores).all()
        assert np.isfinite(lost).all()


def test_half_precision_is_summed_in_double() -> None:
    found = scored(Mlp().bfloat16(), [noise(50, 6).bfloat16()])
    assert all(np.isfinite(lost).all() for _, lost in found.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    x = noise(4, 6)
    x[2, 3] = value
    with pytest.raises(CalibrationError, match="not finite"):
        scored(Mlp(), [noise(4, 6), x])


def test_it_needs_batches_and_legal_options() -> None:
    x = noise(4, 6)
    with pytest.raises(SpecError, match="calibrate"):
        fxprune.prune(Mlp(), {"metric": "obs", "objective": {"macs": 0.5}}, (x,))
    spec = {"metric": {"name": "obs", "damping": -1.0}, "objective": {"macs": 0.5}}
    with pytest.raises(SpecError, match="damping"):
        fxprune.prune(Mlp(), spec, (x,), calibrate=[x])


def test_optimal_takes_the_curves() -> None:
    """Of two layers alike, the one whose units repeat each other loses them."""
    model, x = Mlp(16), noise(200, 6)
    with torch.no_grad():
        model.a.weight[8:], model.a.bias[8:] = 1.5 * model.a.weight[:8], 1.5 * model.a.bias[:8]
    spec = {
        "metric": {"name": "obs", "damping": 1e-6},
        "allocation": {"name": "optimal", "round_to": 1},
        "objective": {"macs": 0.55},
    }
    slim = fxprune.prune(model, spec, (x[:2],), calibrate=[x])
    kept = {one.name: one.kept for one in slim.report.targets}
    assert kept == {"a:hidden": 8, "b:hidden": 8}
    assert float((slim(x) - model(x)).detach().abs().max()) < 1e-3
