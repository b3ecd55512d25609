"""How a model is called: example inputs, which of their axes are free, and what is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from fxprune.errors import InputError
from fxprune.signature.conditions import Condition, related

F = TypeVar("F")
Call = tuple[tuple[Any, ...], dict[str, Any]]
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)  # that a second size may differ by
FAR = 8  # times as many elements as the example, at most, where something is tried


@dataclass(frozen=True)
class FixedAxis:
    """Hold an axis that can only have the example's size: of which leaf, and why."""

    leaf: int
    axis: int
    why: str
    line: str = ""


@dataclass(frozen=True)
class Signature:
    """Hold how the model is called.

    `args` and `kwargs` are the example inputs as captured. `axes` has for each leaf of them, in
    the order of `torch.utils._pytree`, the name of each axis that may have any size, and None for
    those that may not; axes of one name have one size. No `axes` at all: nothing is known.
    `conditions` restrict the sizes, and `fixed` says why an axis is not free. `training` is the
    mode the model came in.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    axes: tuple[tuple[str | None, ...], ...] = ()
    conditions: tuple[Condition, ...] = ()
    fixed: tuple[FixedAxis, ...] = ()
    labels: tuple[str, ...] = ()  # what each leaf is called; none: by its place
    unchecked: tuple[tuple[int, int], ...] = ()  # leaf and axis: not free, and not refused either
    training: bool = False
    outputs: tuple[str | int, ...] | None = None  # parts of the result that count; None: all

    @cached_property
    def leaves(self) -> list[Any]:
        """Return the example inputs, flat."""
        return pytree.tree_leaves((self.args, self.kwargs))

    @property
    def dynamic(self) -> tuple[bool, ...]:
        """Return for each leaf whether its leading axis may have any size."""
        return tuple(bool(names) and names[0] is not None for names in self.axes)

    @property
    def batch(self) -> int | None:
        """Return the example's size of the leading axis, where that may have any."""
        return next((len(self.leaves[k]) for k, free in enumerate(self.dynamic) if free), None)

    @property
    def sizes(self) -> dict[str, int]:
        """Return the example's size of each free axis, by its name."""
        return {name: self.leaves[k].shape[d] for k, d, name in self._named()}

    def _named(self) -> Iterator[tuple[int, int, str]]:
        for k, names in enumerate(self.axes):
            for d, name in enumerate(names):
                if name is not None:
                    yield k, d, name

    # ---- what is refused -------------------------------------------------------------------------

    def check(self, leaves: Sequence[Any]) -> None:
        """Raise InputError where the leaves of a call have sizes that were not captured."""
        sizes: dict[str, Any] = {}
        for k, names in enumerate(self.axes):
            given, example = leaves[k], self.leaves[k]
            if not isinstance(given, torch.Tensor) or not isinstance(example, torch.Tensor):
                continue
            if given.ndim != example.ndim:
                raise InputError(
                    f"inputs: {self._leaf(k)} has {given.ndim} axes; it was captured with "
                    f"{example.ndim}, as {tuple(example.shape)}"
                )
            for d, (size, name) in enumerate(zip(given.shape, names, strict=True)):
                if name is None:
                    if size != example.shape[d] and (k, d) not in self.unchecked:
                        raise InputError(self._refused(k, d, size))
                elif name not in sizes:
                    sizes[name] = size
                elif size != sizes[name]:
                    raise InputError(
                        f"inputs: axis {d} of {self._leaf(k)} is {size}, and must be as long as "
                        f"axis {' and axis '.join(self._places(name, but=(k, d)))}, {sizes[name]}"
                    )
        for one in self.conditions:
            if not one.holds(sizes):
                raise InputError(self._unmet(one, sizes))

    def _leaf(self, k: int) -> str:
        return (self.labels or leaf_names(self.args, self.kwargs))[k]

    def _places(self, name: str, but: tuple[int, int] | None = None) -> list[str]:
        return [
            f"{d} of {self._leaf(k)}" for k, d, n in self._named() if n == name and (k, d) != but
        ]

    def _refused(self, k: int, d: int, size: Any) -> str:
        said = next((one for one in self.fixed if (one.leaf, one.axis) == (k, d)), None)
        why = f" ({said.why}{', ' + said.line if said.line else ''})" if said else ""
        return (
            f"inputs: axis {d} of {self._leaf(k)} is {size}; it was captured with "
            f"{self.leaves[k].shape[d]} and is fixed{why}; capture the model on inputs of that size"
        )

    def _unmet(self, one: Condition, sizes: Mapping[str, Any]) -> str:
        given = [f"axis {self._places(n)[0]} is {sizes[n]}" for n in sorted(one.names)]
        at = f" ({one.line})" if one.line else ""
        return (
            f"inputs: {', '.join(given)}; it was captured for sizes with {one.text}{at}; "
            "capture the model on inputs of that size"
        )

    # ---- other sizes -----------------------------------------------------------------------------

    def resized(self, batch: int) -> Call:
        """Return the example inputs with the leading axis repeated or cut to `batch`."""
        return self.sized({n: batch for names in self.axes for n in names[:1] if n is not None})

    def sized(self, sizes: Mapping[str, int]) -> Call:
        """Return the example inputs with some free axes repeated or cut to other sizes."""
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        for k, d, name in self._named():
            if name in sizes and leaves[k].shape[d] != sizes[name]:
                index = torch.arange(sizes[name], device=leaves[k].device) % leaves[k].shape[d]
                leaves[k] = leaves[k].index_select(d, index)
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return tuple(args), dict(kwargs)

    def on_few(self, call: Callable[[tuple[Any, ...], dict[str, Any]], F]) -> F:
        """Call with two of the examples, or with all of them where two will not do."""
        if (self.batch or 0) > 2:
            with suppress(Exception):  # such as a batch that must be a multiple of four
                return call(*self.resized(2))
        return call(self.args, self.kwargs)

    def second_sizes(self) -> dict[str, int]:
        """Return another size of every free axis, as far as there is one that meets the conditions.

        Axes that only go together are changed together; the sizes are the nearest that do.
        """
        found, now = dict[str, int](), self.sizes
        for group in self._tied():
            for step in STEPS:
                tried = {**now, **{n: now[n] + step for n in group}}
                if not self._meets(tried):
                    tried = {**now, **{n: now[n] * (1 + step) for n in group}}
                if self._meets(tried) and self._grown(tried) <= FAR:
                    found |= {n: tried[n] for n in group}
                    now = tried
                    break
        return found

    def _meets(self, sizes: Mapping[str, int]) -> bool:
        return all(one.holds(sizes) for one in self.conditions)

    def _grown(self, sizes: Mapping[str, int]) -> float:
        factors = dict.fromkeys(range(len(self.axes)), 1.0)
        for k, d, name in self._named():
            factors[k] *= sizes[name] / max(1, self.leaves[k].shape[d])
        return max(factors.values(), default=1.0)

    def _tied(self) -> list[list[str]]:
        """Return the free axes in groups that some condition relates."""
        return [sorted(one) for one in related(self.sizes, (c.names for c in self.conditions))]

    # ---- what a tracer is told -------------------------------------------------------------------

    def dynamic_shapes(
        self, module: torch.nn.Module, *, batch_only: bool = False
    ) -> dict[str, Any] | None:
        """Return `torch.export`'s dynamic_shapes for a module called with this signature."""
        if not any(name for names in self.axes for name in names):
            return None
        _, spec = pytree.tree_flatten((self.args, self.kwargs))
        marks = [
            {d: Dim.AUTO for d, n in enumerate(names) if n and not (d and batch_only)} or None
            for names in self.axes
        ]
        return by_name(module, *spread(marks, spec))

    def within(self, known: Signature) -> Signature:
        """Return the signature with what was known before: of why axes are fixed, and conditions.

        Where it has other leaves than the known one, it is as it is.
        """
        if [len(names) for names in known.axes] != [len(names) for names in self.axes]:
            return self
        before = {(one.leaf, one.axis): one for one in known.fixed}
        told = {(one.leaf, one.axis): one for one in self.fixed} | before
        places = [
            (k, d) for k, names in enumerate(self.axes) for d, name in enumerate(names) if not name
        ]
        fixed = tuple(told[place] for place in places if place in told)
        names: dict[str, str] = {}
        for mine, theirs in zip(self.axes, known.axes, strict=True):
            names |= {b: a for a, b in zip(mine, theirs, strict=True) if a and b}
        kept = [one.renamed(names) for one in known.conditions if one.names <= names.keys()]
        conditions = tuple(dict.fromkeys([*kept, *self.conditions]))
        unchecked = known.unchecked
        return replace(self, fixed=fixed, conditions=conditions, unchecked=unchecked)

    def batched(self) -> Signature:
        """Return the signature with only the leading axes free."""
        axes = tuple(tuple(n if d == 0 else None for d, n in enumerate(ns)) for ns in self.axes)
        names = {n for ns in axes for n in ns if n}
        kept = tuple(one for one in self.conditions if one.names <= names)
        return replace(self, axes=axes, conditions=kept)

    def lines(self) -> list[str]:
        """Say which axes are free, under which conditions, and what is fixed and why."""
        found = [f"axis {' = axis '.join(self._places(name))}: any size" for name in self.sizes]
        found += [f"sizes with {c.text}{f' ({c.line})' if c.line else ''}" for c in self.conditions]
        for one in self.fixed:
            at = f" ({one.line})" if one.line else ""
            size = self.leaves[one.leaf].shape[one.axis]
            found.append(
                f"axis {one.axis} of {self._leaf(one.leaf)}: fixed at {size}: {one.why}{at}"
            )
        return found


