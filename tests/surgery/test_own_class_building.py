"""A configuration says the narrowed model where it can: the class built of it takes the weights."""

from __future__ import annotations

import copy

import pytest
import torch

import fxprune
from tests.support.own_classes import TOKENS, Decoder, config

SAME = {"name": "uniform", "same": "structure", "round_to": 1}
HALF = {"metric": "l1", "allocation": SAME, "objective": {"ratio": 0.5}}
SPEC = {**HALF, "target": {"exclude": ["*head_dim*"]}}


def test_stock_code_builds_the_narrowed_model() -> None:
    model = Decoder(config()).eval()
    own = fxprune.prune(model, SPEC, (TOKENS,), result="module")
    found = vars(own.config)
    assert found | {"hidden": 16, "inner": 24, "heads": 2, "kv_heads": 2} == found
    assert vars(model.config) == vars(config())
    stock = Decoder(copy.deepcopy(own.config)).eval()
    stock.load_state_dict(own.state_dict(), strict=True)
    torch.testing.assert_close(stock(TOKENS), own(TOKENS), rtol=0, atol=0)


def test_a_class_that_would_compute_otherwise_is_not_told() -> None:
    """Its scale follows the size of its heads, and what is pruned keeps the scale that it had."""
    own = fxprune.prune(Decoder(config()).eval(), HALF, (TOKENS,), result="module")
    assert own.layers[0].attention.head_dim == 2
    assert vars(own.config) == vars(config())


def test_widths_that_no_configuration_says_leave_it_as_it_is() -> None:
    model = Decoder(config()).eval()
    target = [{"kind": "hidden", "include": ["layers.0.*"], "width": 10}]
    slim = fxprune.prune(model, {"target": target, "objective": {"ratio": 0.0}}, (TOKENS,))
    own = slim.write_back(model)
    assert own.layers[0].up.out_features == 10
    assert vars(own.config) == vars(config())


@pytest.mark.parametrize("width", [7, 12])
def test_what_a_class_is_built_of_may_be_its_own_integers(width: int) -> None:
    model = Small(24, 5).eval()
    target = [{"kind": ["hidden", "channel"], "width": width}]
    slim = fxprune.prune(
        model, {"target": target, "objective": {"ratio": 0.0}}, (torch.ones(2, 5),)
    )
    own = slim.write_back(model)
    assert own.width == width
    Small(own.width, own.size).load_state_dict(own.state_dict(), strict=True)


class Small(torch.nn.Module):
    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.width, self.size = width, size
        self.up, self.down = torch.nn.Linear(size, width), torch.nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x).relu())


def test_what_no_shape_tells_is_told_by_the_proof() -> None:
    """Of a width that heads share, it takes the graph to tell how many there are."""
    model = Shared(32, 4).eval()
    spec = {**HALF, "target": {"exclude": ["*head_dim*"]}}
    own = fxprune.prune(model, spec, (torch.ones(2, 5, 6),), result="module")
    assert own.width == 16
    assert own.heads == 2
    stock = Shared(own.width, own.heads).eval()
    stock.load_state_dict(own.state_dict(), strict=True)
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(stock(x), own(x), rtol=0, atol=0)


class Shared(torch.nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads, self.size = width, heads, width // heads
        self.embed = torch.nn.Linear(6, width)
        self.q, self.k, self.v = (torch.nn.Linear(width, width) for _ in range(3))
        self.out, self.head = torch.nn.Linear(width, width), torch.nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        form = (*x.shape[:-1], -1, self.size)
        q, k, v = (one(x).view(form).transpose(1, 2) for one in (self.q, self.k, self.v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.25)
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))
