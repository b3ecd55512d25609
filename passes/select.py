"""select: choose the targets that may lose units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from fxprune.cost import OriginalWidths
from fxprune.errors import SpecError, unknown
from fxprune.metrics.footprint import makes
from fxprune.metrics.registry import Scored
from fxprune.pipeline import Facts, register
from fxprune.program import Program
from fxprune.surgery.masks import Masks
from fxprune.targets import (
    SELECTABLE,
    BlockTarget,
    Discovery,
    Grid,
    Selection,
    Target,
    Terms,
    block_of,
)
from fxprune.targets.activation_sites import masked_sites, paths, sites
from fxprune.targets.blocks import Layout, Pattern

NOTHING = np.zeros(0, dtype=np.int64)


@register("select")
@dataclass(frozen=True)
class Select:
    """Keep to targets of a kind, named by patterns, of a size; where `exact`, to exact ones.

    The kind "block" takes the blocks of a `tensor` ("weight" or "bias", or the "input" or "output"
    of the modules that `include` names, or of nodes of that name), of `block` entries along
    `axes`. `more` adds to what an earlier select chose. What is selected may have a `metric` and
    bounds of its own: `min_keep`, `min_ratio`, `max_ratio` and `round_to`; `ratio` or `width` fixes
    how much of each target is removed or kept.
    """

    kind: str | tuple[str, ...] = "all"
    include: str | tuple[str, ...] = ()
    exclude: str | tuple[str, ...] = ()
    type: str | tuple[str, ...] = ()
    min_units: int = 2
    max_units: int | None = None
    exact: bool = False
    metric: str | Mapping[str, Any] | None = None
    ratio: float | None = None
    width: int | None = None
    min_keep: int | None = None
    min_ratio: float | None = None
    max_ratio: float | None = None
    round_to: int | Literal["auto"] | None = None
    tensor: str = "weight"
    block: Any = None
    axes: tuple[int, ...] | None = None
    more: bool = False
    where: str = "target"

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Discovery, Selection)
    ensures: ClassVar[Facts] = (Selection,)

    def __call__(self, program: Program) -> Program:
        """Return the program with targets selected; selecting none, or one twice, is an error."""
        kinds = _listed(self.kind)
        for kind in kinds:
            if kind not in SELECTABLE:
                raise SpecError(f"{self.where}.kind: {unknown('kind', kind, SELECTABLE)}")
        if kinds == ("block",):
            return self._blocks(program)
        discovery, widths = program[Discovery], program.get(OriginalWidths)
        targets = discovery.targets
        if widths is None:
            self._check(discovery)
            chosen = tuple(one for one in targets if self._takes(one, kinds, discovery))
        else:  # what has been cut counts as it was: a selection means the same in every step
            chosen = tuple(
                one for one in targets if self._takes(widths.of(one), kinds, widths.discovery)
            )
        if not chosen and widths is None:
            raise SpecError(f"{self.where}: {self._nothing(targets, kinds)}")
        return self._added(program, chosen)

    def _added(self, program: Program, chosen: tuple[Target, ...]) -> Program:
        """Return the program with targets selected, after those that were before."""
        earlier = program[Selection] if self.more else Selection((), ())
        taken = {target.name for target in earlier.targets}
        for target in chosen:
            if target.name in taken:
                raise SpecError(
                    f"{self.where}: {target.name} is in an earlier selection too; exclude it from "
                    "one of them"
                )
        terms = (*earlier.terms, *(self._terms() for _ in chosen))
        return program.without(Scored).with_(Selection((*earlier.targets, *chosen), terms))

    def _blocks(self, program: Program) -> Program:
        """Return the program with the blocks of tensors selected."""
        discovery, first = program[Discovery], OriginalWidths not in program
        if first:
            self._check(discovery)
        try:
            block = block_of(1 if self.block is None else self.block)
        except ValueError as error:
            raise SpecError(f"{self.where}.block: {error}") from None
        layout = Layout(block, self.axes)
        if self.tensor in ("input", "output"):
            return self._added(program, self._activations(program, layout))
        chosen: list[Target] = []
        for name, shape in self._tensors(discovery):
            grid, pattern = layout.of(name, shape, self.where, _summed(program, name))
            if pattern is not None and pattern.rest(shape).all():
                program = program.noted(pattern.remark(name, shape))
            elif len(grid) > 1:
                chosen.append(_block_target(program, name, grid, pattern))
        if not chosen and first:
            raise SpecError(
                f"{self.where}: no {self.tensor} of two blocks or more is selected; relax include, "
                "exclude or type, or make the block smaller"
            )
        return self._added(program, tuple(chosen))

    def _activations(self, program: Program, layout: Layout) -> tuple[Target, ...]:
        """Return the blocks of inputs or outputs of modules (or nodes) as targets."""
        module, patterns = program.module, _listed(self.include)
        if not patterns:
            raise SpecError(
                f"{self.where}.include: name the modules whose {self.tensor} is to be masked"
            )
        widths = program.get(OriginalWidths)
        if widths is not None:
            names = [t.tensor for t in widths.selected if isinstance(t, BlockTarget)]
            found = list(masked_sites(module, [name for name in names if ":" in name]))
        else:
            found = [
                site
                for site in sites(module, self.tensor, patterns)
                if not any(fnmatchcase(site.name.split(":")[0], p) for p in _listed(self.exclude))
            ]
            if not found:
                known = sorted(paths(module))
                raise SpecError(f"{self.where}.include: {unknown('module', patterns[0], known)}")
        chosen: list[Target] = []
        for site in found:
            grid, pattern = layout.of(site.name, site.shape, self.where)
            if len(grid) > 1:
                target = _block_target(program, site.name, grid, pattern, site.known)
                readers = tuple(user.name for user in site.readers)
                chosen.append(replace(target, site=site.node.name, readers=readers, footprint=()))
        return tuple(chosen)

    def _tensors(self, discovery: Discovery) -> list[tuple[str, tuple[int, ...]]]:
        """Return the parameters of the name asked for, with their shapes.

        Without include or type, weights of one axis, such as the scales of norms, are not selected.
        """
        found: list[tuple[str, tuple[int, ...]]] = []
        for name, axes in discovery.parameters.items():
            shape = tuple(len(axis.raw) for axis in axes)
            own = Target(f"{name}:block", "block", NOTHING, ((name, 0),), True)
            asked = self.include or self.type or self.tensor != "weight" or len(shape) > 1
            if name.rpartition(".")[2].endswith(self.tensor) and asked:
                found += [(name, shape)] if self._matched(own, discovery) else []
        return found

    def _check(self, discovery: Discovery) -> None:
        """Raise SpecError where a pattern names nothing in the model."""
        known = [target.name for target in discovery.targets] + _places(discovery.parameters)
        names = [target.name.split(":")[0] for target in discovery.targets]
        for field, patterns in (("include", self.include), ("exclude", self.exclude)):
            for pattern in _listed(patterns):
                if not any(fnmatchcase(name, pattern) for name in known):
                    raise SpecError(f"{self.where}.{field}: {unknown('module', pattern, names)}")
        if not self.type:
            return
        types = sorted({kind for target in discovery.targets for kind in discovery.types(target)})
        for pattern in _listed(self.type):
            if not any(fnmatchcase(kind, pattern) for kind in types):
                bare = [kind for kind in types if "." not in kind]
                raise SpecError(f"{self.where}.type: {unknown('module type', pattern, bare)}")

    def _takes(self, target: Target, kinds: Sequence[str], discovery: Discovery) -> bool:
        if not ("all" in kinds or target.kind in kinds) or not self._matched(target, discovery):
            return False
        return self.min_units <= len(target) <= (self.max_units or len(target)) and (
            target.exact or not self.exact
        )

    def _matched(self, target: Target, discovery: Discovery) -> bool:
        if self.type and not any(
            fnmatchcase(kind, pattern)
            for kind in discovery.types(target)
            for pattern in _listed(self.type)
        ):
            return False
        if self.include and not any(map(target.matches, _listed(self.include))):
            return False
        return not any(map(target.matches, _listed(self.exclude)))

    def _terms(self) -> Terms:
        metric = {"name": self.metric} if isinstance(self.metric, str) else self.metric
        options = {k: v for k, v in (metric or {}).items() if k != "name"}
        bounds = ("ratio", "width", "min_keep", "min_ratio", "max_ratio", "round_to")
        return Terms(
            (str(metric["name"]), options) if metric else None,
            {name: v for name in bounds if (v := getattr(self, name)) is not None},
        )

    def _nothing(self, targets: Sequence[Target], kinds: Sequence[str]) -> str:
        have = sorted({target.kind for target in targets})
        if not have:
            return "the model has no target at all; `fxprune inspect` says what pins it"
        if not any(target.kind in kinds for target in targets) and "all" not in kinds:
            return f"no target of kind {', '.join(kinds)}; the model has {', '.join(have)}"
        return "kind, include, exclude, type, size and exact together leave no target; relax one"


def _block_target(
    program: Program,
    name: str,
    grid: Grid,
    pattern: Pattern | None,
    mask: torch.Tensor | None = None,
) -> BlockTarget:
    """Return the blocks of a tensor that no mask has taken yet, as fresh variables."""
    index = np.arange(len(grid), dtype=np.int64)
    if pattern is not None:
        index = np.flatnonzero(~pattern.rest(grid.shape))
    masks = program.get(Masks) or Masks()
    mask = masks.tensors.get(name, mask)
    if mask is not None:
        index = index[grid.pooled(mask.float())[index] > 0]
    units = program[Discovery].coupling.guards.fresh(len(index))[:, 0]
    footprint = tuple((name, d) for d in range(len(grid.shape)))
    label = f"{name}:block"
    return BlockTarget(
        label,
        "block",
        units,
        footprint,
        True,
        tensor=name,
        grid=grid,
        index=index,
        pattern=pattern,
    )


def _summed(program: Program, name: str) -> int:
    """Return which axis of a weight its consumer sums over: the second, unless it makes that one.

    Of the weights of transposed convolutions, and of matrices that stand on the right, it is the
    first.
    """
    nodes = program.module.graph.find_nodes(op="get_attr")
    node = next((one for one in nodes if one.target == name), None)
    return 0 if node is not None and makes(node, 1) else 1


def _places(parameters: Iterable[str]) -> list[str]:
    """Return the names of parameters and of every module around them."""
    paths = [name.split(".") for name in parameters]
    return [".".join(path[:n]) for path in paths for n in range(1, len(path) + 1)]


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
