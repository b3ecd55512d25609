"""Blocks: parts of one tensor as units, from single elements to whole dimensions, and N:M."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fxprune.errors import SpecError, shown
from fxprune.guards import Ids, Mask
from fxprune.registry import WIDEST
from fxprune.targets.discovery import Target
from fxprune.targets.ordering import ascending

Size = int | Literal["all"]
Block = Size | tuple[Size, ...] | Mapping[str, int]


@dataclass(frozen=True)
class Grid:
    """Hold how a tensor of `shape` is cut into blocks of `block` entries an axis.

    Blocks at the far end of an axis that is no multiple of the block are smaller.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Return the number of blocks along each axis."""
        return tuple(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))

    def __len__(self) -> int:
        return prod(self.counts)

    @property
    def ragged(self) -> bool:
        """Tell whether some blocks are smaller than the others."""
        return any(n % b for n, b in zip(self.shape, self.block, strict=True))

    def sizes(self) -> Ids:
        """Return the number of entries of every block, `[blocks]`, in row-major order."""
        sizes = np.ones((1,) * len(self.shape), dtype=np.int64)
        for axis, (n, b) in enumerate(zip(self.shape, self.block, strict=True)):
            along = np.minimum(b, n - b * np.arange(self.counts[axis]))
            sizes = sizes * along.reshape([-1 if d == axis else 1 for d in range(len(self.shape))])
        return sizes.ravel()

    def pooled(self, entries: torch.Tensor, within: str = "sum") -> NDArray[np.float64]:
        """Return the sum, or the maximum, of the entries in every block, `[blocks]`."""
        rows = self._pooled(entries.double(), within)
        return np.asarray(rows.flatten().cpu().numpy(), dtype=np.float64)

    def _pooled(self, rows: torch.Tensor, within: str = "sum") -> torch.Tensor:
        for axis, b in enumerate(self.block):
            if b == 1:
                continue
            short = -rows.shape[axis] % b
            if short:
                fill = 0.0 if within == "sum" else -torch.inf
                pad = [0, 0] * (rows.ndim - 1 - axis) + [0, short]
                rows = torch.nn.functional.pad(rows, pad, value=fill)
            rows = rows.unflatten(axis, (-1, b))
            rows = rows.sum(axis + 1) if within == "sum" else rows.amax(axis + 1)
        return rows

    def together(self, entries: torch.Tensor) -> torch.Tensor:
        """Return for every entry the sum of the entries of its block, of the tensor's shape."""
        return self._spread(self._pooled(entries))

    def spread(self, keep: Mask) -> torch.Tensor:
        """Return which entries are kept, bool of the tensor's shape, given which blocks are."""
        return self._spread(torch.from_numpy(keep.reshape(self.counts))).contiguous()

    def _spread(self, blocks: torch.Tensor) -> torch.Tensor:
        for axis, (n, b) in enumerate(zip(self.shape, self.block, strict=True)):
            if b > 1:
                blocks = blocks.repeat_interleave(b, axis).narrow(axis, 0, n)
        return blocks


@dataclass(frozen=True)
class Pattern:
    """Keep at most `n` of every `m` entries in a row along `axis`: N:M sparsity."""

    n: int
    m: int
    axis: int

    def groups(self, shape: Sequence[int]) -> Ids:
        """Return the entries of every whole group, `[groups, m]`; a rest is not masked."""
        numbers = np.arange(prod(shape), dtype=np.int64).reshape(shape)
        whole = shape[self.axis] // self.m * self.m
        rows = np.moveaxis(numbers, self.axis, -1)[..., :whole]
        return rows.reshape(-1, self.m)

    def remark(self, name: str, shape: Sequence[int]) -> str:
        """Say how much of a tensor is in no whole group; nothing where all is."""
        size, rest = shape[self.axis], shape[self.axis] % self.m
        some = f"{name}: {rest} of {size} along axis {self.axis} are no whole group of"
        return f"{some} {self.n}:{self.m} and are not masked" if rest else ""

    def rest(self, shape: Sequence[int]) -> Mask:
        """Return which entries, of the tensor laid out flat, are in no whole group."""
        rest = np.ones(prod(shape), dtype=bool)
        rest[self.groups(shape)] = False
        return rest