def spread(marks: Sequence[Any], spec: Any) -> Any:
    """Return what is said of each leaf as `torch.export` takes it: containers of others as lists.

    >>> spread([1, 2], pytree.tree_structure(([0], {"x": 0})))
    ([1], {'x': 2})
    """
    if spec.is_leaf():
        return marks[0]
    parts, start = list[Any](), 0
    for child in spec.children():
        parts.append(spread(marks[start : start + child.num_leaves], child))
        start += child.num_leaves
    if spec.type is dict:
        return dict(zip(spec.context, parts, strict=True))
    return tuple(parts) if spec.type is tuple else parts


def leaf_names(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """Return a name for each leaf of a call, as in `inputs[0]` or `mask`."""
    found: list[str] = []
    for path, _ in pytree.tree_flatten_with_path((args, dict(kwargs)))[0]:
        (kind, first, *rest) = path
        named = bool(kind.idx)  # type: ignore[attr-defined]
        head = str(first.key) if named else f"inputs[{first.idx}]"  # type: ignore[attr-defined]
        found.append(head + pytree.keystr(tuple(rest)))
    return found


def labels(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return for each leaf of a call the name of the parameter that it is given to."""
    found = leaf_names(args, kwargs)
    try:
        parameters = [*inspect.signature(module.forward).parameters.values()]
    except (TypeError, ValueError):
        return tuple(found)
    for place, one in enumerate(parameters[: len(args)]):
        if one.kind not in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD):
            break
        head = f"inputs[{place}]"
        found = [n.replace(head, one.name, 1) if n.startswith(head) else n for n in found]
    return tuple(found)


def by_name(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a call binds, by the names of the forward's parameters."""
    signature = inspect.signature(module.forward)
    bound = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    return bound


def in_order(module: torch.nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments in the order of the forward's parameters, as a graph takes them."""
    try:
        order = {name: k for k, name in enumerate(inspect.signature(module.forward).parameters)}
    except (TypeError, ValueError):
        return dict(kwargs)
    return {name: kwargs[name] for name in sorted(kwargs, key=lambda n: order.get(n, len(order)))}
