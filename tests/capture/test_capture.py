"""Capture: any way of calling a model gives the numbers of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxprune
from tests.capture.called import HALF, Called, Counting, X, plain
from tests.support.small_nets import Tied


class Tensors(Called):
    def __init__(self) -> None:
        super().__init__(len)

    def forward(self, *xs: Tensor) -> Any:
        return self.body(sum(xs))  # type: ignore[arg-type]


class Keywords(Called):
    def __init__(self) -> None:
        super().__init__(len)

    def forward(self, x: Tensor, *, scale: float = 1.0, mask: Tensor | None = None) -> Any:
        y = self.body(x) * scale
        return {"y": y if mask is None else y * mask, "mask": mask, "n": 3}


class Nested(Called):
    def __init__(self) -> None:
        super().__init__(len)

    def forward(self, batch: dict[str, Any], more: tuple[Tensor, ...] = ()) -> Any:
        x = batch["x"] + batch["rest"][0]
        return [self.body(x), {"inner": (x, None)}, *more]


class Lifted(Called):
    """A constant tensor in the code, a buffer, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__(len)
        self.register_buffer("shift", torch.full((16,), 0.5))
        self.register_buffer("scale", torch.full((16,), 2.0), persistent=False)

    def forward(self, x: Tensor) -> Any:
        hidden = (self.first(x) + self.shift) * self.scale + torch.tensor([1.0] * 16)
        return self.last(hidden)


class InPlace(Called):
    """Write to what it computed, and to what it was given."""

    def __init__(self) -> None:
        super().__init__(len)

    def forward(self, x: Tensor) -> Any:
        x.mul_(2)
        hidden = F.relu_(self.first(x))
        hidden += 1
        return self.last(hidden)


class Lowered(Called):
    """Part of the network under autocast, with a part of that without."""

    def __init__(self) -> None:
        super().__init__(len)

    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.first(x)
            with torch.autocast("cpu", enabled=False):
                hidden = hidden.float().softmax(-1)
            mixed = hidden @ hidden.mT.contiguous()
        return self.last(hidden + mixed.float().mean())


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "a tensor": (plain, X),
    "a tuple": (plain, (X,)),
    "keywords": (plain, {"input": X}),
    "a batch of one": (plain, (X[:1],)),
    "any number of tensors": (Tensors, (X, X, X)),
    "an argument left out": (Keywords, (X,)),
    "arguments and keywords": (Keywords, ((X,), {"scale": 2.0, "mask": torch.ones(4, 4)})),
    "a keyword of None": (Keywords, ((X,), {"mask": None})),
    "nested inputs and outputs": (Nested, ({"x": X, "rest": [X]}, (X,))),
    "buffers and constants": (Lifted, (X,)),
    "writes in place": (InPlace, (X,)),
    "a counter": (Counting, (X,)),
    "tied weights, integer input": (Tied, (IDS,)),
    "autocast": (Lowered, (X,)),
    "doubles": (lambda: plain().double(), (X.double(),)),
}


def called(module: nn.Module, inputs: Any) -> Any:
    """Call a module on copies of its inputs, given in any of the forms that capture takes."""
    inputs = pytree.tree_map_only(torch.Tensor, torch.clone, inputs)
    if isinstance(inputs, Tensor):
        return module(inputs)
    if isinstance(inputs, dict):
        return module(**inputs)
    if len(inputs) == 2 and isinstance(inputs[0], tuple) and isinstance(inputs[1], dict):
        return module(*inputs[0], **inputs[1])
    return module(*inputs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_restored_model_gives_the_numbers_of_the_model(name: str, training: bool) -> None:
    make, inputs = MODELS[name]
    model = make().train(training)
    original, example = copy.deepcopy(model), copy.deepcopy(inputs)
    slim = fxprune.run(model, "restore", inputs)
    ours, theirs = called(slim, inputs), called(original, inputs)
    assert pytree.tree_structure(ours) == pytree.tree_structure(theirs)
    for a, b in zip(*map(pytree.tree_leaves, (ours, theirs)), strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    assert list(slim.state_dict()) == list(original.state_dict())
    assert slim.training == training
    torch.testing.assert_close(inputs, example, rtol=0, atol=0)


# ---- regions -------------------------------------------------------------------------------------


class Stopped(Called):
    def __init__(self) -> None:
        super().__init__(len)

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            hidden = self.first(x).relu()
        return self.last(hidden)


def test_gradients_stop_where_they_did() -> None:
    slim = fxprune.prune(Stopped(), HALF, (X,))
    slim(X).sum().backward()
    assert slim.first.weight.grad is None
    assert slim.last.weight.grad is not None
    assert len(slim.plan.kept["first.weight"][0]) == 8
