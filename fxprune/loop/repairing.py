"""Repair after the fact: what somebody pruned is refitted to what the original computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fxprune import pipeline
from fxprune.capture import capture
from fxprune.errors import InputError
from fxprune.graphs import tensors_of
from fxprune.guards import Mask
from fxprune.loop.progress import shown
from fxprune.metrics import Calibration
from fxprune.metrics.calibration import leaves_of
from fxprune.passes import make
from fxprune.plan import Plan
from fxprune.program import Program
from fxprune.rules import Coupling, TensorGuard
from fxprune.surgery import kept_indices
from fxprune.surgery.masks import masks_of
from fxprune.surgery.repair import REPAIRS, Job, paired
from fxprune.targets import Discovery

M = TypeVar("M", bound=torch.nn.Module)
Axes = Mapping[str, tuple[Tensor, ...]]
CLOSE = 1e-6  # relative difference up to which entries are the same


def repair(
    slim: M,
    model: torch.nn.Module,
    batches: Iterable[Any],
    inputs: Any = None,
    *,
    method: str = "least-squares",
    **options: Any,
) -> M:
    """Return a copy of a pruned module that is refitted to what the original gives on some batches.

    It may be pruned by any tool: both are captured, and calls of the same names correspond. What is
    kept is read off the module's plan, or else off the entries of its vectors (biases, scales and
    statistics of norms), which must be those of the original: repair before you train. `inputs` are
    example inputs, those of the first batch where they are not given. `method` and `options` are
    those of a specification's key `repair`. Neither module is changed.

    Raises InputError where the two do not correspond, and CalibrationError for bad data.

    >>> class Net(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
    ...
    ...     def forward(self, x):
    ...         return self.last(self.first(x).relu())
    >>> net, x = Net().eval(), torch.randn(64, 4)
    >>> import fxprune
    >>> bare = fxprune.prune(net, {"metric": "l2", "objective": {"macs": 0.5}}, (x[:2],))
    >>> mended = fxprune.repair(bare, net, [x])
    >>> bool((mended(x) - net(x)).norm() < (bare(x) - net(x)).norm())
    True
    """
    data = Calibration(batches)
    listed = list(data.each())
    inputs = _examples(listed[0][1]) if inputs is None else inputs
    counted = getattr(getattr(slim, "signature", None), "outputs", None)
    given = capture(model, inputs, outputs=counted)
    original = pipeline.run(given, [make("couple", {})])
    smaller = capture(slim, inputs)
    alive = _alive(original, smaller, getattr(slim, "plan", None))
    coupling = original[Discovery].coupling
    pairs = paired(original.module, coupling, smaller.module, alive)
    both = [
        (
            leaves_of(original.module, original.signature, number, batch),
            leaves_of(smaller.module, smaller.signature, number, batch),
        )
        for number, batch in listed
    ]
    spared = dict.fromkeys(masks_of(slim), "its weights are masked")
    made: Any = REPAIRS.make(method, options)
    with shown("repair"):
        found = made.repair(Job(original.module, smaller.module, pairs, spared, both))
    if found is None:
        raise InputError(f"repair: {method} is no method of batches; take least-squares")
    copy = deepcopy(slim)
    own = tensors_of(copy)
    with torch.no_grad():
        for name, tensor in found.tensors.items():
            own[name].copy_(tensor)
    return copy


def _examples(batch: Any) -> Any:
    """Return what the first batch gives as example inputs: a tuple's first value, a dict."""
    if isinstance(batch, Mapping):
        return dict(batch)
    return (batch if isinstance(batch, Tensor) else batch[0],)


def _alive(original: Program, smaller: Program, plan: Plan | None) -> Mask:
    """Return which variables are kept; raises InputError where the modules do not correspond."""
    mine, yours = tensors_of(original.module), tensors_of(smaller.module)
    coupling = original[Discovery].coupling
    kept = dict(plan.kept) if plan is not None and plan.kept else _told(mine, yours)
    alive = _kept(original, coupling, kept, yours)
    for name, axes in kept_indices(original.module, coupling, alive).items():
        wanted = tuple(len(one) for one in axes)
        if name in yours and tuple(yours[name].shape) != wanted:
            raise InputError(
                f"repair: {name} has the sizes {tuple(yours[name].shape)}, and what is kept of the "
                f"original's has {wanted}: the two do not correspond; give the model that was "
                "pruned, before it is trained"
            )
    return alive


def _told(mine: Mapping[str, Tensor], yours: Mapping[str, Tensor]) -> Axes:
    """Return which entries of the vectors of the original are kept, in their order."""
    found: dict[str, tuple[Tensor, ...]] = {}
    for name, small in yours.items():
        whole = mine.get(name)
        if whole is None or whole.ndim != 1 or small.ndim != 1 or not whole.is_floating_point():
            continue
        places = _places(whole.detach().double().cpu(), small.detach().double().cpu())
        if places is not None:
            found[name] = (places,)
    return found


def _places(whole: Tensor, small: Tensor) -> Tensor | None:
    """Return where each entry of `small` stands in `whole`, None where that cannot be told."""
    if len(small) == len(whole):
        return torch.arange(len(whole))
    close = (whole[None] - small[:, None]).abs() <= CLOSE * (small[:, None].abs() + 1e-30)
    return close.int().argmax(1) if bool((close.sum(1) == 1).all()) else None


def _kept(original: Program, coupling: Coupling, kept: Axes, yours: Mapping[str, Tensor]) -> Mask:
    """Return the variables of which some index is kept, of those that any axis tells of."""
    told, stays = (np.zeros(coupling.guards.size, dtype=bool) for _ in range(2))
    for node in original.module.graph.find_nodes(op="get_attr"):
        value, name = coupling.values.get(node), str(node.target)
        if not isinstance(value, TensorGuard) or name not in yours:
            continue
        for dim, g in enumerate(value.dims):
            rows = coupling.guards.normal(g)
            whole = yours[name].shape[dim] == len(rows)
            if not rows.shape[1] or (name not in kept and not whole):
                continue
            told[rows.ravel()] = True
            index = np.arange(len(rows)) if whole else kept[name][dim].cpu().numpy()
            stays[rows[index].ravel()] = True
    return ~(told & ~stays)
