"""Where a rule meets a graph: a node while guards are coupled, and again while it shrinks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import fx

from fxprune.calls import arguments
from fxprune.guards import Guards, Ids, Mask, Reason, true
from fxprune.rules.kept import Kept


@dataclass(frozen=True)
class TensorGuard:
    """Hold the guards of one tensor.

    `dims[d]` has shape `[size of d, factors]`. `zero[d]` says that the slice at a dropped index of
    `d` is zero when the dropped unit's parameters are zeroed instead of removed: what a sum over
    that dimension needs to be exact.
    """

    dims: tuple[Ids, ...]
    zero: tuple[bool, ...]

    def axis(self, dim: Any) -> int:
        """Return a dimension's number counted from the left."""
        return int(dim) % max(1, len(self.dims))

    def with_(self, dim: int, g: Ids, zero: bool | None = None) -> TensorGuard:
        """Return the guards with one dimension changed."""
        dims, zeros = list(self.dims), list(self.zero)
        dims[dim] = g
        zeros[dim] = zeros[dim] if zero is None else zero
        return TensorGuard(tuple(dims), tuple(zeros))

    def without(self, gone: Iterable[int]) -> TensorGuard:
        """Return the guards with some dimensions left out."""
        left_out = set(gone)
        return self.moved([d for d in range(len(self.dims)) if d not in left_out])

    def moved(self, order: Sequence[int]) -> TensorGuard:
        """Return the dimensions in another order."""
        return TensorGuard(tuple(self.dims[d] for d in order), tuple(self.zero[d] for d in order))


Value: TypeAlias = "TensorGuard | tuple[Value, ...] | None"


@dataclass(frozen=True)
class Mark:
    """Remember something that an operator said about some guards."""

    guard: Ids
    node: str
    text: str


@dataclass
class Coupling:
    """Collect what the operators of one graph state about its guards."""

    guards: Guards = field(default_factory=Guards)
    values: dict[fx.Node, Value] = field(default_factory=dict)
    approximate: list[Mark] = field(default_factory=list)
    roles: list[Mark] = field(default_factory=list)
    unruled: dict[str, str] = field(default_factory=dict)  # node name -> operator without a rule
    poisoned: frozenset[fx.Node] = frozenset()  # changed in place later: what is zero is unknown


def hint(size: int | torch.SymInt) -> int:
    """Return a size as an integer, a symbolic one by its hint (1 where it depends on data)."""
    if isinstance(size, int):
        return size
    value = size.node.hint
    return int(value) if value is not None else 1


def tensor_meta(node: fx.Node) -> torch.Tensor | None:
    """Return the fake tensor a node produces, or None where it is not a single tensor."""
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


