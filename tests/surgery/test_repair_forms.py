"""Every contraction, as rows of features times a matrix, gives what its operator gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.capture import capture
from fxprune.graphs import attribute
from fxprune.surgery.repair.contractions import READERS, Contraction, contraction_of
from tests.support.noise import noise

aten = torch.ops.aten


class Weighed(nn.Module):
    """Call a function of the input and of some parameters."""

    def __init__(self, call: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.call = call
        for number, shape in enumerate(shapes):
            self.register_parameter(f"w{number}", nn.Parameter(noise(*shape, seed=number)))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, *self.parameters())


IMAGE, LINE, BLOCK = (2, 4, 7, 6), (2, 4, 9), (2, 4, 5, 4, 3)
CALLS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (partial(nn.Linear, 4, 3), (5, 4)),
    "linear of tokens": (partial(nn.Linear, 4, 3), (2, 5, 4)),
    "linear without bias": (partial(nn.Linear, 4, 3, bias=False), (2, 3, 2, 4)),
    "conv1d": (partial(nn.Conv1d, 4, 6, 3, stride=2, padding=1), LINE),
    "conv2d": (partial(nn.Conv2d, 4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=2), IMAGE),
    "conv3d": (partial(nn.Conv3d, 4, 6, 2, padding=1, bias=False), BLOCK),
    "same": (partial(nn.Conv2d, 4, 6, (4, 3), padding="same"), IMAGE),
    "valid": (partial(nn.Conv1d, 4, 6, 3, padding="valid"), LINE),
    "groups": (partial(nn.Conv2d, 4, 6, 3, groups=2), IMAGE),
    "depthwise": (partial(nn.Conv2d, 4, 8, 3, padding=1, groups=4), IMAGE),
    "transposed1d": (partial(nn.ConvTranspose1d, 4, 6, 3, stride=2, padding=1), LINE),
    "transposed2d": (
        partial(nn.ConvTranspose2d, 4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        IMAGE,
    ),
    "transposed3d": (partial(nn.ConvTranspose3d, 4, 3, 2, stride=1, padding=2, dilation=2), BLOCK),
    "convolution": (
        partial(
            Weighed,
            lambda x, w: torch.convolution(x, w, None, [1], [1], [1], True, [0], 2),
            (4, 3, 3),
        ),
        LINE,
    ),
    "right matrix": (partial(Weighed, lambda x, w: x @ w, (4, 3)), (2, 5, 4)),
    "left matrix": (partial(Weighed, lambda x, w: w @ x, (3, 4)), (2, 4, 5)),
    "turned": (partial(Weighed, lambda x, w: x @ w.t(), (3, 4)), (2, 4)),
    "vector": (partial(Weighed, lambda x, w: x @ w, (4,)), (2, 4)),
    "experts": (partial(Weighed, lambda x, w: torch.bmm(x, w), (2, 4, 3)), (2, 5, 4)),
    "heads": (partial(Weighed, lambda x, w: x @ w, (3, 4, 2)), (2, 3, 5, 4)),
    "one for all": (partial(Weighed, lambda x, w: x @ w, (1, 4, 2)), (2, 3, 5, 4)),
    "many of one": (partial(Weighed, lambda x, w: x[:, None] @ w, (3, 4, 2)), (2, 5, 4)),
    "addmm": (partial(Weighed, lambda x, b, w: torch.addmm(b, x, w), (3,), (4, 3)), (5, 4)),
    "slice": (partial(Weighed, lambda x, w: F.linear(x, w[2:5]), (8, 4)), (2, 4)),
    "einsum": (
        partial(Weighed, lambda x, w: torch.einsum("bqhd,hde->bqe", x, w), (3, 4, 5)),
        (2, 6, 3, 4),
    ),
    "einsum of heads": (
        partial(Weighed, lambda x, w: torch.einsum("bqd,hde->bhqe", x, w), (3, 4, 5)),
        (2, 6, 4),
    ),
    "weight first": (
        partial(Weighed, lambda x, w: torch.einsum("oi,bip->bop", w, x), (3, 4)),
        (2, 4, 5),
    ),
}


def read(model: nn.Module, x: Tensor) -> tuple[Any, list[Any]]:
    """Return the captured module of a call, and what is read of each of its contractions."""
    module = capture(model.eval(), (x,)).module
    found = (contraction_of(module, node) for node in module.graph.nodes)
    return module, [one for one in found if one is not None]


@pytest.mark.parametrize(("made", "shape"), CALLS.values(), ids=CALLS)
def test_rows_times_the_matrix_are_the_results(
    made: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, x = made(), noise(*shape)
    module, (call,) = read(model, x)
    assert isinstance(call, Contraction), call
    y = call.form.results(model(x).detach().double())
    data = x.reshape([int(n) for n in call.data.meta["val"].shape])  # some stand between
    table = call.form.table(data.double())
    features = call.form.features(table, torch.arange(y.shape[1]))
    weights = attribute(module, call.weight.name).detach().double().flatten()[call.places]
    found = features @ weights
    if call.bias is not None and call.shift is not None:
        bias = attribute(module, call.bias.name).detach().double().flatten()
        found = found + bias[call.shift][:, None]
    torch.testing.assert_close(found, y, rtol=1e-5, atol=1e-5)


def test_every_operator_that_is_read_is_called_here() -> None:
    called: set[Any] = set()
    for made, shape in CALLS.values():
        graph = capture(made().eval(), (noise(*shape),)).module.graph
        called |= {node.target for node in graph.nodes}
    spelled = {aten.mv.default, aten.mm.default, aten.baddbmm.default, aten.conv3d.padding}
    assert set(READERS) - called <= spelled  # which are of the same form as their sisters


REFUSED = {
    "computed": (partial(Weighed, lambda x, w: x @ w.exp(), (4, 3)), "its weight is computed"),
    "scaled": (partial(Weighed, lambda x, w: x @ (2 * w), (4, 3)), "its weight is computed"),
    "of two": (partial(Weighed, lambda x, v, w: x @ (v + w), (4, 3), (4, 3)), "computed from data"),
    "repeated": (partial(Weighed, lambda x, w: x @ w.expand(4, 3), (4, 1)), "several times"),
    "alpha": (
        partial(Weighed, lambda x, b, w: torch.addmm(b, x, w, alpha=0.5), (3,), (4, 3)),
        "it scales what it adds",
    ),
    "a bias for each row": (
        partial(Weighed, lambda x, b, w: torch.addmm(b, x, w), (2, 3), (4, 3)),
        "its bias is no vector of outputs",
    ),
}


@pytest.mark.parametrize(("made", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_refitted_is_refused_with_a_reason(
    made: Callable[[], nn.Module], why: str
) -> None:
    _, (found,) = read(made(), noise(2, 4))
    assert isinstance(found, str)
    assert why in found
