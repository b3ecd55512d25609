"""Loops that train a small residual network, and what they would teach, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxprune.capture import capture
from fxprune.loop.learned_metrics import watching
from tests.support.noise import integers, noise
from tests.support.small_nets import X

BATCHES = [(noise(4, 3, 6, 6, seed=k), integers(4, 4, seed=k)) for k in range(4)]
NAME = "stem:channel"
Gradients = Callable[[nn.Module, Tensor], None]  # of a loss: brings them to the parameters
Penalty = Callable[[nn.Module], None]  # called before each step of the optimizer


def entropy(module: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[1])


def backward(module: nn.Module, loss: Tensor) -> None:
    loss.backward()


def nothing(module: nn.Module) -> None:
    pass


def plain(module: nn.Module, brings: Gradients = backward, before: Penalty = nothing) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    for batch in BATCHES:
        optimizer.zero_grad()
        brings(module, entropy(module, batch))
        before(module)
        optimizer.step()


def zeroed(module: nn.Module, brings: Gradients = backward, before: Penalty = nothing) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), 0.01)
    for batch in BATCHES:
        optimizer.zero_grad(set_to_none=False)
        brings(module, entropy(module, batch))
        before(module)
        optimizer.step()


def accumulated(module: nn.Module, brings: Gradients = backward, before: Penalty = nothing) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    for pair in (BATCHES[:2], BATCHES[2:]):
        for batch in pair:
            brings(module, entropy(module, batch) / 2)
        before(module)
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


LOOPS = [plain, zeroed, accumulated]


def watched(model: nn.Module, metric: Any, loop: Any, learned: dict[str, Tensor]) -> None:
    with watching([metric], capture(model, X).module, model, learned):
        loop(model)
    assert not any(p._backward_hooks for p in model.parameters())


def same(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], msg=name)


def moved(model: nn.Module, loop: Any) -> dict[str, Tensor]:
    """Return −Σ g·w of every parameter, g being the gradient of one backward pass alone."""
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}

    def brings(module: nn.Module, loss: Tensor) -> None:
        named = dict(module.named_parameters())
        for (name, p), g in zip(
            named.items(), torch.autograd.grad(loss, [*named.values()]), strict=True
        ):
            found[name] -= g * p.detach()
            p.grad = g if p.grad is None else p.grad + g

    loop(model, brings)
    return found


def spec(metric: Any, **schedule: Any) -> dict[str, Any]:
    return {
        "metric": metric,
        "allocation": {"round_to": 1},
        "schedule": {"name": "one-shot", **schedule},
        "objective": {"ratio": 0.5},
    }
