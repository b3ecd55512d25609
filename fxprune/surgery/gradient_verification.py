"""Compare the gradients of the zeroed original with those of the shrunk module.

Each module is in the mode that it came in. Random numbers, as those of dropout, are drawn over
other shapes in a smaller module: in both, a constant stands in their place.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxprune.capture import put
from fxprune.capture.own_backward import differentiated
from fxprune.errors import VerifyError, first_line
from fxprune.plan import Plan
from fxprune.signature import Signature
from fxprune.surgery.masking import masked
from fxprune.surgery.restoration import restore
from fxprune.surgery.verification import relative

if TYPE_CHECKING:
    from fxprune.surgery.constant_draws import ConstantDraws

LOOSER = 10.0  # gradients are sums of more terms than results are
SMALLEST = 1e-2  # of the largest gradient: below it a tensor's own gradient is mostly rounding
aten = torch.ops.aten
APART = (differentiated, aten.detach.default, aten.detach_.default)  # no gradient of theirs


@dataclass(frozen=True)
class Gradients:
    """Hold the largest relative difference of two gradients, or say why there is none."""

    difference: float | None = None
    where: str = ""
    note: str = ""


def worth_comparing(graph: fx.GraphModule, marks: Mapping[str, bool]) -> bool:
    """Tell whether gradients may differ though the numbers do not, where any can be taken.

    In evaluation two graphs of the same operators that give the same numbers have the same
    gradients, but for Functions with a backward of their own and for values that pass none on.
    """
    if not any(one.requires_grad and one.is_floating_point() for one in graph.parameters()):
        return False
    return any(marks.values()) or any(node.target in APART for node in graph.graph.nodes)


def gradient_difference(
    original: fx.GraphModule,
    shrunk: nn.Module,
    plan: Plan,
    signature: Signature,
    spared: Collection[str],
    marks: Mapping[str, bool],
    allowed: float,
) -> Gradients:
    """Compare results and gradients in the modes of `marks`, on no more than two of the examples.

    The gradients are those of the sum of all results, each entry times a fixed number, by every
    floating-point input and every parameter that is kept and not `spared`. What is more than
    `allowed` apart is computed again in double precision. Raises VerifyError where only the shrunk
    module fails.
    """
    reference = _reference(original, plan, spared, marks)
    work = _Work(plan, frozenset(spared), any(marks.values()))
    try:
        args, kwargs, ours = signature.on_few(lambda a, k: (a, k, work.run(reference, a, k)))
    except Undefined as problem:
        return Gradients(note=str(problem))
    except Exception as problem:  # such as a batch norm of one value, or a write to what is kept
        return Gradients(note=f"the model itself raises: {first_line(problem)}")
    try:
        theirs = work.run(shrunk, args, kwargs)
    except Undefined as problem:
        return Gradients(note=str(problem))
    except Exception as problem:
        raise VerifyError(f"the shrunk model has no gradients: {first_line(problem)}") from problem
    found = work.compared(ours, theirs)
    if found.difference is None or found.difference <= allowed:
        return found
    try:  # close to where a slope changes, or badly conditioned: then more digits decide
        twins = [copy.deepcopy(one).double() for one in (reference, shrunk)]
        wide = pytree.tree_map_only(Tensor, _double, (args, kwargs))
        return work.compared(*(work.run(one, *wide) for one in twins))
    except Exception as problem:
        return Gradients(
            note=f"they are {found.difference:.1e} apart at {found.where}, and cannot be computed "
            f"in double precision: {first_line(problem)}"
        )


def _reference(
    original: fx.GraphModule, plan: Plan, spared: Collection[str], marks: Mapping[str, bool]
) -> nn.Module:
    """Return the zeroed original, as the graph that was captured where all of it is evaluated."""
    zeroed = masked(original, plan, spared)
    if not any(marks.values()):
        return zeroed
    whole = restore(zeroed, training=True, own_gradients=False)
    put(whole, marks)
    return whole


def _double(one: Tensor) -> Tensor:
    return one.double() if one.is_floating_point() else one


class Undefined(Exception):
    """Say why gradients cannot be compared."""


@dataclass(frozen=True)
class _Taken:
    """Hold results, and gradients by what they are taken of; None where nothing depends on it."""

    results: list[Tensor]
    gradients: dict[str, Tensor | None]


@dataclass(frozen=True)
class _Work:
    plan: Plan
    spared: frozenset[str]
    training: bool  # whether any module trains, so that numbers may be drawn at random

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Taken:
        """Run a module in the modes that it is in, on copies of what it may write to."""
        buffers = {name: one.clone() for name, one in module.named_buffers()}
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        given = {
            f"input {place}": one.detach().clone().requires_grad_()
            for place, one in enumerate(leaves)
            if isinstance(one, Tensor) and one.is_floating_point()
        }
        # what is written to must be no leaf of autograd
        called = [
            given[f"input {place}"].clone()
            if f"input {place}" in given
            else one.clone()
            if isinstance(one, Tensor)
            else one
            for place, one in enumerate(leaves)
        ]
        placed, named = pytree.tree_unflatten(called, spec)
        with torch.enable_grad(), self._draws() as draws:
            made = torch.func.functional_call(module, buffers, placed, named)
        if draws is not None and draws.unknown:
            raise Undefined(f"{draws.unknown} draws random numbers")
        with torch.enable_grad():
            results = [one for one in pytree.tree_leaves(made) if isinstance(one, Tensor)]
            return _Taken([one.detach() for one in results], self._taken(module, given, results))

    def _draws(self) -> AbstractContextManager[ConstantDraws | None]:
        """Return the mode that puts constants in place of random numbers, in training."""
        if not self.training:
            return nullcontext()
        if self.plan.masks:  # which are put on by hooks, and those do nothing under such a mode
            raise Undefined("masks that stay on the weights cannot be compared in training")
        # late, as it stands on private parts of torch that may be missing
        from fxprune.surgery.constant_draws import ConstantDraws

        return ConstantDraws()

    def _taken(
        self, module: nn.Module, given: dict[str, Tensor], results: list[Tensor]
    ) -> dict[str, Tensor | None]:
        own = {n: p for n, p in module.named_parameters() if p.requires_grad}
        of = {**given, **own}
        ends = [one for one in results if one.requires_grad]
        if not ends:
            return dict.fromkeys(of)
        weights = [_fixed(one) for one in ends]
        found = torch.autograd.grad(ends, list(of.values()), weights, allow_unused=True)
        return dict(zip(of, found, strict=True))

    def compared(self, ours: _Taken, theirs: _Taken) -> Gradients:
        """Return the largest difference, of results or of gradients, and where it is."""
        for place, (a, b) in enumerate(zip(ours.results, theirs.results, strict=True)):
            if a.shape != b.shape:
                raise VerifyError(f"output {place} of {tuple(a.shape)} became {tuple(b.shape)}")
        pairs = list(self._pairs(ours, theirs))
        if any(not a.isfinite().all() for _, a, _ in pairs):
            return Gradients(note="those of the original are not finite")
        largest = max((float(a.abs().max()) for _, a, _ in pairs if a.numel()), default=0.0)
        differences = [(_apart(a, b, largest), name) for name, a, b in pairs if a.numel()]
        differences += [
            (relative(a, b), f"output {place}")
            for place, (a, b) in enumerate(zip(ours.results, theirs.results, strict=True))
        ]
        worst, where = max(differences, default=(0.0, ""))
        return Gradients(worst, where)

    def _pairs(self, ours: _Taken, theirs: _Taken) -> Iterable[tuple[str, Tensor, Tensor]]:
        for name, found in theirs.gradients.items():
            if name in self.spared or name not in ours.gradients:
                continue  # it, or what is computed of it, is scaled to keep what operators read
            wanted = ours.gradients[name]
            if wanted is not None:
                one = self._narrowed(name, wanted)
                other = torch.zeros_like(one) if found is None else found
            elif found is not None:
                one, other = torch.zeros_like(found), found
            else:
                continue
            mask = self.plan.masks.get(name)
            if mask is not None:
                one, other = one * mask.to(one), other * mask.to(other)
            yield name, one, other

    def _narrowed(self, name: str, gradient: Tensor) -> Tensor:
        for dim, kept in enumerate(self.plan.kept.get(name, ())):
            if len(kept) != gradient.shape[dim]:
                gradient = gradient.index_select(dim, kept.to(gradient.device))
        return gradient


def _fixed(one: Tensor) -> Tensor:
    """Return numbers of both signs by which to weigh a result, the same ones each time."""
    ramp = torch.arange(1, one.numel() + 1, device=one.device, dtype=torch.float64)
    return (ramp * 0.7548776662).frac().sub(0.4).reshape(one.shape).to(one.dtype)


def _apart(a: Tensor, b: Tensor, largest: float) -> float:
    """Return max|a-b| by the scale of `a`, which is no less than a part of the `largest`."""
    if a.shape != b.shape or not b.isfinite().all():
        return float("inf")
    scale = max(float(a.abs().max()), SMALLEST * largest, 1e-30)
    return float((a - b).abs().max()) / scale / LOOSER
