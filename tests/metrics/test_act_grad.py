"""|activation · gradient| against what ordinary autograd keeps of the activations themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.metrics_of import scores
from tests.support.noise import integers, noise
from tests.support.small_nets import TOKENS, Attention, Chain, Fixed, Residual, X

BATCHES = [(noise(n, 3, 6, 6, seed=n), integers(4, n, seed=n)) for n in (4, 3, 5)]
NAME = "stem:channel"
Found = list[tuple[Tensor, int, int | None]]  # activation, dimension of units, that of examples


def entropy(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def square(module: nn.Module, batch: Any) -> Tensor:
    return module(batch).square().mean()


def told(activation: Tensor, dim: int, examples: int | None, together: bool) -> Any:
    """Return E|Σ h·g| of one activation that kept its gradient, one example after the other."""
    assert activation.grad is not None
    product = (activation * activation.grad).detach().double()
    rest = 0.0
    for one in [product] if examples is None else product.split(1, examples):
        rows = one.movedim(dim, 0).flatten(1)
        rest = rest + (rows.sum(1).abs() if together else rows.abs().sum(1))
    return rest.numpy()


def reference(
    batches: list[Any], run: Callable[[Any], tuple[Found, Tensor]], together: bool = True
) -> Any:
    """Average over batches, and over the places that the units are seen at."""
    total = 0.0
    for batch in batches:
        found, loss = run(batch)
        for activation, *_ in found:
            activation.retain_grad()
        loss.backward()
        total = total + sum(told(*one, together) for one in found) / len(found)
    return total / len(batches)


def of_residual(model: Residual) -> Callable[[Any], tuple[Found, Tensor]]:
    def run(batch: Any) -> tuple[Found, Tensor]:
        first = model.norm(model.stem(batch[0])).relu()
        second = first + model.other(model.body(first))
        loss = F.cross_entropy(model.head(second.mean((2, 3))), batch[1])
        return [(first, 1, 0), (second, 1, 0)], loss

    return run


def test_by_hand() -> None:
    # the hidden features are (1, 19, 0) and (0, 1, 4), their gradients (2, −1, 6) where not cut off
    x = torch.tensor([[6.0, 0.0], [0.0, 1.0]])
    found = scores(Chain(), "act-grad", (x,), calibrate=[x], loss=lambda m, b: m(b).sum())
    np.testing.assert_allclose(found["first:hidden"], [2, 19 + 1, 24], rtol=1e-6)


@pytest.mark.parametrize("together", [True, False])
def test_channels_are_seen_after_the_relu_and_after_the_sum(together: bool) -> None:
    model = Residual().eval()
    wanted = reference(BATCHES, of_residual(model), together)
    found = scores(model, "act-grad", X, calibrate=BATCHES, loss=entropy, together=together)
    np.testing.assert_allclose(found[NAME], wanted, rtol=1e-4)
    other = scores(model, "act-grad", X, calibrate=BATCHES, loss=entropy, together=not together)
    assert not np.allclose(other[NAME], wanted, rtol=0.05)


class InPlace(nn.Module):
    """Change the activation in place right behind where it is seen: no contraction reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.first(x)
        seen.mul_(3)
        return seen.square().sum(1, keepdim=True)


class Windows(nn.Module):
    """Attend within halves of the sequence, folded into the leading axis; heads of one fused."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(6, 18), nn.Linear(6, 6)

    def mixed(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 2, 6)  # [2·batch, 2, 6]
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 3)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.mixed(x).transpose(1, 2).flatten(2)).reshape(-1, 4, 6)


class TimeFirst(nn.Module):
    """Carry the examples along the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 6)

    def seen(self, x: Tensor) -> Tensor:
        return self.first(x.transpose(0, 1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.seen(x)).transpose(0, 1)


@pytest.mark.parametrize("together", [True, False])
def test_heads_are_seen_where_attention_leaves_them(together: bool) -> None:
    model, batches = Attention().eval(), [torch.randn(4, 5, 6), torch.randn(3, 5, 6)]

    def run(dim: int) -> Callable[[Any], tuple[Found, Tensor]]:
        def ran(x: Tensor) -> tuple[Found, Tensor]:
            mixed = model.mixed(x)
            out = model.proj(mixed.transpose(1, 2).flatten(2))
            return [(mixed, dim, 0)], out.square().mean()

        return ran

    found = scores(model, "act-grad", TOKENS, calibrate=batches, loss=square, together=together)
    for name, dim in (("qkv:head", 1), ("qkv:head_dim", 3)):
        wanted = reference(batches, run(dim), together)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4)


