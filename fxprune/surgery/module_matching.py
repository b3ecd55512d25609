"""Which ATen calls could have been made by a leaf module, and where that module would stand."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from fxprune.graphs import arguments, tensors_of
from fxprune.surgery.parameterised_leaves import (
    PARAMETERISED,
    TENSORS,
    Call,
    Leaf,
    full_name,
    recurrent_names,
)
from fxprune.surgery.parameterless_leaves import PARAMETERLESS

Shape = tuple[int, ...]

MARKER = "fxprune.handed_on"
PASSIVE = ("aten.sym_", "aten._assert", MARKER)  # what stands in a module's forward and is not it


class State:
    """Look up the tensors of a captured module by name, by owner and by identity."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.tensors = tensors_of(module)
        self.persistent = set(module.state_dict(keep_vars=True))
        self.owned: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        self.names: dict[int, list[str]] = defaultdict(list)
        for name, tensor in self.tensors.items():
            owner, _, last = name.rpartition(".")
            self.owned[owner][last] = tensor
            self.names[id(tensor)].append(name)
        self.taken = {prefix for name in self.tensors for prefix in prefixes(name)}
        paths = (path for path, _ in module.named_modules(remove_duplicate=False))
        self.ordered = [path for path in paths if path in self.taken]
        self._shapes: dict[fx.Node, Shape] | None = None

    def shape(self, node: fx.Node) -> Shape | None:
        """Return a node's shape as it is now: its metadata may still say what it was."""
        if self._shapes is None:
            self._shapes = _Shapes(self.module).all()
        return self._shapes.get(node)

    def owners(self, attribute: str, tensor: torch.Tensor) -> set[str]:
        """Return the paths at which a tensor is called `attribute`, under any of its names."""
        split = (name.rpartition(".") for name in self.names[id(tensor)])
        return {owner for owner, _, last in split if last == attribute}

    def identity(self, path: str) -> frozenset[tuple[str, int]]:
        """Return what tells the tensors at a path from all others: their names and objects."""
        return frozenset((name, id(tensor)) for name, tensor in self.owned.get(path, {}).items())

    def free(self, path: str) -> str:
        """Return a path like `path` that nothing stands at yet, and take it."""
        while path in self.taken:
            path += "_"
        self.taken.update(prefixes(path))
        return path


def prefixes(path: str) -> Iterator[str]:
    """Yield a dotted path and every path above it but the root."""
    parts = path.split(".")
    return (".".join(parts[: k + 1]) for k in range(len(parts)))


class _Shapes(fx.Interpreter):
    """Run a graph on fake tensors, and note the shape of every result."""

    def all(self) -> dict[fx.Node, Shape]:
        """Return the shapes of as many nodes as can be run without data."""
        self.found: dict[fx.Node, Shape] = {}
        places = [node for node in self.module.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
        try:
            from torch._subclasses.fake_tensor import FakeTensorMode  # private: may be missing

            with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
                examples = [_example(node.meta.get("val")) for node in places]
                self.run(*examples, enable_io_processing=False)
        except Exception:  # an operator that needs data: what comes after it has no known shape
            return self.found
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.found[n] = tuple(value.shape)
        return value


def _example(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        sizes = [_hint(size) for size in value.shape]
        return torch.empty(sizes, dtype=value.dtype, device=value.device)
    return _hint(value)


def _hint(value: Any) -> Any:
    symbolic = isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))
    return value.node.hint if symbolic else value


@dataclass(frozen=True)
class Match:
    """Hold a call that a leaf module could make.

    `reads` maps the module's attributes to the tensors' names in the graph; `paths` is where one
    module owns them all; `own` and `kind` tell the module whose forward made the call.
    """

    node: fx.Node
    row: Leaf
    args: dict[str, Any]
    reads: Mapping[str, str]
    paths: frozenset[str]
    own: str
    kind: str

    @cached_property
    def fed(self) -> tuple[str, ...]:
        """Return the names of the arguments that the module is called with."""
        return self.row.inputs or (next(iter(self.args)),)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Return what all calls of one module have in common."""
        literal = (k for k in self.args if k not in (*self.fed, *TENSORS, "params"))
        said = tuple((k, repr(self.args[k])) for k in literal)
        return (self.node.target, said, tuple(sorted(self.reads.items())))

    def call(self, state: State, path: str) -> Call:
        """Return the call as the table's builders read it, made from a module at `path`."""
        kind = self.kind if self.kind.startswith("torch.nn.") else ""
        return Call(self.node, self.args, kind, state.owned.get(path, {}), state.shape)


def module_of(node: fx.Node) -> tuple[str, str]:
    """Return the path and the class of the module whose forward made a node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", ""
    path, kind = stack[-1]
    return str(path), kind if isinstance(kind, str) else full_name(kind)


def match_of(node: fx.Node, state: State, row: Leaf | None = None) -> Match | None:
    """Return what a module must be to make this call, or nothing where none could."""
    own, kind = module_of(node)
    row = row or PARAMETERISED.get(node.target) or PARAMETERLESS.get((node.target, kind))
    if row is None or not node.users or not _unpacks(node, row):
        return None
    args = arguments(node)
    reads = _reads(args)
    if not all(name in state.tensors for name in reads.values()):
        return None
    owners = [state.owners(attr, state.tensors[name]) for attr, name in reads.items()]
    paths = frozenset(set.intersection(*owners)) if owners else frozenset[str]()
    if owners and not paths:
        return None
    args |= _with_tensors(args, state)
    match = Match(node, row, args, reads, paths, own, kind)
    rest = [value for name, value in args.items() if name not in match.fed]
    return None if _nodes(rest) else match


def _reads(args: Mapping[str, Any]) -> dict[str, str]:
    """Return the module's attributes that a call reads, with the names in the graph.

    A tensor that the graph computes has the name of no tensor, and makes the match fail.
    """
    listed = args.get("params")
    names = recurrent_names(args) if listed else []
    pairs = [*zip(names, listed or (), strict=True), *((k, args[k]) for k in TENSORS if k in args)]
    return {
        name: str(one.target) if one.op == "get_attr" else ""
        for name, one in pairs
        if isinstance(one, fx.Node)
    }


def _with_tensors(args: Mapping[str, Any], state: State) -> dict[str, Any]:
    def read(value: Any) -> Any:
        return state.tensors[str(value.target)] if isinstance(value, fx.Node) else value

    found = {name: read(args[name]) for name in TENSORS if name in args}
    return found | ({"params": [read(one) for one in args["params"]]} if "params" in args else {})


def _nodes(value: Any) -> list[fx.Node]:
    """Return the nodes anywhere in an argument."""
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return found


def _unpacks(node: fx.Node, row: Leaf) -> bool:
    """Tell whether every use of the result can be found in what the module returns."""
    return not row.unpack or all(
        user.target is operator.getitem and user.args[1] in row.unpack for user in node.users
    )


def census(module: fx.GraphModule) -> Callable[[str], int]:
    """Return a function that counts the operators called by the module at a path."""
    counts: dict[str, int] = defaultdict(int)
    for node in module.graph.nodes:
        name = str(node.target)
        if isinstance(node.target, torch._ops.OpOverload) and not name.startswith(PASSIVE):
            counts[module_of(node)[0]] += 1
    return lambda path: counts[path]
