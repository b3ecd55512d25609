"""How far the pruned model is from its teacher: in what it says, and in what its layers give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from fxprune.contexts import evaluating
from fxprune.errors import CallbackError
from fxprune.loop.fine_tuning.features import Feature, watched_layers, with_features
from fxprune.spec.training import Training

Call = tuple[Any, Any, Any]  # arguments, keyword arguments, and result


@dataclass(frozen=True)
class Losses:
    """Hold the loss to be followed down, and what it is made of, where there is a teacher."""

    loss: torch.Tensor
    apart: float | None = None
    features: float | None = None


@dataclass(frozen=True, eq=False)
class Distillation:
    """Mix a loss with how far a module is from its teacher, on the same inputs.

    The sum is (1 − d)·loss + d·apart + f·features, for `distillation` d and `features` f.
    """

    options: Training
    teacher: nn.Module
    layers: tuple[Feature, ...] = ()

    @classmethod
    def of(cls, options: Training, module: nn.Module, teacher: nn.Module) -> Distillation:
        """Match the layers of a module and its teacher, where features are asked for."""
        if not options.features:
            return cls(options, teacher)
        return cls(options, *with_features(module, teacher))

    def __call__(self, module: nn.Module, run: Callable[[], torch.Tensor | None]) -> Losses:
        """Return the losses of a run of a module; it may return a loss of its own."""
        calls: list[Call] = []
        with ExitStack() as stack:
            handle = module.register_forward_hook(
                lambda _, args, kwargs, result: calls.append((args, kwargs, result)),
                with_kwargs=True,
            )
            stack.callback(handle.remove)
            mine = stack.enter_context(watched_layers(module, self.layers))
            loss = run()
        with evaluating(self.teacher), watched_layers(self.teacher, self.layers) as wanted:
            apart = torch.stack([self._apart(*call) for call in calls]).sum()
        d, f = self.options.distillation, self.options.features
        total = d * apart if loss is None else (1.0 - d) * loss + d * apart
        if not self.layers:
            return Losses(total, float(apart.detach()))
        features = features_apart(self.layers, mine, wanted)
        return Losses(total + f * features, float(apart.detach()), float(features.detach()))

    def _apart(self, args: Any, kwargs: Any, made: Any) -> torch.Tensor:
        """Return how far a module's outputs are from the teacher's, on the same inputs."""
        with torch.no_grad():
            wanted = pytree.tree_leaves(self.teacher(*args, **kwargs))
        pairs = zip(pytree.tree_leaves(made), wanted, strict=True)
        floating = [(a.float(), b.float()) for a, b in pairs if _compared(a)]
        if not floating:
            raise CallbackError(
                "fine_tune: teacher: the module gives no floating tensor of two axes or more to "
                "compare; leave the teacher out"
            )
        if self.options.distance == "mse":
            return torch.stack([F.mse_loss(a, b) for a, b in floating]).sum()
        t, dim = self.options.temperature, self.options.classes
        kl = [
            F.kl_div(
                (a / t).log_softmax(dim),
                (b / t).log_softmax(dim),
                reduction="batchmean",
                log_target=True,
            )
            for a, b in floating
        ]
        return torch.stack(kl).sum() * t * t


def _compared(one: Any) -> bool:
    return isinstance(one, torch.Tensor) and one.is_floating_point() and one.ndim > 1


def features_apart(
    layers: Sequence[Feature], mine: dict[str, list[Any]], wanted: dict[str, list[Any]]
) -> torch.Tensor:
    """Return the mean distance of features, over layers, their calls, and runs of the module."""
    per_run = {path: sum(one.path == path for one in layers) for path in mine}
    apart: list[torch.Tensor] = []
    for one in layers:
        pairs = zip(mine[one.path], wanted[one.path], strict=True)
        for number, (a, b) in enumerate(pairs):
            if number % per_run[one.path] == one.call:
                apart.append(one.apart(a, b))
    return torch.stack(apart).mean()
