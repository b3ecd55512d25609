"""A Function with a backward of its own trains in the smaller module as in the original."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function

import fxprune
from fxprune.capture import capture
from fxprune.plan import Plan
from tests.support.noise import noise
from tests.support.own_functions import KEPT, LOST, Binary, Net, Sign

HALF = {"target": {"kind": "all", "exact": True}, "metric": "l2", "objective": {"ratio": 0.5}}
STEPS = {**HALF, "schedule": {"name": "linear", "steps": 2}}
X = noise(4, 6)


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    module(x).square().sum().backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def zeroed(model: nn.Module, plan: Plan) -> nn.Module:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for dim, kept in enumerate(plan.kept.get(name, ())):
                gone = torch.ones(parameter.shape[dim], dtype=torch.bool)
                gone[kept] = False
                parameter.index_fill_(dim, gone.nonzero().flatten(), 0)
    return model


def same(model: nn.Module, slim: Any, x: Tensor) -> None:
    """Compare the gradients of what is kept with those of the original, zeroed."""
    expected, found = gradients(zeroed(model, slim.plan), x), gradients(slim, x)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        for dim, kept in enumerate(slim.plan.kept[name]):
            gradient = gradient.index_select(dim, kept)
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", KEPT)
def test_the_gradients_are_those_of_the_model(name: str, mode: bool) -> None:
    model = Net(KEPT[name]).train(mode)
    slim = fxprune.prune(model, HALF, (X,))
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())
    assert not any("backward" in note for note in slim.report.notes)
    for x in (X, noise(7, 6)):
        same(model, slim, x)
        torch.testing.assert_close(slim(x), zeroed(model, slim.plan)(x))


FORMS = {
    "copied": copy.deepcopy,
    "captured again": lambda slim: _planned(slim, fxprune.run(slim, "restore", (X,))),
}


def _planned(slim: Any, again: Any) -> Any:
    again.plan = slim.plan
    return again


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", KEPT)
def test_the_gradients_survive(name: str, form: str) -> None:
    model = Net(KEPT[name])
    same(model, FORMS[form](fxprune.prune(model, HALF, (X,))), X)


def test_a_pickled_module_calls_the_function() -> None:
    model = Net(KEPT["a sign"])
    same(model, pickle.loads(pickle.dumps(fxprune.prune(model, HALF, (X,)))), X)


@pytest.mark.parametrize("name", KEPT)
def test_steps_keep_the_functions(name: str) -> None:
    model = Net(KEPT[name])
    same(model, fxprune.prune(model, STEPS, (X,)), X)


def test_weights_that_are_made_of_weights() -> None:
    model, x = Binary(), noise(2, 3, 8, 8)
    slim = fxprune.prune(model, HALF, (x,))
    assert slim.plan.kept["a.weight"][0].numel() == 4
    same(model, slim, x)


def test_frozen_parameters_keep_it_too() -> None:
    model = Net(KEPT["a sign"]).requires_grad_(False)
    slim = fxprune.run(fxprune.prune(model, HALF, (X,)), "restore", (X,))
    slim.requires_grad_(True)
    assert gradients(slim, X)["a.weight"].norm() > 0


@pytest.mark.parametrize("why", LOST)
def test_what_is_not_kept_is_named(why: str) -> None:
    model = Net(LOST[why])
    slim = fxprune.prune(model, HALF, (X,))
    assert any(why in note and "backward is not kept" in note for note in slim.report.notes)
    torch.testing.assert_close(slim(X), zeroed(model, slim.plan)(X))


def test_the_class_is_as_it_was() -> None:
    before = dict(vars(Sign))
    capture(Net(KEPT["inherited"]), (X,))
    assert dict(vars(Sign)) == before
    assert "forward" not in vars(Sign.__subclasses__()[0])


def test_metrics_take_its_gradients() -> None:
    """Without it no gradient would reach the first layer, and no unit of it would matter."""
    model = Net(KEPT["a sign"])
    gradient, weight = gradients(model, X)["a.weight"], model.a.weight
    wanted = (gradient * weight).abs().sum(1).argsort()[8:].sort().values
    slim = fxprune.prune(model, {**HALF, "metric": "gradient"}, (X,), calibrate=[X], loss=loss)
    assert slim.plan.kept["a.weight"][0].tolist() != list(range(8))
    assert len(set(slim.plan.kept["a.weight"][0].tolist()) & set(wanted.tolist())) >= 6


def loss(module: nn.Module, x: Tensor) -> Tensor:
    return module(x).square().sum()


def test_other_calls_take_it_as_what_it_computes(tmp_path: Path) -> None:
    model = Net(KEPT["learned steps"]).eval()
    with torch.no_grad():
        model.b.weight[3:9], model.b.bias[3:9] = 0, 0
    fast = fxprune.speedup(model, (X,))
    assert fast.get_submodule("b").out_features == 18
    assert gradients(fast, X)["a.weight"].norm() > 0
    assert fxprune.export_onnx(fast, tmp_path / "a.onnx").error < 1e-5
    onnx = fxprune.export_onnx(model, tmp_path / "b.onnx", (X,))
    assert onnx.error < 1e-5
    torch.testing.assert_close(torch.export.export(fast, (X,)).module()(X), model(X))
    assert torch.fx.symbolic_trace(fast)(X).shape == (4, 3)


def test_a_file_says_that_it_lacks_it(tmp_path: Path) -> None:
    slim = fxprune.prune(Net(KEPT["a sign"]), HALF, (X,))
    fxprune.save(slim, tmp_path / "a.pt2")
    assert not any("backward" in note for note in slim.report.notes)
    loaded = fxprune.load(tmp_path / "a.pt2")
    assert any("Sign" in note and "backward" in note for note in loaded.report.notes)
    torch.testing.assert_close(loaded(X), slim(X))


def test_torchs_own_are_what_they_compute() -> None:
    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, x: Tensor) -> Any:
            return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=True)

    x = X.clone().requires_grad_()
    model = Saving()
    slim = fxprune.prune(model, HALF, (X,))
    assert not any(isinstance(one, Function) for one in slim.modules())
    same(model, slim, x)