def shape_of(value: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of a (fake) tensor, symbolic sizes by their hints."""
    return tuple(hint(size) for size in value.shape)


def symbolic(value: torch.Tensor) -> tuple[bool, ...]:
    """Return which sizes of a (fake) tensor are symbolic."""
    return tuple(not isinstance(size, int) for size in value.shape)


def unbounded(value: torch.Tensor) -> tuple[bool, ...]:
    """Return which sizes are symbols alone: of `12·batch`, the 12 may still shrink."""
    sizes: list[Any] = list(value.shape)
    return tuple(
        not isinstance(size, int) and int(size.node.expr.as_coeff_Mul()[0]) == 1 for size in sizes
    )


class Site:
    """Offer a rule the operands of one node, and take the equalities that it states."""

    def __init__(self, node: fx.Node, coupling: Coupling) -> None:
        self.node = node
        self.coupling = coupling
        self.args = arguments(node)

    # -- operands --------------------------------------------------------------------------------

    @property
    def operator(self) -> Any:
        """Return the operator that the node calls."""
        return self.node.target

    def tensor(self, name: str) -> TensorGuard:
        """Return the guards of the tensor operand `name`."""
        value = self.optional(name)
        if value is None:
            raise TypeError(f"{self.node.name}: operand {name!r} is not a tensor")
        return value

    def optional(self, name: str) -> TensorGuard | None:
        """Return the guards of operand `name`, or None where it is absent or a number."""
        return self.of(self.args.get(name))

    def of(self, arg: Any) -> TensorGuard | None:
        """Return the guards of an argument that is a node with one tensor, else None."""
        value = self.coupling.values.get(arg) if isinstance(arg, fx.Node) else None
        return value if isinstance(value, TensorGuard) else None

    def unify_all(self, values: Sequence[TensorGuard], skip: Iterable[int] = ()) -> TensorGuard:
        """Unify every axis of tensors of one rank but those in `skip`, which stay the first's."""
        left_out, dims = set(skip), list(values[0].dims)
        for value in values[1:]:
            for d, g in enumerate(value.dims):
                if d not in left_out:
                    dims[d] = self.unify(dims[d], g)
        zeros = tuple(all(v.zero[d] for v in values) for d in range(len(dims)))
        return TensorGuard(tuple(dims), zeros)

    def many(self, name: str) -> list[TensorGuard]:
        """Return the guards of each tensor in the list operand `name`."""
        return [value for arg in self.args[name] if (value := self.of(arg)) is not None]

    def out(self, index: int | None = None) -> torch.Tensor:
        """Return the fake result, or its `index`-th tensor."""
        value = self.node.meta["val"]
        result = value if index is None else value[index]
        if not isinstance(result, torch.Tensor):
            raise TypeError(f"{self.node.name}: the result is not a tensor")
        return result

    # -- equations -------------------------------------------------------------------------------

    def reason(self, text: str) -> Reason:
        """Return a reason that names this node."""
        return Reason(self.node.name, text)

    def unify(self, a: Ids, b: Ids, text: str = "two layouts of one axis do not match") -> Ids:
        """Make two guards equal and return the result."""
        if len(a) != len(b):  # a size that only an unknown symbol explains
            self.pin(a, "a size depends on the data")
            self.pin(b, "a size depends on the data")
            return true(max(len(a), len(b)))
        if not (a.shape[1] and b.shape[1]):
            text = "it meets an axis that never changes: of an input, or spatial"
        self.coupling.guards.unify(a, b, self.reason(text))
        return self.coupling.guards.normal(a)

    def split(self, g: Ids, sizes: Sequence[int], fixed: Sequence[bool] | None = None) -> list[Ids]:
        """Factor one axis into several (row-major), see `Guards.split`."""
        fixed = fixed if fixed is not None else [False] * len(sizes)
        text = f"an axis of {len(g)} splits into {list(sizes)} across an earlier split"
        return self.coupling.guards.split(g, sizes, fixed, self.reason(text))

    def pin(self, g: Ids, text: str) -> None:
        """Keep every index of a guard for good, for the reason `text`."""
        self.coupling.guards.pin(g, self.reason(text))

    def pin_all(self, values: Iterable[TensorGuard | None], text: str) -> None:
        """Pin every dimension of some tensors."""
        for value in values:
            for g in value.dims if value else ():
                self.pin(g, text)

    def fresh(self, n: int) -> Ids:
        """Return a guard of `n` new variables."""
        return self.coupling.guards.fresh(n) if n != 1 else true(1)

    def approximate(self, g: Ids, text: str) -> None:
        """Say that dropping an index of this axis is not the same as zeroing it."""
        if g.shape[1]:
            self.coupling.approximate.append(Mark(g, self.node.name, text))

    def role(self, g: Ids, kind: str) -> None:
        """Say what this axis is to the operator: a head, a channel, and so on."""
        if g.shape[1]:
            self.coupling.roles.append(Mark(g, self.node.name, kind))

    def fixed(self, value: torch.Tensor | None = None) -> TensorGuard:
        """Return a result none of whose dimensions ever changes."""
        value = value if value is not None else self.out()
        sizes = shape_of(value)
        return TensorGuard(tuple(true(n) for n in sizes), (False,) * len(sizes))


class Edit:
    """Offer a rule one node of a shrinking graph: what is kept, and the node's own constants."""

    def __init__(
        self, node: fx.Node, values: Mapping[fx.Node, Value], kept: Kept, source: fx.Node
    ) -> None:
        self.node = node
        self.source = source
        self.args = arguments(node)
        self._values = values
        self._kept = kept
        self._source_args = arguments(source)

    @property
    def operator(self) -> Any:
        """Return the operator that the node calls."""
        return self.node.target

    def value(self, name: str) -> TensorGuard:
        """Return the guards of the tensor operand `name`."""
        value = self._values.get(self._source_args[name])
        if not isinstance(value, TensorGuard):
            raise TypeError(f"{self.node.name}: operand {name!r} is not a tensor")
        return value

    def mask(self, name: str, dim: int) -> Mask:
        """Return which indices of dimension `dim` of operand `name` are kept."""
        return self._kept.mask(self.value(name).dims[dim])

    def count(self, g: Ids) -> int:
        """Return how many indices of a guard are kept."""
        return int(self._kept.mask(g).sum())

    def kept(self, g: Ids) -> Mask:
        """Return which indices of a guard are kept."""
        return self._kept.mask(g)

    def result(self, index: int | None = None) -> TensorGuard:
        """Return the guards of this node's result, or of its `index`-th tensor."""
        value = self._values[self.source]
        chosen = value if index is None or not isinstance(value, tuple) else value[index]
        if not isinstance(chosen, TensorGuard):
            raise TypeError(f"{self.node.name}: the result is not a tensor")
        return chosen

    def sizes(self) -> list[int]:
        """Return the kept size of every dimension of the result."""
        return [self.count(g) for g in self.result().dims]

    def set(self, name: str, value: Any) -> None:
        """Change one argument, by its name in the operator's schema."""
        target = self.node.target
        if not isinstance(target, torch._ops.OpOverload):
            raise TypeError(f"{self.node.name}: {target} has no schema")
        names = [a.name for a in target._schema.arguments if not a.kwarg_only]
        if name in names and names.index(name) < len(self.node.args):
            self.node.update_arg(names.index(name), value)
        else:
            self.node.update_kwarg(name, value)

    def constant(self, value: torch.Tensor, name: str) -> fx.Node:
        """Put a constant tensor before this node and return the node that reads it."""
        graph = self.node.graph
        owner: Any = graph.owning_module
        label = f"_{self.node.name}_{name}"
        owner.register_buffer(label, value, persistent=False)
        with graph.inserting_before(self.node):
            read = graph.get_attr(label)
        read.meta["val"] = value
        return read
