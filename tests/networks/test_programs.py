"""Programs that others exported: decomposed to core operators, or with several dynamic sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.networks.test_structures import NETWORKS
from tests.networks.whole import analyse, obey, randomise


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_decomposed(network: Any) -> None:
    model = network().eval()
    randomise(model)
    shapes = [{0: Dim.AUTO} for _ in model.inputs]
    exported = torch.export.export(model, model.inputs, dynamic_shapes=shapes, strict=False)
    analysis = analyse(model, exported.run_decompositions())
    obey(analysis, tuple(torch.cat([x, x[:1]]) for x in model.inputs))
    obey(analysis, exact=False)


class AnySize(nn.Module):
    """Attend over an image of any size, heads folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 4, 1)
        self.q, self.k = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        n, c, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        q, k = (
            f(tokens).view(n, h * w, 3, 4).transpose(1, 2).reshape(n * 3, h * w, 4)
            for f in (self.q, self.k)
        )
        mixed = (q @ k.transpose(1, 2)).softmax(-1) @ k
        mixed = mixed.view(n, 3, h * w, 4).transpose(1, 2).reshape(n, h, w, c)
        return self.last(mixed.permute(0, 3, 1, 2) + x)


def test_several_dynamic_sizes() -> None:
    model, x = AnySize(), torch.randn(2, 3, 8, 6)
    shapes = {"x": {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}}
    randomise(model)
    analysis = analyse(model, torch.export.export(model, (x,), dynamic_shapes=shapes))
    assert {target.kind for target in analysis.discovery.targets} == {"head", "head_dim"}
    assert len(analysis.discovery.targets) == 2
    obey(analysis, (torch.randn(3, 3, 5, 7),))
