"""A program: one captured model on its way through the passes, and what they have found out."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.export import Dim
from torch.utils import _pytree as pytree

try:
    from torch.fx._lazy_graph_module import _LazyGraphModule as Deferred
except ImportError:  # private: without it code is generated at once
    Deferred = fx.GraphModule  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from fxprune.calibration import Calibration
    from fxprune.origin import Origin
    from fxprune.plan import Plan
    from fxprune.targets import Discovery, Target, Terms
    from fxprune.trials import Trials


@dataclass(frozen=True)
class Signature:
    """Hold how the model is called.

    `args` and `kwargs` are the example inputs as captured; `dynamic` says for each leaf of them
    whether its leading axis may have any size. `training` is the mode the model came in.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic: tuple[bool, ...] = ()
    batch: int | None = None  # the example's size of the dynamic axis
    training: bool = False

    def dynamic_shapes(self, module: torch.nn.Module) -> dict[str, Any] | None:
        """Return `torch.export`'s dynamic_shapes for a module called with this signature."""
        if not any(self.dynamic):
            return None
        _, spec = pytree.tree_flatten((self.args, self.kwargs))
        marks = [{0: Dim.AUTO} if free else None for free in self.dynamic]
        return by_name(module, *pytree.tree_unflatten(marks, spec))

    def resized(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the example inputs with the dynamic axis repeated or cut to `batch`."""
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        leaves = [
            leaf[torch.arange(batch) % len(leaf)] if free else leaf
            for leaf, free in zip(leaves, self.dynamic or [False] * len(leaves), strict=True)
        ]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return tuple(args), dict(kwargs)


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


@dataclass(frozen=True)
class Program:
    """Carry a graph and, pass by pass, its discovery, scores, choice and plan.

    `module` reads its tensors by `get_attr` until `restore` puts leaf modules back. Until a pass
    has copied them the tensors are the caller's (`owned` is False), and nothing may write to them.
    `facts` names what holds of the program: what passes require and ensure.
    """

    module: fx.GraphModule
    signature: Signature
    owned: bool = False
    facts: frozenset[str] = frozenset({"captured"})
    original: fx.GraphModule | None = None  # the graph before anything was removed
    discovery: Discovery | None = None
    calibration: Calibration | None = None  # what the caller gave for metrics that need data
    trials: Trials | None = None  # the caller's evaluator, for allocations that search
    learned: Mapping[str, torch.Tensor] = field(default_factory=dict)  # by metrics that train
    origin: Origin | None = None  # what the program was, where something is gone already
    kernels: Any = None  # the model that foretells latencies, where there is one
    say: Callable[[str], None] = lambda text: None  # shows the user how it goes on
    selected: tuple[Target, ...] = ()
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)  # what is zero already
    dense: bool = False  # whether masks are put on for each pass only, and weights stay
    terms: tuple[Terms, ...] = ()  # what its selection says of each selected target
    scores: tuple[Any, ...] = ()  # one array [units] a selected target
    additive: bool = False  # whether they are changes of one loss
    alive: Any = None  # bool [variables]: the choice of the allocation
    achieved: float = 1.0  # the share of the objective that the choice keeps
    plan: Plan | None = None
    costs: Mapping[str, int] = field(default_factory=dict)  # counted before and after, by name
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def with_(self, **changes: Any) -> Program:
        """Return the program with some fields changed."""
        return replace(self, **changes)

    def noted(self, *notes: str) -> Program:
        """Return the program with more notes for the report."""
        return replace(self, notes=(*self.notes, *(n for n in notes if n not in self.notes)))


def attribute(module: torch.nn.Module, path: str) -> Any:
    """Return the attribute at a dotted path, or None where there is none."""
    found: Any = module
    *owners, leaf = path.split(".")
    for part in owners:  # a module's own look-up of its children is slow
        inside = getattr(found, "_modules", {})
        found = inside[part] if part in inside else getattr(found, part, None)
    return getattr(found, leaf, None)


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter and buffer by name, a shared one under each of its names."""
    parameters: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    _collect(module, "", parameters, buffers)
    return parameters | buffers


def tolerance(module: torch.nn.Module, rtol: float) -> float:
    """Return the relative difference to allow: `rtol`, wider where a tensor has few digits."""
    floats = [t.dtype for t in tensors_of(module).values() if t.is_floating_point()]
    coarsest = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
    return max(rtol, 8 * coarsest)


def _collect(
    module: torch.nn.Module,
    prefix: str,
    parameters: dict[str, torch.Tensor],
    buffers: dict[str, torch.Tensor],
) -> None:
    """Name what a module holds; torch's own walk keeps account of duplicates, which takes long."""
    parameters.update((prefix + n, p) for n, p in module._parameters.items() if p is not None)
    buffers.update((prefix + n, b) for n, b in module._buffers.items() if b is not None)
    for name, child in module._modules.items():
        if child is not None:
            _collect(child, f"{prefix}{name}.", parameters, buffers)


def used(module: fx.GraphModule, read: set[str]) -> Mapping[str, torch.Tensor]:
    """Return the tensors that the graph reads, and the buffers that stand beside them."""
    owners = {name.rpartition(".")[0] for name in read}
    return {
        name: tensor
        for name, tensor in tensors_of(module).items()
        if name in read
        or (not isinstance(tensor, torch.nn.Parameter) and name.rpartition(".")[0] in owners)
    }


def source_line(node: fx.Node) -> str:
    """Return `file:line` of the user's innermost line that made a node, or an empty string."""
    inside = os.path.dirname(torch.__file__) + os.sep
    places = re.findall(r'File "(.+?)", line (\d+)', str(node.meta.get("stack_trace") or ""))
    ours = [f"{path}:{line}" for path, line in places if not path.startswith(inside)]
    return ours[-1] if ours else ""


def set_tensor(root: torch.nn.Module, path: str, value: Any, persistent: bool = True) -> None:
    """Set a tensor at a dotted path, making plain containers on the way."""
    *owners, leaf = path.split(".")
    at = root
    for part in owners:
        if part not in at._modules:
            at.add_module(part, torch.nn.Module())
        at = at._modules[part]  # type: ignore[assignment]
    if isinstance(value, torch.nn.Parameter):
        at.register_parameter(leaf, value)
    elif isinstance(value, torch.Tensor):
        at.register_buffer(leaf, value, persistent=persistent)
    else:
        setattr(at, leaf, value)


def emptied(module: fx.GraphModule) -> fx.GraphModule:
    """Return a module with a copy of the graph and none of the tensors, yet to be recompiled."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        values[node] = twin_of(node, graph, values.__getitem__)
        values[node].meta = dict(node.meta)
    graph._codegen = module.graph._codegen
    return vacant(graph)


def twin_of(node: fx.Node, graph: fx.Graph, twin: Callable[[fx.Node], Any]) -> fx.Node:
    """Return a copy of a node at the end of another graph, without its metadata.

    `twin` may make the copies of what it reads. The arguments are put in afterwards: a node is not
    made with them before torch has looked through them all.
    """
    args, kwargs = fx.map_arg(node.args, twin), fx.map_arg(node.kwargs, twin)
    new = graph.create_node(node.op, node.target, name=node.name, type_expr=node.type)
    new.args = args
    if kwargs:
        new.kwargs = kwargs
    return new


def vacant(graph: fx.Graph) -> fx.GraphModule:
    """Return a module of a graph and none of its tensors: code is generated when it first runs."""
    bare = Deferred(torch.nn.Module(), fx.Graph(), class_name="Graph")
    bare._graph, graph.owning_module = graph, bare  # not compiled: the tensors are still to come
    return bare
