"""Constant values: the entries of a tensor that no input changes, and their values.

Everything here asks the real operator: it is called on values, and once more on where they vary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.graphs import arguments
from fxprune.rules import hint, name_of, shape_of
from fxprune.rules.pointwise import at_zero

ConstantValues = Mapping[fx.Node, Any]  # what is known of every node's result
REFUSALS = (RuntimeError, ValueError, NotImplementedError, IndexError)


@dataclass(frozen=True, eq=False)
class ConstantValue:
    """Hold a tensor's constants: `value` where not `varies`, both of the tensor's shape.

    Floating values are float64; where the tensor varies they are arbitrary.
    """

    value: Tensor
    varies: Tensor

    @classmethod
    def constant(cls, value: Tensor) -> ConstantValue:
        """Return a tensor all of whose entries are known, but those that are no finite number."""
        value = wide(value.detach().cpu())
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return cls(value, ~value.isfinite())
        return cls(value, torch.zeros((), dtype=torch.bool).expand(value.shape))

    @classmethod
    def nothing(cls, shape: Sequence[int], dtype: torch.dtype = torch.float64) -> ConstantValue:
        """Return a tensor of which no entry is known; it takes no memory."""
        dtype = torch.float64 if dtype.is_floating_point else dtype
        value = torch.zeros((), dtype=dtype).expand(tuple(shape))
        return cls(value, torch.ones((), dtype=torch.bool).expand(tuple(shape)))

    @property
    def whole(self) -> bool:
        """Tell whether every entry is known."""
        return not bool(self.varies.any())

    @property
    def unknown(self) -> bool:
        """Tell whether no entry is known."""
        return bool(self.varies.all()) and self.varies.numel() > 0

    @property
    def kept(self) -> Tensor:
        """Return the values, zero where the tensor varies."""
        return self.value.masked_fill(self.varies, 0)

    @property
    def nonzero(self) -> Tensor:
        """Return where the tensor is not known to be zero."""
        return self.varies | (self.value != 0)


def wide(value: Any) -> Any:
    """Return a floating tensor as float64, anything else as it is."""
    floats = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if floats and value.dtype != torch.float64 else value


@dataclass(frozen=True)
class Call:
    """Hold one call of the graph: its arguments by name, what is known in the tensors' places.

    `symbolic` says that a number among them is known only when the inputs are.
    """

    node: fx.Node
    args: dict[str, Any]
    given: dict[str, Any]  # the arguments as the graph has them
    symbolic: bool

    def run(self, changed: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """Call the operator on the known values, some arguments changed; it writes to copies."""
        args = {name: plain(arg) for name, arg in (self.args | dict(changed)).items()}
        schema = getattr(self.node.target, "_schema", None)
        for argument in schema.arguments if schema is not None else ():
            value = args.get(argument.name)
            if argument.alias_info is not None and argument.alias_info.is_write:
                args[argument.name] = value.clone() if isinstance(value, Tensor) else value
        if args.get("device") is not None:
            args["device"] = torch.device("cpu")
        return self.node.target(**args)  # type: ignore[operator]

    @property
    def name(self) -> str:
        """Return the operator's name without its overload."""
        return name_of(self.node.target)

    def tensors(self) -> dict[str, ConstantValue]:
        """Return the arguments that are single tensors."""
        return {name: arg for name, arg in self.args.items() if isinstance(arg, ConstantValue)}

    def shape(self, index: int | None = None) -> tuple[int, ...]:
        """Return the shape of the result, or of its `index`-th tensor, without computing it."""
        try:
            args = {n: torch.utils._pytree.tree_map(_meta, arg) for n, arg in self.args.items()}
            args |= {"device": torch.device("meta")} if args.get("device") is not None else {}
            out = self.node.target(**args)  # type: ignore[operator]
        except REFUSALS:
            out = self.node.meta["val"]
        return shape_of(out if index is None else out[index])

    def nothing(self) -> Any:
        """Return the result as something of which nothing is known."""
        made = self.node.meta["val"]
        if isinstance(made, Tensor):
            return ConstantValue.nothing(self.shape(), made.dtype)
        return tuple(
            ConstantValue.nothing(shape_of(one), one.dtype) if isinstance(one, Tensor) else None
            for one in made
        )


def _meta(value: Any) -> Any:
    return value.value.to("meta") if isinstance(value, ConstantValue) else value


def plain(value: Any) -> Any:
    """Return an argument with the values in place of what is known of tensors."""
    if isinstance(value, ConstantValue):
        return value.value
    if isinstance(value, (list, tuple)):
        return type(value)(plain(one) for one in value)
    return value


def spread(values: Any, varies: Any, dtype: Any = None) -> Any:
    """Pair the values an operator made with where they vary: tensors, or lists of them."""
    if isinstance(values, (list, tuple)):
        return tuple(spread(a, b) for a, b in zip(values, varies, strict=True))
    if not isinstance(values, Tensor):
        return None
    varies = varies.expand(values.shape) if varies.shape != values.shape else varies
    values = wide(values)
    if values.is_floating_point() and not bool((values.isfinite() | varies).all()):
        varies = varies | ~values.isfinite()
    return ConstantValue(values, varies)


