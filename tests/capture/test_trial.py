"""A forward that is run for real leaves nothing behind, in tensors and their views neither."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fxprune.capture.trial import trial
from tests.support.state_keepers import KEEPERS, Keeper, described, differences


@pytest.mark.parametrize("kind", KEEPERS)
def test_a_trial_changes_nothing(kind: type[Keeper]) -> None:
    model, x = kind(), torch.ones(4, 8)
    before = described(model, x)
    with trial(model, x), torch.no_grad():
        model(x)
    assert differences(before, described(model, x)) == []


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.ones(4, 3)), nn.BatchNorm1d(3)
        self.register_buffer("row", self.weight.data[1])
        self.opened = [torch.zeros(2)]
        self.fixed = torch.from_numpy(np.zeros(3))  # of a storage that cannot be resized

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.row.zero_()
            self.fixed.add_(1)
            self.weight[2:].t().mul_(3)
            torch.add(x[0], 1, out=x[1])
            self.opened[0].resize_(4).fill_(1)
            torch._foreach_add_([self.norm.weight, self.norm.bias], 1)
        return self.norm.eval()(x)


def test_views_and_outs_and_lists_are_put_back() -> None:
    model, x = Writer(), torch.ones(4, 3)
    before = [one.clone() for one in (*model.state_dict().values(), x, model.fixed, *model.opened)]
    with trial(model, x):
        model(x)
    after = [*model.state_dict().values(), x, model.fixed, *model.opened]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert model.norm.training


def test_a_raise_is_undone_too() -> None:
    x = torch.ones(2)
    with pytest.raises(ZeroDivisionError), trial(x):
        x.mul_(1 / 0)
    with pytest.raises(ValueError), trial(x):
        x.mul_(2).tolist().remove(3)
    assert x.tolist() == [1, 1]
