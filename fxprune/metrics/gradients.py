"""What a loss says of a unit's weights: gradient, first-order Taylor, diagonal Fisher.

Gradients are taken on a copy of the captured graph, in evaluation mode: neither the model's weights
nor its gradients, statistics or modes change. Sums run over the whole footprint, batch after batch,
in the memory of one more copy of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.autograd.graph import GradientEdge
from torch.utils import _pytree as pytree

from fxprune import distributed
from fxprune.errors import CalibrationError, FxpruneError, first_line
from fxprune.graphs import attribute
from fxprune.metrics.calibration import detached, streamed
from fxprune.metrics.footprint import parameters, parts, scored, single, widened
from fxprune.metrics.registry import Evidence, Needs, Reduction, Scores, metric

Tensors = dict[str, torch.Tensor]  # one a parameter, by the name under which the graph reads it
LARGE = 1e30  # what a sum of many terms is of, in single precision
Term = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of gradient and weight


@metric("gradient")
@dataclass(frozen=True)
class Gradient:
    """Sum |g| over the unit's weights, g being the gradient of the loss averaged over batches."""

    reduction: Reduction = "sum"
    needs: ClassVar[Needs] = "batches and loss"

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return Σ|g| a part, reduced over the parts; one array `[units]` a target."""
        mean = averaged(evidence, batches(evidence), lambda g, _: g)
        return _summed(evidence, {name: g.abs() for name, g in mean.items()}, self.reduction)


@metric("taylor-fo")
@dataclass(frozen=True)
class TaylorFirstOrder:
    """Sum (g·w)² over the unit's weights, averaged over batches (Molchanov et al., CVPR 2019).

    That is the squared change of the loss, to first order, of zeroing each weight by itself. With
    `together` it is |Σ g·w|, averaged likewise: the change of zeroing the unit's weights at once,
    each counted once for each part that it is in.
    """

    together: bool = False
    reduction: Reduction = "sum"
    needs: ClassVar[Needs] = "batches and loss"
    additive: ClassVar[bool] = True

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return Σ(g·w)², or |Σ g·w|, reduced over the parts; one array `[units]` a target."""
        if not self.together:
            squares = averaged(evidence, batches(evidence), lambda g, w: (g * w).square())
            return _summed(evidence, squares, self.reduction)
        sums = [np.zeros(len(target)) for target in evidence.targets]

        def add(found: Tensors) -> None:
            weights = {name: attribute(evidence.module, name).detach() for name in found}
            change = {name: held(torch.mul, g, weights[name]) for name, g in found.items()}
            for one, more in zip(sums, _summed(evidence, change, self.reduction), strict=True):
                one += np.abs(more)

        total, many = streamed(gradients(evidence, batches(evidence)), add, sums)
        return [one / many for one in total]


@metric("fisher")
@dataclass(frozen=True)
class Fisher:
    """Sum E[g²]·w² over the unit's weights: the loss of zeroing each, to second order, doubled.

    The diagonal of the Hessian is taken to be that of the empirical Fisher information, the mean of
    the squared gradients of single examples (Theis et al. 2018, arXiv:1801.05787). With `per` set
    to "batch" those of whole batches stand in for them: cheaper, and for graphs of one batch size.
    """

    per: Literal["example", "batch"] = "example"
    reduction: Reduction = "sum"
    needs: ClassVar[Needs] = "batches and loss"
    additive: ClassVar[bool] = True

    def score(self, evidence: Evidence) -> list[Scores]:
        """Return ΣE[g²]·w² a part, reduced over the parts; one array `[units]` a target."""
        given = batches(evidence)
        if self.per == "example":
            if not any(evidence.signature.dynamic):
                raise CalibrationError(
                    "metric: fisher runs single examples, and the batch size of this model is "
                    'fixed; set its option per to "batch"'
                )
            given = ((n, one) for n, batch in given for one in examples(batch))
        squares = averaged(evidence, given, lambda g, w: (g * w).square())
        return _summed(evidence, squares, self.reduction)


def batches(evidence: Evidence) -> Iterator[tuple[int, Any]]:
    """Return an iterator over the batches with their numbers."""
    return evidence.calibration.each()


