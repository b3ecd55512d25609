"""Walk through the original and the smaller graph side by side, and refit what is reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.graphs import attribute
from fxprune.surgery.repair.activations import GIBIBYTE, Memory
from fxprune.surgery.repair.lockstep import Side
from fxprune.surgery.repair.norms import Statistics, corrected, moved, statistics_of, sums_of


@dataclass(frozen=True)
class Terms:
    """Say how to repair.

    `damping` is relative to the mean of the diagonal of `XᵀX`; None takes that with which each half
    of the rows tells the other best. Of each operator `samples` rows are looked at, or `each` times
    its features where that is more. Activations of more than `memory` bytes go to disk.
    """

    damping: float | None = None
    norms: bool = True
    samples: int = 16384
    each: int = 16
    memory: int = 2 * GIBIBYTE


@dataclass(frozen=True, eq=False)
class Mix:
    """Say which results stand for others: sums of them, that are kept in the places of some.

    Results are numbered over the axes `dims`, in this order. In groups, `columns` `[G, d]` give
    `matrices` `[G, d, r]` of themselves, which come to stand in `places` `[G, r]`.
    """

    dims: tuple[int, ...]
    columns: Tensor
    matrices: Tensor
    places: Tensor

    def __call__(self, value: Tensor) -> Tensor:
        """Return results with the sums in their places."""
        last = tuple(range(-len(self.dims), 0))
        moved = value.movedim(self.dims, last)
        flat = moved.flatten(-len(self.dims)).clone()
        columns, places = (one.to(flat.device) for one in (self.columns, self.places))
        mixed = torch.einsum(
            "...gd,gdr->...gr", flat[..., columns].double(), self.matrices.to(flat.device)
        )
        flat[..., places] = mixed.to(flat.dtype)
        return flat.reshape(moved.shape).movedim(last, self.dims)


@dataclass(frozen=True, eq=False)
class Pair:
    """Hold a node of the original, and what is kept of each axis of its result, None for all.

    What `mixes` put together is kept in the places of some results.
    """

    node: fx.Node
    kept: tuple[Tensor | None, ...]
    mixes: tuple[Mix, ...] = ()

    def narrowed(self, value: Tensor) -> Tensor:
        """Return what is kept of a result of the original."""
        for mix in self.mixes:
            value = mix(value)
        for dim, index in enumerate(self.kept):
            if index is not None:
                value = value.index_select(dim, index.to(value.device))
        return value


@dataclass(frozen=True)
class At:
    """Stand at a pair of calls, before the smaller graph has made its own."""

    node: fx.Node
    pair: Pair
    whole: Side
    ours: Side


class Walk:
    """Run two graphs in lockstep, over all batches; the pairs stand in the order of both."""

    def __init__(
        self,
        original: fx.GraphModule,
        smaller: fx.GraphModule,
        pairs: Mapping[fx.Node, Pair],
        batches: Sequence[tuple[Sequence[Any], Sequence[Any]]],
        memory: Memory,
    ) -> None:
        self._pairs = pairs
        sources = {pair.node for pair in pairs.values()}
        self.whole = Side(original, [one for one, _ in batches], memory, sources)
        self.ours = Side(smaller, [one for _, one in batches], memory)

    def __iter__(self) -> Iterator[fx.Node]:
        """Yield each call of the smaller graph before it is made, and go on to the end."""
        for node, pair in self._pairs.items():
            self.ours.advance(node, inclusive=False)
            yield node
            self.whole.advance(pair.node)
            self.ours.advance(node)
            self.whole.read(pair.node)
        self.whole.finish()
        self.ours.finish()

    def visits(self, nodes: Sequence[fx.Node], *, after: bool) -> Iterator[At]:
        """Yield the places of some calls, the first of which is where the walk is.

        To later calls both sides go on by themselves: the walk itself stays where it is.
        """
        whole, ours = self.whole, self.ours
        if len(nodes) > 1:
            whole, ours = whole.fork(), ours.fork()
        for node in nodes:
            pair = self._pairs[node]
            whole.advance(pair.node, inclusive=after)
            ours.advance(node, inclusive=False)
            yield At(node, pair, whole, ours)


class Norms:
    """Correct the statistics of the norms of a smaller graph while it is walked through."""

    def __init__(self, module: fx.GraphModule, nodes: Sequence[fx.Node]) -> None:
        self._module, self._settled = module, set[str]()
        self.names = {n: found for n in nodes if (found := statistics_of(module, n))}

    def correct(self, walk: Walk, node: fx.Node) -> None:
        """Correct the statistics of a norm, those of all its calls together."""
        names = self.names[node]
        if names[0] in self._settled:
            return
        self._settled.add(names[0])
        sums: tuple[list[Tensor], list[Tensor]] = [], []
        for at in walk.visits([n for n, one in self.names.items() if one == names], after=False):
            sums[0].append(sums_of(_channels(at)))
            sums[1].append(sums_of(one[at.node.args[0]] for one in at.ours.values))  # type: ignore[index]
        before, after = (Statistics.of(torch.stack(one).sum(0)) for one in sums)
        mean, variance = (attribute(self._module, name) for name in names)
        if before.mean.shape != mean.shape or not moved(before, after):
            return
        new = corrected(mean, variance, before, after)
        if all(bool(one.isfinite().all()) for one in new):
            mean.copy_(new[0])
            variance.copy_(new[1])


def _channels(at: At) -> Iterator[Tensor]:
    """Yield what is kept of the channels that a norm of the original is given."""
    index = at.pair.kept[1] if len(at.pair.kept) > 1 else None
    for one in at.whole.values:
        x = one[at.pair.node.args[0]]  # type: ignore[index]
        yield x if index is None else x.index_select(1, index.to(x.device))