@dataclass(frozen=True, eq=False)
class BlockTarget(Target):
    """Hold the blocks of one tensor: unit `k` is block `index[k]` of the grid.

    With a `pattern` the units are single entries, and only so many of each group may be masked; an
    entry in no whole group is no unit. Of an activation, `site` is the node that makes it and
    `readers` those that read it there.
    """

    tensor: str = ""
    site: str = ""
    readers: tuple[str, ...] = ()
    grid: Grid = field(default_factory=lambda: Grid((), ()))
    index: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    pattern: Pattern | None = None

    def mask(self, alive: Mask) -> torch.Tensor:
        """Return which entries of the tensor are kept, bool of its shape."""
        keep = self._rest()
        keep[self.index] = alive[self.units]
        return self.grid.spread(keep)

    def owners(self) -> Ids:
        """Return the unit of every entry of the tensor, `[entries]`; 0 where there is none."""
        owner = np.zeros(len(self.grid), dtype=np.int64)
        owner[self.index] = self.units
        owner = owner.reshape(self.grid.counts)
        for axis, (n, b) in enumerate(zip(self.grid.shape, self.grid.block, strict=True)):
            owner = np.take(owner, np.arange(n) // b, axis)
        return owner.ravel()

    def entries(self, alive: Mask) -> int:
        """Return how many entries of the tensor are kept."""
        return int(self.grid.sizes()[self.index][alive[self.units]].sum() + self._rest().sum())

    def _rest(self) -> Mask:
        """Return which entries are in no group of the pattern, and are kept."""
        if self.pattern is None:
            return np.zeros(len(self.grid), dtype=bool)
        return self.pattern.rest(self.grid.shape)

    def remark(self) -> str:
        """Say what of the tensor does not fit the blocks; nothing where all does."""
        shape = self.grid.shape
        if self.pattern is not None:
            return self.pattern.remark(self.tensor, shape)
        if not self.grid.ragged:
            return ""
        return (
            f"{self.tensor} of shape {shape}: blocks of {self.grid.block} at its ends are smaller"
        )

    def order(self, score: NDArray[np.float64]) -> tuple[Ids, int, int]:
        """Return in which order units may be masked, in steps of how many, how many in all.

        Of an N:M pattern whole groups follow each other, those that lose least first.
        """
        if self.pattern is None:
            return ascending(score), 1, len(self)
        place = np.full(len(self.grid), -1)
        place[self.index] = np.arange(len(self.index))
        groups = place[self.pattern.groups(self.grid.shape)]
        groups = groups[(groups >= 0).all(axis=1)]
        ranked = np.take_along_axis(groups, np.argsort(score[groups], axis=1, kind="stable"), 1)
        step = self.pattern.m - self.pattern.n
        leaving = ranked[:, :step]
        first = np.argsort(score[leaving].sum(axis=1), kind="stable")
        return leaving[first].ravel(), step, leaving.size


@dataclass(frozen=True)
class Layout:
    """Say how tensors are cut: sizes of a block, and the axes that they are along.

    `block` is a size for every axis named (or all), a size for each, or `{"n": 2, "m": 4}`.
    Axes that are not named have blocks of 1; "all" is a whole axis. A pattern without an axis is
    along the one that is summed over.
    """

    block: Block = 1
    axes: tuple[int, ...] | None = None

    def of(
        self, name: str, shape: Sequence[int], where: str, summed: int = 1
    ) -> tuple[Grid, Pattern | None]:
        """Return the grid of a tensor, of which the axis `summed` is summed over.

        Raises SpecError where the layout does not fit it.
        """
        axes = self._axes(name, shape, where, summed)
        if isinstance(self.block, Mapping):
            n, m = self.block["n"], self.block["m"]
            if len(axes) != 1:
                raise SpecError(f"{where}.axes: {n}:{m} is along one axis, as in axes = [1]")
            return Grid(tuple(shape), (1,) * len(shape)), Pattern(n, m, axes[0])
        sizes = self.block if isinstance(self.block, tuple) else (self.block,) * len(axes)
        if len(sizes) != len(axes):
            raise SpecError(
                f"{where}.block: {len(sizes)} sizes for {len(axes)} axes; give as many of both"
            )
        block = [1] * len(shape)
        for axis, size in zip(axes, sizes, strict=True):
            block[axis] = shape[axis] if size == "all" else min(int(size), shape[axis])
        return Grid(tuple(shape), tuple(block)), None

    def _axes(self, name: str, shape: Sequence[int], where: str, summed: int) -> tuple[int, ...]:
        rank = len(shape)
        if self.axes is None:
            if isinstance(self.block, Mapping):
                return (min(summed, rank - 1),)
            many = len(self.block) if isinstance(self.block, tuple) else rank
            return tuple(range(many))
        for axis in self.axes:
            if not -rank <= axis < rank:
                raise SpecError(
                    f"{where}.axes: {axis}: {name} of shape {tuple(shape)} has axes 0 to {rank - 1}"
                )
        axes = tuple(axis % rank for axis in self.axes)
        if len(set(axes)) < len(axes):
            raise SpecError(f"{where}.axes: {list(self.axes)}: an axis is named twice")
        return axes


def block_of(given: Any) -> Block:
    """Return a block as a layout takes it, of what stood in a specification.

    Raises ValueError where it is none.
    """
    if isinstance(given, Mapping):
        n, m = given.get("n"), given.get("m")
        good = set(given) == {"n", "m"} and type(n) is int and type(m) is int
        if not good or not 0 < int(n or 0) < int(m or 0) <= WIDEST:
            raise ValueError('a pattern is {"n": 2, "m": 4}, with n from 1 to m - 1')
        return dict(given)
    if isinstance(given, (list, tuple)):
        if not given:
            raise ValueError("a size an axis is needed")
        return tuple(_size(one) for one in given)
    return _size(given)


def _size(given: Any) -> Size:
    if given == "all" or (type(given) is int and 1 <= given <= WIDEST):
        return given  # type: ignore[no-any-return]
    raise ValueError(f'{shown(given)}: a whole number of 1 or more, or "all", is needed')


def masks_of(
    selected: Sequence[Target], alive: Mask, kept: Mapping[str, tuple[torch.Tensor, ...]]
) -> dict[str, torch.Tensor]:
    """Return the masks of the selected tensors, bool of the shape of what is kept of each."""
    masks: dict[str, torch.Tensor] = {}
    for target in selected:
        if isinstance(target, BlockTarget):
            mask = target.mask(alive)
            for dim, index in enumerate(kept[target.tensor]):
                if mask.shape[dim] > 1:  # of an axis of any size there is but one entry
                    mask = mask.index_select(dim, index)
            masks[target.tensor] = mask
    return masks


def blocks_left(target: BlockTarget, mask: torch.Tensor) -> int:
    """Return how many blocks a mask keeps, of a tensor that may have become smaller."""
    if target.pattern is not None:
        return int(mask.flatten()[target.pattern.groups(mask.shape).ravel()].sum())
    block = tuple(min(b, n) for b, n in zip(target.grid.block, mask.shape, strict=True))
    return int((Grid(tuple(mask.shape), block).pooled(mask.float()) > 0).sum())