def examples(batch: Any) -> Iterator[Any]:
    """Yield batches of one example: a row of every tensor that is as long as the first.

    >>> [one.tolist() for one in examples(torch.tensor([1, 2]))]
    [[1], [2]]
    """
    leaves, spec = pytree.tree_flatten(dict(batch) if isinstance(batch, Mapping) else batch)
    sizes = [len(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim]
    size = sizes[0] if sizes else 0
    for k in range(size):
        rows = [
            leaf[k : k + 1]
            if isinstance(leaf, torch.Tensor) and leaf.ndim and len(leaf) == size
            else leaf
            for leaf in leaves
        ]
        yield pytree.tree_unflatten(rows, spec)


def averaged(evidence: Evidence, given: Iterator[tuple[int, Any]], term: Term) -> Tensors:
    """Return the mean over batches of a term of each gradient and its weight."""
    total: Tensors = {}

    def add(found: Tensors) -> None:
        for name, g in found.items():
            one = held(term, g, attribute(evidence.module, name).detach())
            before = total.get(name)
            if before is not None and before.dtype != one.dtype:
                before, one = before.double(), one.double()
            total[name] = one.clone() if before is None else before.add_(one)

    with torch.no_grad():
        _, many = streamed(gradients(evidence, given), add)
        flags = [float(one.dtype == torch.float64) for one in total.values()]
        wide = distributed.total(np.array(flags))
        for name in (name for name, one in zip(total, wide, strict=True) if one):
            total[name] = total[name].double()  # as some other process has it
        return {name: distributed.summed(tensor).div_(many) for name, tensor in total.items()}


def held(term: Term, g: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Return a term of each gradient and its weight, in double where single would not hold it."""
    found = term(g, w)
    if found.numel() and not float(found.abs().max()) < LARGE:
        found = term(widened(g), widened(w))
    return found


def gradients(evidence: Evidence, given: Iterator[tuple[int, Any]]) -> Iterator[Tensors]:
    """Yield for every batch the gradients of all parameters that guards can shrink.

    They are in float32, or in float64 where the parameter is.

    Raises CalibrationError where there is no batch, or the loss is not a finite scalar tensor that
    depends on the parameters.
    """
    copy = detached(evidence.module, gradients=True)
    names = [str(node.target) for node, *_ in parameters(evidence)]
    own = {name: attribute(copy, name) for name in names}
    free = {name: tensor for name, tensor in own.items() if tensor.requires_grad}
    number = -1
    for number, batch in given:
        loss = checked_loss(evidence, copy, number, batch)
        found = derived(loss, [*free.values()])
        yield {
            name: single((torch.zeros_like(w) if g is None else g).detach())
            for (name, w), g in zip(free.items(), found, strict=True)
        }
    if number < 0:
        raise CalibrationError("calibrate: the batches hold no example; give tensors with some")


def derived(
    loss: torch.Tensor, tensors: Sequence[torch.Tensor] | Sequence[GradientEdge]
) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients of a loss, None where it does not depend on a tensor.

    Raises CalibrationError where torch has none, as of what is written to in place twice.
    """
    try:
        return torch.autograd.grad(loss, tensors, allow_unused=True)
    except RuntimeError as error:
        raise CalibrationError(
            f"loss: torch cannot differentiate the model: {first_line(error)}; "
            "choose a metric without gradients"
        ) from error


def checked_loss(
    evidence: Evidence, module: torch.nn.Module, number: int, batch: Any
) -> torch.Tensor:
    """Return the loss of a module on a batch.

    Raises CalibrationError where it raises, or is not one finite number with a gradient.
    """
    given = evidence.calibration.given_loss()
    try:
        with torch.enable_grad():
            loss: Any = given(module, batch)
    except FxpruneError:
        raise
    except Exception as error:  # the caller's function raises what it likes
        raise CalibrationError(
            f"loss: batch {number}: it raised {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(loss, torch.Tensor):
        raise CalibrationError(
            f"loss: batch {number}: a scalar tensor is needed, not {type(loss).__name__}"
        )
    if loss.numel() != 1 or loss.is_complex():
        raise CalibrationError(
            f"loss: batch {number}: a scalar tensor is needed, not one of shape "
            f"{tuple(loss.shape)}; take its mean"
        )
    if not bool(loss.isfinite()):
        raise CalibrationError(
            f"loss: batch {number}: the loss is {loss.item()}; look at the batch and the loss"
        )
    if not loss.requires_grad:
        raise CalibrationError(
            f"loss: batch {number}: the loss depends on no parameter; compute it from what the "
            "module that it is given returns, without detaching it"
        )
    return loss


def _summed(evidence: Evidence, entries: Tensors, reduction: Reduction) -> list[Scores]:
    return scored(evidence, parts(evidence, lambda name, _: entries.get(name)), reduction)
