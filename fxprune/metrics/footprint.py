"""A unit's whole footprint: every parameter axis that it has a part in, and numbers over them.

The weights of a unit lie in one or more *parts*, a part being one axis of one parameter. What a
metric measures of every weight is gathered within each part, and then reduced over the parts:
added up, averaged, the largest, or the first. The first is that of the first weight that makes the
unit (the filter, in the words of the papers), or just the first where no weight makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import fx

from fxprune.errors import FxpruneError
from fxprune.graphs import arguments, attribute
from fxprune.guards import Ids, numbered
from fxprune.metrics.registry import Evidence, Reduction, Scores
from fxprune.rules import TensorGuard
from fxprune.targets import BlockTarget

aten = torch.ops.aten

# what an entry of a parameter counts, all at once; None leaves the parameter out
Measure: TypeAlias = Callable[[str, torch.Tensor], torch.Tensor | None]

PIECE = 1 << 17  # entries measured at a time: with what is made of them, they fit into a cache

# operators whose results lie along the second axis of a matrix that they read, and its name there
SECOND: dict[Any, str] = {
    aten.conv_transpose1d.default: "weight",
    aten.conv_transpose2d.input: "weight",
    aten.conv_transpose3d.input: "weight",
    aten.embedding.default: "weight",
    aten.mm.default: "mat2",
    aten.addmm.default: "mat2",
    aten.matmul.default: "other",
}


@dataclass(frozen=True, eq=False)
class Part:
    """Hold what the weights along one parameter axis amount to for the units that guard it.

    `units` are variable ids, each once, and `values` their numbers, both `[units]`; `made` says
    that the axis is what a weight makes rather than what it reads. Blocks have axis -1.
    """

    name: str
    dim: int
    made: bool
    units: Ids
    values: Scores


def parameters(evidence: Evidence) -> Iterator[tuple[fx.Node, torch.Tensor, tuple[Ids, ...]]]:
    """Yield each parameter once, in the order of the graph, with its normalised guards."""
    coupling, seen = evidence.coupling, set[int]()
    for node in evidence.module.graph.nodes:
        value = coupling.values.get(node) if node.op == "get_attr" else None
        tensor = attribute(evidence.module, str(node.target)) if value is not None else None
        if not isinstance(tensor, torch.nn.Parameter) or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if isinstance(value, TensorGuard):
            held = tensor.detach() if evidence.stored is None else evidence.stored(str(node.target))
            yield node, held, tuple(coupling.guards.normal(g) for g in value.dims)


def parts(
    evidence: Evidence,
    measure: Measure,
    within: Literal["sum", "max"] = "sum",
    *,
    elementwise: bool = False,
) -> Iterator[Part]:
    """Yield every part of the footprints, `measure` summed or maximised over it.

    An `elementwise` measure needs nothing but the entries, and may be given a few at a time.
    """
    blocks: dict[str, list[BlockTarget]] = {}
    for target in evidence.targets:
        if isinstance(target, BlockTarget):
            blocks.setdefault(target.tensor, []).append(target)
    whole = len(evidence.targets) > sum(map(len, blocks.values()))
    places: dict[int, Places] = {}  # of the variables of a guard, which many axes share
    for node, tensor, guards in parameters(evidence):
        name = str(node.target)
        guarded = [dim for dim, g in enumerate(guards) if g.shape[1]] if whole else []
        inside = blocks.get(name, [])
        if not (guarded or inside) or not tensor.numel():
            continue
        pieces = _pieces(tensor) if elementwise and not inside else [tensor]
        rows, values = _measured(pieces, partial(measure, name), guarded, inside, within)
        for target, one in zip(inside, values, strict=False):
            yield Part(target.tensor, -1, True, target.units, one)
        for dim, of_rows in rows.items():
            g = guards[dim]
            where = places.get(id(g)) or places.setdefault(id(g), places_of(g))
            yield Part(name, dim, makes(node, dim), where[0], _put(where, of_rows, within))


@torch.no_grad()
def _measured(
    pieces: Sequence[torch.Tensor],
    measure: Callable[[torch.Tensor], torch.Tensor | None],
    dims: Sequence[int],
    inside: Sequence[BlockTarget],
    within: str,
) -> tuple[dict[int, Scores], list[Scores]]:
    """Return what a parameter amounts to along some axes, and in the blocks of some targets.

    What is beyond single precision, as the square of a large weight, is measured in double.
    """
    for wide in (False, True):
        rows, blocks = dict[int, list[torch.Tensor]](), list[Scores]()
        for piece in pieces:
            entries = measure(widened(piece) if wide else piece)
            if entries is None:
                return {}, []
            entries = widened(entries) if wide else entries
            for dim in dims:
                rows.setdefault(dim, []).append(_rows(entries, dim, within))
            blocks = [target.grid.pooled(entries, within)[target.index] for target in inside]
        found = {dim: _whole(of_dim, dim, within) for dim, of_dim in rows.items()}
        if all(np.isfinite(values).all() for values in (*found.values(), *blocks)):
            break
    return found, blocks


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """Return numbers in double precision."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def single(tensor: torch.Tensor) -> torch.Tensor:
    """Return real numbers in single precision, those of double as they are."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _pieces(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return a tensor in pieces along its first axis, each small enough for a cache."""
    if tensor.numel() <= PIECE or tensor.device.type != "cpu":
        return [tensor]
    pieces: Sequence[torch.Tensor] = tensor.split(max(1, PIECE * len(tensor) // tensor.numel()))
    return pieces


def _whole(rows: list[torch.Tensor], dim: int, within: str) -> Scores:
    """Put together what pieces of a tensor gave: along its first axis they follow each other."""
    if len(rows) == 1:
        return rows[0].double().cpu().numpy()
    if dim:
        rows = [pooled(torch.stack(rows).double(), [0], within)]
    whole: Scores = torch.cat(rows).double().cpu().numpy()
    return whole


def _rows(entries: torch.Tensor, dim: int, within: str) -> torch.Tensor:
    """Sum or maximise all but one dimension: those before it at once, then those after it.

    Reducing over a few entries that lie side by side, as of a kernel, would be slow.
    """
    if entries.ndim == 1:
        return entries
    size, before = entries.shape[dim], prod(entries.shape[:dim])
    if before > 1:
        entries = pooled(entries.reshape(before, -1), [0], within)
    return pooled(entries.reshape(size, -1), [1], within)


def pooled(
    entries: torch.Tensor, dims: list[int], within: str, keepdim: bool = False
) -> torch.Tensor:
    """Return a tensor summed or maximised over some dimensions, perhaps none."""
    if not dims:
        return entries
    return (entries.sum if within == "sum" else entries.amax)(dim=dims, keepdim=keepdim)


Places: TypeAlias = tuple[Ids, Ids | None]  # variables, and which of them each entry of a guard is


def places_of(g: Ids) -> Places:
    """Return the variables in a guard, and the place of each of its entries among them.

    It is none where they are those of the rows, each once and in order.
    """
    ids = g.ravel()
    if g.shape[1] == 1 and len(g) and ids[0] > 0 and (ids[1:] > ids[:-1]).all():
        return ids, None
    units, place = numbered(ids[ids > 0])
    every = np.full(len(ids), len(units))
    every[ids > 0] = place
    return units, every.reshape(g.shape)


def _put(where: Places, rows: Scores, within: str) -> Scores:
    units, place = where
    if place is None:
        return rows
    weights, place = np.repeat(rows, place.shape[1]), place.ravel()
    if within == "sum":
        return np.bincount(place, weights, len(units) + 1)[: len(units)].astype(np.float64)
    values = np.full(len(units) + 1, -np.inf)
    np.maximum.at(values, place, weights)
    return values[: len(units)]


def scattered(g: Ids, rows: Scores, within: str = "sum") -> tuple[Ids, Scores]:
    """Return the variables in a guard, and the sum or maximum of the rows that each guards."""
    where = places_of(g)
    return where[0], _put(where, rows, within)


def makes(node: fx.Node, dim: int) -> bool:
    """Tell whether an axis of a parameter is what its first reader makes, not what it reads."""
    if node.meta["val"].ndim < 2:
        return False
    read, user = node, next(iter(node.users), None)
    while user is not None and user.target is aten.t.default:
        read, user, dim = user, next(iter(user.users), None), 1 - dim
    name = SECOND.get(user.target) if user is not None else None
    second = user is not None and name is not None and arguments(user).get(name) is read
    return dim == (1 if second else 0)


def reduced(found: Iterable[Part], reduction: Reduction, size: int) -> tuple[Scores, Scores]:
    """Reduce parts for each of `size` variables; return that, and how many parts each has."""
    total, count = np.zeros(size), np.zeros(size)
    for part in sorted(found, key=lambda part: not part.made):  # stable: else in graph order
        first = count[part.units] == 0
        if reduction == "max":
            best = np.maximum(total[part.units], part.values)
            total[part.units] = np.where(first, part.values, best)
        elif reduction == "first":
            total[part.units[first]] = part.values[first]
        else:
            total[part.units] += part.values
        count[part.units] += 1
    return total / np.maximum(count, 1) if reduction == "mean" else total, count


def of_targets(evidence: Evidence, total: Scores) -> list[Scores]:
    """Return the numbers of each target's units, one array `[units]` a target."""
    return [total[target.units] for target in evidence.targets]


def scored(
    evidence: Evidence,
    found: Iterable[Part],
    reduction: Reduction,
    lacking: Callable[[str], FxpruneError] | None = None,
) -> list[Scores]:
    """Return parts reduced, one array `[units]` a target; a unit that has no part scores 0.

    Where there is no score without a part, `lacking` makes the error from the target's name.
    """
    total, count = reduced(found, reduction, evidence.coupling.guards.size)
    for target in evidence.targets:
        if lacking is not None and not count[target.units].all():
            raise lacking(target.name)
    return of_targets(evidence, total)
