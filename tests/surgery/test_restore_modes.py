from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.capture import capture
from fxprune.surgery import SlimModule, restore


def restored(model: nn.Module, x: Tensor) -> SlimModule:
    return restore(capture(copy.deepcopy(model), x).module, training=False)


def same(model: nn.Module, slim: nn.Module, x: Tensor) -> bool:
    """Tell whether both give the same in evaluation and in training, and keep the same buffers."""
    for mode in (False, True):
        outs = []
        for module in (model, slim):
            torch.manual_seed(3)
            outs.append(module.train(mode)(x))
        if not torch.equal(*outs):
            return False
    return all(map(torch.equal, model.buffers(), slim.buffers()))


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(()) if self.training else x


class NormAct(nn.BatchNorm1d):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))  # type: ignore[no-any-return]


class Twofold(nn.Module):
    """One convolution and one norm, each called in two ways; a state made of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.cell = nn.LSTM(4, 4, 2, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) + F.conv1d(x, self.conv.weight, self.conv.bias, dilation=1)
        mean, var = self.norm.running_mean, self.norm.running_var
        x = self.norm(x) + F.batch_norm(x, mean, var, eps=0.1, training=self.training)
        x = x.permute(2, 0, 1)
        state = torch.ones(2, x.shape[1], 4)
        return self.cell(x, (state, state))[0]  # type: ignore[no-any-return]


def test_modules_that_work_in_training_only() -> None:
    model = nn.Sequential(nn.Linear(4, 4), NormAct(4), DropPath(), nn.Dropout()).eval()
    x = torch.randn(3, 4)
    slim = restored(model, x)
    assert type(slim.get_submodule("2")) is DropPath
    assert type(slim.get_submodule("1.act")) is nn.ReLU
    assert same(model, slim, x)


def test_calls_in_two_ways() -> None:
    model, x = Twofold().eval(), torch.randn(3, 4, 8)
    assert same(model, restored(model, x), x)