def test_windows_of_one_example_belong_together() -> None:
    model, x = Windows().eval(), torch.randn(3, 4, 6)
    mixed = model.mixed(x)
    mixed.retain_grad()
    model.proj(mixed.transpose(1, 2).flatten(2)).square().mean().backward()
    product = (mixed * mixed.grad).detach().unflatten(0, (3, 2))
    wanted = product.sum((1, 3, 4)).abs().sum(0)
    found = scores(model, "act-grad", (torch.randn(2, 4, 6),), calibrate=[x], loss=square)
    np.testing.assert_allclose(found["qkv:head"], wanted, rtol=1e-4)


def test_examples_along_another_axis() -> None:
    model, x = TimeFirst().eval(), torch.randn(3, 5, 6)

    def run(batch: Tensor) -> tuple[Found, Tensor]:
        seen = model.seen(batch)
        return [(seen, 2, 1)], model.last(seen).square().mean()

    (found,) = scores(model, "act-grad", TOKENS, calibrate=[x], loss=square).values()
    np.testing.assert_allclose(found, reference([x], run), rtol=1e-4)


def test_what_changes_in_place_later_counts_as_it_was() -> None:
    model, x = InPlace().eval(), torch.randn(6, 4)

    def run(batch: Tensor) -> tuple[Found, Tensor]:
        seen = model.first(batch)
        return [(seen, 1, 0)], (3 * seen).square().sum(1, keepdim=True).square().mean()

    (found,) = scores(model, "act-grad", (torch.randn(2, 4),), calibrate=[x], loss=square).values()
    np.testing.assert_allclose(found, reference([x], run), rtol=1e-4)


def test_a_fixed_batch_size_does_not_tell_examples_apart() -> None:
    model, x = Fixed().eval(), torch.randn(4, 2)

    def run(batch: Tensor) -> tuple[Found, Tensor]:
        seen = model.first(batch).relu()
        return [(seen, 1, None)], model.last(seen).square().mean()

    exported = torch.export.export(model, (x,))
    (found,) = scores(exported, "act-grad", None, calibrate=[x], loss=square).values()
    np.testing.assert_allclose(found, reference([x], run), rtol=1e-4)


def test_streaming_averages_batches() -> None:
    model = Residual().eval()
    alone = [
        scores(model, "act-grad", X, calibrate=[batch], loss=entropy)[NAME] for batch in BATCHES
    ]
    found = scores(model, "act-grad", X, calibrate=iter(BATCHES), loss=entropy)[NAME]
    np.testing.assert_allclose(found, np.mean(alone, axis=0), rtol=1e-5)


def test_calls_of_the_module_add_up_and_those_without_gradients_do_not_count() -> None:
    model = Residual().eval()

    def twice(module: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            module(batch[0])
        return entropy(module, batch) + entropy(module, batch)

    once = scores(model, "act-grad", X, calibrate=BATCHES, loss=entropy)[NAME]
    both = scores(model, "act-grad", X, calibrate=BATCHES, loss=twice)[NAME]
    np.testing.assert_allclose(both, 2 * once, rtol=1e-5)


def test_keyword_inputs_and_nested_ones() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Residual()

        def forward(self, pair: Any, *, scale: Tensor) -> Any:
            return {"out": self.net(pair[0]) * scale + pair[1]}

    torch.manual_seed(3)
    model, (x, y) = Nested().eval(), BATCHES[0]
    example = (((X[0], torch.zeros(2, 1)),), {"scale": torch.ones(2, 1)})

    def loss(module: nn.Module, batch: Any) -> Tensor:
        zeros, ones = torch.zeros(len(x), 1), torch.ones(len(x), 1)
        return F.cross_entropy(module((batch[0], zeros), scale=ones)["out"], batch[1])

    found = scores(model, "act-grad", example, calibrate=[(x, y)], loss=loss)["net.stem:channel"]
    wanted = scores(model.net, "act-grad", X, calibrate=[(x, y)], loss=entropy)[NAME]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
