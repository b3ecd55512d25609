"""A length that is dynamic: what is taken along it stays where it was, whatever else leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from tests.networks.whole import analyse, obey, randomise

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "the last": lambda x: x[:, -1],
    "one but the last": lambda x: x.select(1, -2),
    "the last few": lambda x: x[:, -3:],
    "all but the last": lambda x: x[:, :-1],
    "narrowed": lambda x: x.narrow(1, -3, 2),
    "every second": lambda x: x[:, 1::2],
    "backwards": lambda x: x.flip(1),
    "rolled": lambda x: x.roll(-1, 1),
    "padded": lambda x: nn.functional.pad(x, (0, 0, 2, 1)),
    "cropped": lambda x: nn.functional.pad(x, (0, 0, -2, -1)),
    "the last written": lambda x: torch.select_scatter(x, x[:, 0], 1, -1),
    "the last few written": lambda x: torch.slice_scatter(x, x[:, :2], 1, -2),
    "written in place": lambda x: _written(x.clone()),
    "repeated": lambda x: x.repeat(1, 2, 1),
    "each repeated": lambda x: x.repeat_interleave(3, 1),
    "squeezed": lambda x: x[:, None].squeeze(1),
}


def _written(x: Tensor) -> Tensor:
    x[:, -1] = 0
    x[:, ::2].relu_()
    return x


class Moved(nn.Module):
    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 4)
        self.move = move

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.move(self.first(x)))


@pytest.mark.parametrize("name", MOVES)
def test_another_length(name: str) -> None:
    model, x = Moved(MOVES[name]), torch.randn(2, 12, 5)
    randomise(model)
    shapes = {"x": {0: Dim.AUTO, 1: Dim.AUTO}}
    exported = torch.export.export(model, (x,), dynamic_shapes=shapes)
    analysis = analyse(model, exported)
    assert not analysis.coupling.failed
    assert analysis.discovery.targets
    obey(analysis, (torch.randn(3, 17, 5),), (torch.randn(2, 8, 5),), ratio=0.5)
