"""Every module keeps its own mode, and `.train()` and `.eval()` do what they do on the original."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
HALF = {"target": {"exact": True}, "metric": "l2", "objective": {"ratio": 0.5}}


class Block(nn.Module):
    """Normalise and drop by functions, which follow the block's mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(8, 8), nn.Dropout(0.4)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: Tensor) -> Any:
        x = F.batch_norm(self.layer(x), self.mean, self.var, training=self.training)
        return F.dropout(self.drop(x), 0.3, self.training)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.norm(self.blocks(x)))


class Frozen(Net):
    """Hold its norm and its first block in evaluation, as fine-tuning of detectors does."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        self.blocks[0].eval()
        return self


class Adapted(nn.Module):
    """Add a small product to its weight, and merge it in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 8))
        self.low = nn.Parameter(torch.randn(16, 1))
        self.merged = False

    def train(self, mode: bool = True) -> Adapted:
        super().train(mode)
        if self.merged is mode:
            self.weight.data += (-1 if mode else 1) * self.low
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Any:
        return F.linear(x, self.weight) if self.merged else F.linear(x, self.weight + self.low)


def wrapped() -> nn.Module:
    """A model in evaluation, as it is loaded, in a wrapper that nobody has put there."""
    return nn.Sequential(Net().eval())


def partly() -> nn.Module:
    model = Net().train()
    model.blocks[1].eval()
    model.head[2].train(False)
    return model


def drops() -> nn.Module:
    """Evaluation, but for one dropout: uncertainty by sampling."""
    model = Net().eval()
    model.head[2].train()
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "training": lambda: Net().train(),
    "evaluation": lambda: Net().eval(),
    "wrapped": wrapped,
    "partly": partly,
    "drops": drops,
    "frozen by its class": lambda: Frozen().train(),
    "frozen by its class, in evaluation": lambda: Frozen().eval(),
}


def same(model: nn.Module, slim: nn.Module) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        expected = model(X)
        torch.manual_seed(seed)
        torch.testing.assert_close(slim(X), expected)


def modes_of(module: nn.Module, like: nn.Module) -> dict[str, bool]:
    """Return the modes of the modules that another has too."""
    shared = dict(like.named_modules())
    return {path: one.training for path, one in module.named_modules() if path in shared}


@pytest.mark.parametrize("form", ["itself", "copied", "pickled", "saved"])
@pytest.mark.parametrize("name", MODELS)
def test_every_module_keeps_its_mode(name: str, form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    before = {path: one.training for path, one in model.named_modules()}
    slim = fxprune.run(model, "restore", (X,))
    assert {path: one.training for path, one in model.named_modules()} == before
    if form == "copied":
        slim = copy.deepcopy(slim)
    elif form == "pickled":
        slim = pickle.loads(pickle.dumps(slim))
    elif form == "saved":
        fxprune.save(slim, tmp_path / "slim.pt2")
        slim = fxprune.load(tmp_path / "slim.pt2")
    assert modes_of(slim, model) == modes_of(model, slim)
    same(model, slim)
    for mode in (True, False, True):
        same(model.train(mode), slim.train(mode))
        assert modes_of(slim, model) == modes_of(model, slim)


def test_a_part_can_be_frozen_later() -> None:
    model = Net().train()
    slim = fxprune.run(model, "restore", (X,))
    for one in (model, slim):
        one.get_submodule("blocks.0").eval()
    same(model, slim)


def test_modes_survive_steps_and_fine_tuning() -> None:
    model, seen = partly(), list[Any]()

    def tune(module: nn.Module, step: int) -> None:
        seen.append(modes_of(module, model))
        module.train()

    spec = {**HALF, "schedule": {"name": "linear", "steps": 2}}
    slim = fxprune.prune(model, spec, (X,), fine_tune=tune)
    assert modes_of(slim, model) == modes_of(model, slim)
    assert seen == [modes_of(model, slim)] * 2
    evaluated = fxprune.prune(drops(), spec, (X,), fine_tune=tune)
    assert modes_of(evaluated, model) == modes_of(drops(), evaluated)
    assert all(seen[-1].values())


def test_the_recipe_keeps_what_is_frozen() -> None:
    seen: list[bool] = []

    def loss(module: nn.Module, batch: Tensor) -> Tensor:
        seen.append(module.get_submodule("norm").training)
        return module(batch).square().mean()

    model = Net().train()
    model.norm.eval()
    slim = fxprune.run(model, "restore", (X,))
    fxprune.FineTune(batches=[X], loss=loss, epochs=2, recalibrate=False)(slim, 0)
    assert seen == [False, False]
    assert not slim.get_submodule("norm").training


def test_a_train_that_changes_weights_is_not_called() -> None:
    model = nn.Sequential(Adapted(), nn.ReLU(), nn.Linear(16, 4)).train()
    weights = copy.deepcopy(model.state_dict())
    expected = model(X)
    slim = fxprune.prune(model, {"objective": {"ratio": 0.5}}, (X,))
    assert model[0].merged is False
    assert all(torch.equal(weights[name], now) for name, now in model.state_dict().items())
    whole = fxprune.run(model, "restore", (X,))
    torch.testing.assert_close(whole(X), expected)
    assert "0.low" in whole.state_dict()
    assert slim(X).shape == expected.shape
