"""What layers give, of the pruned model and of its teacher: the same channels side by side.

Which channels of a teacher's layer the pruned model still has follows from the plan, through the
guards of the teacher's graph: no layer is named, and none is of a known class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fxprune import passes, pipeline
from fxprune.capture import capture
from fxprune.errors import CallbackError
from fxprune.guards import Mask
from fxprune.plan import Plan
from fxprune.rules import Kept, TensorGuard
from fxprune.signature import Signature
from fxprune.surgery import SlimModule
from fxprune.targets import Discovery
from fxprune.targets.activation_sites import scopes

LEAST = 1e-6  # of the mean square of a feature: one that is zero throughout tells nothing


@dataclass(frozen=True, eq=False)
class Feature:
    """Hold a layer's path, which of its calls is meant, and the indices kept of each axis."""

    path: str
    call: int
    kept: tuple[torch.Tensor | None, ...]  # None where all are

    def apart(self, mine: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error, relative to the mean square of what is wanted."""
        for axis, index in enumerate(self.kept):
            if index is not None:
                wanted = wanted.index_select(axis, index.to(wanted.device))
        if mine.shape != wanted.shape:
            raise CallbackError(
                f"fine_tune: features: {self.path} gives {tuple(mine.shape)}, and the same "
                f"channels of the teacher's {tuple(wanted.shape)}; give the model that was pruned "
                "as the teacher, or features=0"
            )
        wanted = wanted.float()
        error = (mine.float() - wanted).square().mean()
        return error / wanted.square().mean().clamp_min(LEAST)


def with_features(student: nn.Module, teacher: nn.Module) -> tuple[SlimModule, tuple[Feature, ...]]:
    """Return a copy of the teacher made of the layers that its graph has, and what is matched.

    Raises CallbackError where nothing can be.
    """
    signature = getattr(student, "signature", None)
    if not isinstance(student, SlimModule) or not isinstance(signature, Signature):
        raise CallbackError(
            "fine_tune: features: they are matched for a module that fxprune pruned, not for "
            f"{type(student).__name__}; set features=0"
        )
    given = capture(teacher, (signature.args, signature.kwargs), outputs=signature.outputs)
    coupled = pipeline.run(given, [passes.make("couple", {})])
    found = tuple(_matched(student, coupled.module, coupled[Discovery]))
    whole = pipeline.run(given, [passes.make("restore", {})]).module
    calls = Counter(str(node.target) for node in whole.graph.find_nodes(op="call_module"))
    mine = Counter(one.path for one in found)
    found = tuple(one for one in found if calls[one.path] == mine[one.path])
    if not found or not isinstance(whole, SlimModule):
        raise CallbackError(
            "fine_tune: features: no layer of the pruned module stands in the teacher under its "
            "name; give the model that was pruned as the teacher, or features=0"
        )
    return whole, found


def _matched(student: SlimModule, whole: fx.GraphModule, discovery: Discovery) -> Iterator[Feature]:
    plan = student.plan.kept if isinstance(student.plan, Plan) else None
    kept = Kept(discovery.coupling.guards, alive(discovery, plan))
    calls: dict[str, list[fx.Node]] = {}
    for node in student.graph.find_nodes(op="call_module"):
        calls.setdefault(str(node.target), []).append(node)
    places = _outputs(whole)
    for path, nodes in calls.items():
        if len(places.get(path, ())) != len(nodes) or not all(_told(student, n) for n in nodes):
            continue
        for number, place in enumerate(places[path]):
            guard = discovery.coupling.values.get(place)
            if isinstance(guard, TensorGuard):
                masks = [kept.mask(g) for g in guard.dims]
                yield Feature(path, number, tuple(_indices(mask) for mask in masks))


def _outputs(whole: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """Return what the modules of a captured graph give: what is read outside of them, in order."""
    within = {node: scopes(node) for node in whole.graph.nodes}
    found: dict[str, list[fx.Node]] = {}
    for node, paths in within.items():
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        for path in paths:
            if any(path not in within[user] for user in node.users):
                found.setdefault(path, []).append(node)
    return found


def _told(student: SlimModule, node: fx.Node) -> bool:
    """Tell a layer with weights whose result is not merely read by another, such as a norm."""

    def weighted(one: fx.Node) -> bool:
        if one.op != "call_module":
            return False
        return next(student.get_submodule(str(one.target)).parameters(), None) is not None

    return weighted(node) and not all(weighted(user) for user in node.users)


def _indices(mask: Mask) -> torch.Tensor | None:
    return None if mask.all() else torch.from_numpy(np.flatnonzero(mask))


def alive(discovery: Discovery, kept: Mapping[str, Sequence[torch.Tensor]] | None) -> Mask:
    """Return which variables some kept index still needs, or that no weight has, `[variables]`."""
    found = np.ones(discovery.coupling.guards.size, dtype=bool)
    axes = [axis for axis in discovery.axes if kept is not None and axis.name in kept]
    for axis in axes:
        found[axis.guard] = False
    for axis in axes:
        found[axis.guard[kept[axis.name][axis.dim].numpy()]] = True  # type: ignore[index]
    found[0] = True
    return found


@contextmanager
def watched_layers(
    module: nn.Module, features: Sequence[Feature]
) -> Iterator[dict[str, list[Any]]]:
    """Yield a table in which every call of the layers of some features notes what it gave."""
    seen: dict[str, list[Any]] = {one.path: [] for one in features}

    def noting(path: str) -> Any:
        return lambda layer, args, result: seen[path].append(result)

    handles = [module.get_submodule(path).register_forward_hook(noting(path)) for path in seen]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
