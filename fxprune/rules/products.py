"""What the operands of a product are: weights, stacks of matrices, the scores of attention.

It decides what an axis is called. A product with weights is over features. One of two tensors of
data is over a width that both share: that of a head, where a softmax of the product follows. An
axis that a stack of weights shares with the data, and that is not summed over, counts its matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxprune.guards import Ids
from fxprune.rules.pointwise import is_pointwise
from fxprune.rules.site import Site, tensor_meta

aten = torch.ops.aten

Letters = Sequence[tuple[str, ...]]  # of each axis of an operand: ("...",) are the leading ones

MOVED = {
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.expand.default,
    aten.view.default,
    aten.view_as.default,
    aten.reshape.default,
    aten.reshape_as.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.clone.default,
    aten.detach.default,
}
SHIFTED = {aten.gather.default, aten.slice.Tensor, aten.cat.default, aten.pad.default}  # of scores
TAKES = {aten.index.Tensor, aten.index_select.default}
SOFTMAX = {
    aten.softmax.int,
    aten._softmax.default,
    aten.log_softmax.int,
    aten._log_softmax.default,
    aten._safe_softmax.default,
}
FARTHEST = 64  # nodes between a softmax and the product that makes its scores


def is_weight(arg: Any) -> bool:
    """Tell whether an operand is made of parameters alone, or is matrices taken out of a stack."""
    open_, seen = [arg], {arg}
    while open_:
        node = open_.pop()
        if not isinstance(node, fx.Node) or node.op == "placeholder":
            return False
        stack = node.target in TAKES and stacked(node.args[0])
        read = [node.args[0]] if stack else node.all_input_nodes
        open_ += [one for one in read if one not in seen]
        seen.update(read)
    return True


def stacked(arg: Any) -> bool:
    """Tell whether a tensor is a parameter of three axes or more, turned or not."""
    while isinstance(arg, fx.Node) and arg.target in MOVED:
        arg = arg.args[0]
    value = tensor_meta(arg) if isinstance(arg, fx.Node) and arg.op == "get_attr" else None
    return value is not None and value.ndim > 2


def name_axes(
    site: Site,
    operands: Sequence[tuple[Any, Letters]],
    result: Letters,
    letters: Mapping[str, Ids],
    leading: Sequence[Ids] = (),
) -> None:
    """Say what the axes of a product are, `letters` and `leading` being their guards."""
    free = {k for axis in result for k in axis}
    names = {k for _, axes in operands for axis in axes for k in axis} - free
    summed = [letters[k] for k in sorted(names & set(letters))]
    weights, beside = [is_weight(arg) for arg, _ in operands], _beside(operands, result)
    shares = any(_softmax(arg) is not None for arg, _ in operands)  # of what is summed up
    for g in summed if not shares else ():
        site.role(g, "feature" if any(weights) else "inner")
    if not any(weights) or (beside and not all(weights)):
        site.coupling.products[site.node] = summed
    for (arg, axes), weight in zip(operands, weights, strict=True):
        first = axes[0] if axes else ()
        if not (weight and stacked(arg) and first in result):
            continue
        g = letters[first[0]] if first != ("...",) else leading[2 - arg.meta["val"].ndim]
        if first in beside:
            site.role(g, "expert")
        elif sum(axis in result for axis in axes) > 1:
            site.role(g, "stack")
    _name_values(site, operands, result, letters)


def _beside(operands: Sequence[tuple[Any, Letters]], result: Letters) -> set[tuple[str, ...]]:
    """Return the axes that all operands have and that are not summed over."""
    shared = set(result)
    for arg, axes in operands:
        bare = ("...",) in axes and arg.meta["val"].ndim < len(axes)  # nothing leads here
        shared &= set(axes) - ({("...",)} if bare else set())
    return shared


def _name_values(
    site: Site,
    operands: Sequence[tuple[Any, Letters]],
    result: Letters,
    letters: Mapping[str, Ids],
) -> None:
    """Name the width of values that attention adds up: it is that of heads, too."""
    if len(operands) != 2:
        return
    for (probabilities, mixed), (_, axes) in (operands, operands[::-1]):
        if attends(site, probabilities):
            for axis in axes:
                if axis in result and axis not in mixed and axis[0] in letters:
                    site.role(letters[axis[0]], "inner")


def attends(site: Site, arg: Any) -> bool:
    """Tell whether a tensor is the softmax of scores that two tensors of data make."""
    softmax = _softmax(arg)
    if softmax is None:
        return False
    return any(one in site.coupling.products for one in _back(softmax.args[0]))


def _softmax(arg: Any) -> fx.Node | None:
    """Return the softmax that made an operand."""
    return next((node for node in _back(arg) if node.target in SOFTMAX), None)


def name_scores(site: Site, scores: Any) -> None:
    """Say of what makes the scores of a softmax that it is summed over the width of a head."""
    for node in _back(scores):
        for g in site.coupling.products.get(node, ()):
            site.role(g, "head_dim")


def _back(arg: Any) -> Iterator[fx.Node]:
    """Yield a node and those before it, through what keeps elements as they are or scales them."""
    open_, seen = [arg], {arg}
    while open_ and len(seen) < FARTHEST:
        node = open_.pop()
        if not isinstance(node, fx.Node):
            continue
        yield node
        if node.op == "call_function" and (
            node.target in MOVED | SHIFTED or is_pointwise(node.target)
        ):
            open_ += [one for one in node.all_input_nodes if one not in seen]
            seen.update(node.all_input_nodes)
