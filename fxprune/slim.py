"""The module that comes out: a GraphModule of leaf modules that can be copied and pickled."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import CodeGen, _PyTreeCodeGen, _PyTreeInfo
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

KEPT_META = ("nn_module_stack", "stack_trace", "constant")
DERIVED = ("_graph", "_code", "_lineno_map", "_prologue_start", "_in_spec", "_out_spec")


class Mode(nn.Module):
    """Return whether the module is in training, for an operator that takes it as an argument."""

    def forward(self) -> bool:
        return self.training


class SlimModule(fx.GraphModule):
    """Run a graph of leaf modules under the names, the call and the modes of the original model.

    `report`, `plan` and `signature` belong to whoever made it; copies and pickles keep them.
    """

    report: Any = None
    plan: Any = None
    signature: Any = None

    def __init__(self, tree: nn.Module, graph: fx.Graph, name: str = "SlimModule") -> None:
        """Take over the children and tensors of `tree`, on whose paths the graph's nodes stand."""
        super().__init__(nn.Module(), fx.Graph(), name)
        mine = vars(self)
        for kind in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            mine[kind] = vars(tree)[kind]
        mine |= {k: v for k, v in vars(tree).items() if k not in vars(nn.Module())}
        self._named(name)
        self.graph = graph

    def _named(self, name: str) -> None:
        self._graphmodule_cls_name = name
        type(self).__name__ = type(self).__qualname__ = name
        type(self).__module__ = __name__

    def recompile(self) -> fx.graph.PythonCode:
        """Generate `forward` from the graph, behind one that checks how it is called."""
        code = super().recompile()
        codegen = self._graph._codegen
        if isinstance(codegen, _PyTreeCodeGen):
            form = CallForm.of(codegen.pytree_info, self._graph)
            type(self).forward = form.guarding(type(self).forward)
        return code

    def __str__(self) -> str:
        return nn.Module.__repr__(self)

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in vars(self).items() if k not in DERIVED}
        return state | {"_graph_records": records(self._graph)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        nodes = state.pop("_graph_records")
        vars(self).update(state)
        self._named(str(self._graphmodule_cls_name))
        self.graph = graph_of(nodes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (), self.__getstate__()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def __copy__(self) -> SlimModule:
        twin = _blank()
        twin.__setstate__(self.__getstate__())
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> SlimModule:
        twin = memo[id(self)] = _blank()
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin


def _blank() -> SlimModule:
    """Return a module without state: every instance has a class of its own, made here."""
    return SlimModule.__new__(SlimModule)


# ---- how it is called ----------------------------------------------------------------------------


@dataclass(frozen=True)
class CallForm:
    """Hold the arguments of the captured call, and bind others to them or say what is wrong."""

    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    spec: Any
    constants: tuple[tuple[int, str, Any], ...]  # leaves that were no tensors: (place, name, value)
    absent: tuple[str, ...]  # arguments captured as None, which may be left out

    @classmethod
    def of(cls, info: _PyTreeInfo, graph: fx.Graph) -> CallForm:
        """Read the form off the graph's own calling convention and the captured constants."""
        args, kwargs = info.in_spec.children()
        names = tuple(info.orig_args)
        places = [node for node in graph.nodes if node.op == "placeholder"]
        constants = tuple(
            (k, str(node.target), node.meta["constant"])
            for k, node in enumerate(places)
            if "constant" in node.meta
        )
        nothing = {place for place, _, value in constants if value is None}
        absent, place = list[str](), 0
        for name, spec in zip(names, (*args.children(), *kwargs.children()), strict=True):
            absent += [name] if spec.is_leaf() and place in nothing else []
            place += spec.num_leaves
        keywords = tuple(kwargs.context or ())
        return cls(names[: args.num_children], keywords, info.in_spec, constants, tuple(absent))

    @property
    def open(self) -> tuple[str, ...]:
        """Return the names that may be given by position: of several keywords no order is known."""
        return (*self.positional, *(self.keywords if len(self.keywords) == 1 else ()))

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return the values in the graph's order; raises TypeError where they do not fit it."""
        given = dict(zip(self.open, args, strict=False))
        given = {**{k: None for k in self.absent if k not in given and k not in kwargs}, **given}
        names = (*self.positional, *self.keywords)
        twice = [name for name in kwargs if name in given]
        unknown = [name for name in kwargs if name not in names]
        missing = [name for name in names if name not in given and name not in kwargs]
        if len(args) > len(self.open) or twice or unknown or missing:
            raise TypeError(self.refusal(args, twice, unknown, missing))
        values = {**given, **kwargs}
        if not torch.compiler.is_compiling():
            self.check([values[name] for name in names])
        return [values[name] for name in names]

    def refusal(
        self, args: tuple[Any, ...], twice: list[str], unknown: list[str], missing: list[str]
    ) -> str:
        """Say what is wrong with a call, and how the model was captured."""
        facts = [
            f"{len(args)} positional arguments, {len(self.open)} taken"
            if len(args) > len(self.open)
            else "",
            f"given twice: {', '.join(twice)}" if twice else "",
            f"not captured: {', '.join(unknown)}" if unknown else "",
            f"missing: {', '.join(missing)}" if missing else "",
        ]
        return f"forward: {'; '.join(f for f in facts if f)}; expected {self}"

    def check(self, values: list[Any]) -> None:
        """Raise TypeError where nested values or constants differ from those captured."""
        split = len(self.positional)
        keywords = dict(zip(self.keywords, values[split:], strict=True))
        try:
            leaves = self.spec.flatten_up_to((tuple(values[:split]), keywords))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            got = [pytree.tree_structure(value) for value in values]
            raise TypeError(f"forward: got {got}; expected {self} as {self.spec}") from error
        for place, name, value in self.constants:
            if leaves[place] is not value and (value is None or leaves[place] != value):
                raise TypeError(
                    f"forward: {name} was captured as {value!r} and is part of the graph; "
                    "capture the model again to call it otherwise"
                )

    def __str__(self) -> str:
        return f"({', '.join([*self.positional, *(f'{name}=' for name in self.keywords)])})"

    def guarding(self, generated: Callable[..., Any]) -> Callable[..., Any]:
        """Return `generated` behind this form, with a signature to be read by others."""

        def forward(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            return generated(module, *self.bind(args, kwargs))

        either, only = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
        for name in (*self.positional, *self.keywords):
            kind = either if name in self.open else only
            parameters.append(inspect.Parameter(name, kind))
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return forward


# ---- the graph as plain data ---------------------------------------------------------------------


@dataclass(frozen=True)
class At:
    """Stand for the node at a place of the graph."""

    place: int


@dataclass(frozen=True)
class Operator:
    """Stand for an operator, which does not pickle, by its name."""

    space: str
    name: str
    overload: str = ""

    def found(self) -> Any:
        space = getattr(torch.ops, self.space)
        if not hasattr(space, self.name):
            importlib.import_module(self.space)  # torchvision::nms comes with torchvision
        packet = getattr(space, self.name)
        return getattr(packet, self.overload) if self.overload else packet


def _recorded(target: Any) -> Any:
    if isinstance(target, torch._ops.OpOverload):
        space, _, name = target._schema.name.partition("::")
        return Operator(space, name, target._overloadname)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return Operator("higher_order", target.name())
    return target


def records(graph: fx.Graph) -> dict[str, Any]:
    """Return a graph as data that pickles: operators by name, nodes by place."""
    place = {node: At(k) for k, node in enumerate(graph.nodes)}

    def read(one: Any) -> Any:
        return place[one] if isinstance(one, fx.Node) else one

    def encoded(value: Any) -> Any:
        return map_aggregate(value, read)

    nodes = [
        (
            *(node.op, node.name, _recorded(node.target)),
            *(encoded(node.args), encoded(node.kwargs), dict(node.meta)),
        )
        for node in graph.nodes
    ]
    info = graph._codegen.pytree_info if isinstance(graph._codegen, _PyTreeCodeGen) else None
    return {"nodes": nodes, "form": tuple(info) if info else None}


def graph_of(data: Mapping[str, Any]) -> fx.Graph:
    """Return the graph that `records` wrote down."""
    graph, made = fx.Graph(), list[fx.Node]()

    def read(one: Any) -> Any:
        return made[one.place] if isinstance(one, At) else one

    def decoded(value: Any) -> Any:
        return map_aggregate(value, read)

    for op, name, target, args, kwargs, meta in data["nodes"]:
        found = target.found() if isinstance(target, Operator) else target
        node = graph.create_node(op, found, decoded(args), decoded(kwargs), name)
        node.meta = dict(meta)
        made.append(node)
    form = data["form"]
    graph._codegen = _PyTreeCodeGen(_PyTreeInfo(*form)) if form else CodeGen()
    return graph
