"""Where a rule meets a node of a graph while guards are coupled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import fx

from fxprune.graphs import arguments
from fxprune.guards import Guards, Ids, Reason, true


@dataclass(frozen=True)
class TensorGuard:
    """Hold the guards of one tensor.

    `dims[d]` has shape `[size of d, factors]`. `zero[d]` says that the slice at a dropped index of
    `d` is zero when the dropped unit's parameters are zeroed instead of removed: what a sum over
    that dimension needs to be exact. `numbers` `[n, factors]` is the guard of an axis, where the
    tensor's values are the numbers of indices of that axis: the experts that a router chooses.
    """

    dims: tuple[Ids, ...]
    zero: tuple[bool, ...]
    numbers: Ids | None = None

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
    weighed: bool = False


@dataclass(frozen=True)
class Shuffle:
    """Hold where a run of views begins that moves the rows of an axis, and in which order."""

    first: fx.Node
    dim: int
    rows: Ids


@dataclass(frozen=True)
class Groups:
    """Hold an axis of so many equal runs, each of which keeps as many rows as the others."""

    rows: Ids
    count: int


@dataclass(frozen=True)
class Ranking:
    """Hold an axis along which an operator compares values: what is dropped there loses.

    Removing an index of axis `dim` of operand `name` equals giving it the worst value there is:
    minus infinity, or plus where the `smallest` win. Of a `chosen` axis winners are taken, so that
    at least `least` of its indices are kept; else only their weights are compared, as by a softmax.
    """

    guard: Ids
    node: fx.Node
    name: str
    dim: int
    least: int = 1
    chosen: bool = True
    smallest: bool = False


@dataclass
class Coupling:
    """Collect what the operators of one graph state about its guards.

    The outputs of a grouped convolution are a product of groups and channels, or where it is
    `loose` any that leave each group as many: which they are is settled when all else is stated.
    """

    guards: Guards = field(default_factory=Guards)
    values: dict[fx.Node, Value] = field(default_factory=dict)
    approximate: list[Mark] = field(default_factory=list)
    roles: list[Mark] = field(default_factory=list)
    rankings: list[Ranking] = field(default_factory=list)
    # nodes that compute with numbers of indices, and which operands: they get those of before
    recalled: dict[fx.Node, tuple[fx.Node, ...]] = field(default_factory=dict)
    products: dict[fx.Node, list[Ids]] = field(default_factory=dict)  # of data: what they sum over
    unruled: dict[str, str] = field(default_factory=dict)  # node name -> operator without a rule
    spared: frozenset[str] = frozenset()  # names of those of them that are to pin nothing
    failed: dict[str, str] = field(default_factory=dict)  # node name -> whose rule raised what
    poisoned: frozenset[fx.Node] = frozenset()  # changed in place later: what is zero is unknown
    written: frozenset[fx.Node] = frozenset()  # their storage is: a view of it must stay a view
    grouped: list[tuple[str, Groups]] = field(default_factory=list)  # node name and an axis of it
    loose: frozenset[str] = frozenset()  # names of those of which only the counts must agree
    balances: dict[str, Groups] = field(default_factory=dict)  # those of the loose ones
    shuffled: dict[fx.Node, Shuffle] = field(default_factory=dict)  # by the last of its views
    effective: tuple[fx.Node, ...] = ()  # computed of parameters: weights as operators read them
    arithmetic: frozenset[fx.Node] = frozenset()  # what computes them, and they themselves


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


def operands_of(node: fx.Node, coupling: Coupling, result: Value) -> dict[str, TensorGuard]:
    """Return the guards of a node's tensors by name: listed ones `tensors.0`, the result `->`."""
    found: dict[str, TensorGuard] = {}
    for name, arg in arguments(node).items():
        listed = isinstance(arg, (list, tuple))
        for label, one in (
            [(f"{name}.{k}", v) for k, v in enumerate(arg)] if listed else [(name, arg)]
        ):
            value = coupling.values.get(one) if isinstance(one, fx.Node) else None
            if isinstance(value, TensorGuard):
                found[label] = value
    if isinstance(result, TensorGuard):
        found["->"] = result
    return found


class Site:
    """Offer a rule the operands of one node, and take the equalities that it states."""

    def __init__(self, node: fx.Node, coupling: Coupling) -> None:
        self.node = node
        self.coupling = coupling
        self.args = arguments(node)
        self.followed: set[fx.Node] = set()  # operands whose numbers the rule keeps in step

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

    def numbers(self, arg: Any, size: int) -> Ids | None:
        """Return the guard of the axis of `size` that an operand's values number, or None.

        Who asks keeps them in step with that axis: else the operator gets the numbers of before.
        """
        value = self.of(arg)
        if value is None or value.numbers is None or len(value.numbers) != size:
            return None
        self.followed.add(arg)
        return value.numbers

    def address(self, g: Ids, arg: Any, text: str) -> Ids:
        """Tie an axis to the one whose indices address it, or pin it where that is not known."""
        numbers = self.numbers(arg, len(g))
        if numbers is not None:
            return self.unify(g, numbers)
        self.pin(g, text)
        return g

    def rank(
        self, name: str, dim: int, least: int, *, chosen: bool = True, smallest: bool = False
    ) -> None:
        """Say that the operator compares what lies along an axis of an operand."""
        g = self.tensor(name).dims[dim]
        if g.shape[1]:
            self.coupling.rankings.append(Ranking(g, self.node, name, dim, least, chosen, smallest))

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

    def number(self, name: str) -> int:
        """Return the whole-number argument `name`, one that the graph computes by its hint."""
        arg = self.args[name]
        return hint(arg.meta["val"]) if isinstance(arg, fx.Node) else int(arg)

    @property
    def written(self) -> bool:
        """Tell whether the result shares storage that something changes later."""
        return self.node in self.coupling.written

    def sized(self, name: str, dim: int) -> bool:
        """Tell whether axis `dim` of operand `name` has a size that is a number, not a symbol."""
        arg = self.args[name]
        value = tensor_meta(arg) if isinstance(arg, fx.Node) else None
        return value is not None and isinstance(value.shape[dim], int)

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

    def approximate(self, g: Ids, text: str, *, weighed: bool = False) -> None:
        """Say that dropping an index of this axis is not the same as zeroing it.

        Where it is `weighed`, it is the same as a value of minus infinity there.
        """
        if g.shape[1]:
            self.coupling.approximate.append(Mark(g, self.node.name, text, weighed))

    def role(self, g: Ids, kind: str) -> None:
        """Say what this axis is to the operator: a head, a channel, and so on."""
        if g.shape[1]:
            self.coupling.roles.append(Mark(g, self.node.name, kind))

    def fixed(self, value: torch.Tensor | None = None) -> TensorGuard:
        """Return a result none of whose dimensions ever changes."""
        value = value if value is not None else self.out()
        sizes = shape_of(value)
        return TensorGuard(tuple(true(n) for n in sizes), (False,) * len(sizes))