# ---- families ------------------------------------------------------------------------------------

INDICES = ("index", "indices", "repeats")


def moved(call: Call) -> Any:
    """Move the entries, and where they vary alike; what fills up (padding) is known."""
    data: dict[str, Any] = {}
    for name, arg in call.args.items():
        if name in INDICES:
            every = [one for one in _listed(arg) if isinstance(one, ConstantValue)]
            if not all(one.whole for one in every):
                return call.nothing()
        elif isinstance(arg, ConstantValue):
            data[name] = arg.varies.double()
        elif isinstance(arg, (list, tuple)) and any(isinstance(one, ConstantValue) for one in arg):
            data[name] = [one.varies.double() for one in arg]
    if "value" in call.args and not isinstance(call.args["value"], ConstantValue):
        data["value"] = 0
    values, marks = call.run(), call.run(data)
    if isinstance(marks, (list, tuple)):
        return spread(values, [mark > 0 for mark in marks])
    return spread(values, marks > 0)


def _listed(arg: Any) -> list[Any]:
    return list(arg) if isinstance(arg, (list, tuple)) else [arg]


def pointwise(call: Call) -> Any:
    """Evaluate entry by entry; a zero that decides the result alone makes it zero."""
    tensors = call.tensors()
    if call.symbolic:
        return call.nothing()
    if "dropout" in call.name and not call.args.get("train", True):
        return call.args["input"]
    if torch.Tag.nondeterministic_seeded in call.node.target.tags:  # type: ignore[union-attr]
        return call.nothing()
    deciding = {name: one for name, one in tensors.items() if not one.unknown}
    if not deciding:
        return call.nothing()
    values = call.run()
    if not isinstance(values, Tensor):
        return call.nothing()
    varies = torch.zeros((), dtype=torch.bool).expand(values.shape)
    for one in tensors.values():
        varies = varies | one.varies
    zeros = {name: ~one.nonzero for name, one in deciding.items() if len(tensors) > 1}
    for name, zero in zeros.items():
        here = zero & varies
        if bool(here.any()) and at_zero(call.node, call.given, frozenset({name})) == "zero":
            values, varies = wide(values).masked_fill(here, 0), varies & ~here
    return spread(values, varies)


def averaged(name: str) -> Callable[[Call], Any]:
    """Return the rule of an operator that adds up entries, none with a negative weight."""

    def rule(call: Call) -> Any:
        x = call.args[name]
        if x.unknown or call.symbolic:
            return call.nothing()
        return spread(call.run({name: x.kept}), call.run({name: x.varies.double()}) > 0)

    return rule


def largest(name: str) -> Callable[[Call], Any]:
    """Return the rule of an operator that picks the largest entries."""

    def rule(call: Call) -> Any:
        x = call.args[name]
        if x.unknown:
            return call.nothing()
        values, marks = call.run({name: x.kept}), call.run({name: x.varies.double()})
        if isinstance(values, tuple):  # the second result are places
            places = ConstantValue.nothing(values[1].shape, values[1].dtype)
            return spread(values[0], marks[0] > 0), places
        return spread(values, marks > 0)

    return rule


def filled(call: Call) -> Any:
    """Make a tensor of one value, whatever its size."""
    value = call.args.get("fill_value", call.args.get("value", 0))
    if isinstance(value, ConstantValue) or isinstance(call.given.get("fill_value"), fx.Node):
        return call.nothing()
    return ConstantValue.constant(call.run())


def evaluated(call: Call) -> Any:
    """Evaluate an operator of which every operand is known."""
    seeded = torch.Tag.nondeterministic_seeded in getattr(call.node.target, "tags", ())
    open_ = [
        one for one in torch.utils._pytree.tree_leaves(call.args) if isinstance(one, ConstantValue)
    ]
    if call.symbolic or seeded or not all(one.whole for one in open_):
        return call.nothing()
    values = call.run()
    if isinstance(values, (list, tuple)):
        return tuple(ConstantValue.constant(one) for one in values)
    return ConstantValue.constant(values)


def number(size: Any) -> Any:
    """Return a symbolic number by its hint."""
    return hint(size) if isinstance(size, torch.SymInt) else size


def unknown(made: Any) -> Any:
    """Return a result of which nothing is known."""
    if isinstance(made, (list, tuple)):
        return tuple(unknown(one) for one in made)
    return ConstantValue.nothing(shape_of(made), made.dtype) if isinstance(made, Tensor) else None


def symbolic(node: fx.Node) -> bool:
    """Tell whether a number among the arguments depends on the inputs, such as the batch size."""
    kinds = (torch.SymInt, torch.SymFloat, torch.SymBool)
    return any(isinstance(one.meta.get("val"), kinds) for one in node.all_input_nodes)


def called(node: fx.Node, facts: ConstantValues) -> Call:
    """Return a node's call, what is known in the place of its operands."""
    given = arguments(node)
    args = {name: fx.map_arg(arg, lambda n: facts.get(n)) for name, arg in given.items()}
    return Call(node, args, given, symbolic(node))
