"""Put leaf modules back in place of the ATen calls that came from them, under their own names."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

from fxprune.graphs import arguments, twin_of
from fxprune.surgery.call_form import called_plainly
from fxprune.surgery.module_matching import MARKER, Match, State, census, match_of, module_of
from fxprune.surgery.module_tree import tree_of
from fxprune.surgery.own_gradients import own_gradient
from fxprune.surgery.parameterised_leaves import Leaf, full_name
from fxprune.surgery.parameterless_leaves import FUNCTIONAL
from fxprune.surgery.public_functions import publish
from fxprune.surgery.slim import KEPT_META, Mode, SlimModule

aten = torch.ops.aten

# operator -> the argument that is False in evaluation because a module's mode says so
FLAGS: dict[Any, str] = {
    aten.batch_norm.default: "training",
    aten.instance_norm.default: "use_input_stats",
    aten.lstm.input: "train",
    aten.gru.input: "train",
    aten.rnn_tanh.input: "train",
    aten.rnn_relu.input: "train",
    **{one: "training" if "rrelu" in str(one) else "train" for one in FUNCTIONAL},
}
MADE_FOR_STATE = (aten.zeros.default, aten.sym_size.int)  # what a recurrent module's start takes


def restore(module: fx.GraphModule, *, training: bool, own_gradients: bool = True) -> SlimModule:
    """Return `module` as a module of leaf modules, in training mode or not.

    The graph given is not changed; its tensors move into the result. A call that no leaf module can
    express remains an ATen call, and follows the mode where its operator depends on it. So do the
    markers of Functions with a backward of their own, unless `own_gradients`.
    """
    state = State(module)
    placed = leaves_of(state, own_gradients)
    leaves = {one.path: one.leaf for one in placed.values() if one.leaf is not None}
    flagged = [node for node in module.graph.nodes if node not in placed and _follows(node, state)]
    owners = {node: module_of(node)[0] for node in flagged}
    modes = {one: state.free(f"{one}.training_mode".removeprefix(".")) for one in owners.values()}
    tree = tree_of(state, {**leaves, **{path: Mode() for path in modes.values()}})
    graph = rewritten(module, placed, {node: modes[one] for node, one in owners.items()})
    form = called_plainly(graph)
    return SlimModule(tree, graph, _root_name(module), form).train(training)


@dataclass(frozen=True)
class Placed:
    """Hold the leaf module that takes a call's place, and where it stands.

    Without one the call returns its input.
    """

    leaf: nn.Module | None
    path: str
    match: Match


# ---- which module takes which call ---------------------------------------------------------------


def leaves_of(state: State, own_gradients: bool = True) -> dict[fx.Node, Placed]:
    """Return for every call that a leaf module can make that module, one for all its calls."""
    calls = [node for node in state.module.graph.nodes if _is_operator(node)]
    matches = [match for node in calls if (match := match_of(node, state))]
    count = census(state.module)
    built: dict[Any, nn.Module] = {}
    placed: dict[fx.Node, Placed] = {}
    for path, group in _by_path(matches, state).items():
        bare = not group[0].reads
        if len({match.key for match in group}) > 1 or (bare and count(path) != len(group)):
            continue
        leaf = _leaf(group[0], path, state)
        if leaf is None or (bare and full_name(type(leaf)) != group[0].kind):
            continue
        # modules that own the very same tensors are one module under several paths
        identity = path if bare else (*group[0].key[:2], state.identity(path))
        leaf = built.setdefault(identity, leaf)
        placed |= {match.node: Placed(leaf, path, match) for match in group}
    placed |= _functional([node for node in calls if node not in placed], state)
    placed |= _own_gradients(calls, state) if own_gradients else {}
    return placed | {node: one for node in calls if (one := _marked(node, count, state))}


def _is_operator(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def _by_path(matches: list[Match], state: State) -> dict[str, list[Match]]:
    """Return matches by the path of their module: first those that its own forward made.

    A call from elsewhere, such as attention's of its projection, gets a module only where the
    module's own forward makes no call.
    """
    own: dict[str, list[Match]] = defaultdict(list)
    other: dict[str, list[Match]] = defaultdict(list)
    for match in matches:
        if match.own in match.paths or (not match.reads and match.own not in state.taken):
            own[match.own].append(match)
        elif match.reads:
            read = next(iter(match.reads.values())).rpartition(".")[0]
            other[read if read in match.paths else min(match.paths)].append(match)
    found = {**other, **own}
    return {path: group for path, group in found.items() if path}


def _leaf(match: Match, path: str, state: State) -> nn.Module | None:
    """Build the module of a match; nothing where it would not fit the tensors at its path."""
    leaf = match.row.build(match.call(state, path))
    if leaf is None:
        return None
    owned = state.owned.get(path, {})
    for name, slot in {**leaf._parameters, **leaf._buffers}.items():
        if name in match.reads:
            if slot is None or slot.shape != owned[name].shape:
                return None
        elif name != "num_batches_tracked" and name in owned:
            return None
        elif name not in owned:
            (leaf._parameters if name in leaf._parameters else leaf._buffers)[name] = None
    return leaf if all(hasattr(leaf, name) for name in match.reads) else None


def _functional(nodes: list[fx.Node], state: State) -> dict[fx.Node, Placed]:
    """Return a module of its own for every call of a function whose flag follows the mode."""
    placed: dict[fx.Node, Placed] = {}
    for node in nodes:
        row = FUNCTIONAL.get(node.target)
        match = match_of(node, state, row) if row and _follows(node, state) else None
        leaf = match.row.build(match.call(state, "")) if match else None
        if match and leaf is not None:
            path = state.free(f"{match.own}.{node.name}".removeprefix("."))
            placed[node] = Placed(leaf, path, match)
    return placed


def _own_gradients(nodes: list[fx.Node], state: State) -> dict[fx.Node, Placed]:
    """Return a module for every result of a Function with a backward of its own."""
    found = [one for node in nodes if (one := own_gradient(node))]
    return {match.node: Placed(leaf, state.free(path), match) for leaf, path, match in found}


def _marked(node: fx.Node, count: Callable[[str], int], state: State) -> Placed | None:
    """Return the module that capture kept because it works in training only.

    One whose operators are in the graph too, such as dropout, is restored from those: its marker is
    left out, like one that lost its module.
    """
    if not str(node.target).startswith(MARKER):
        return None
    own, kind = module_of(node)
    path, kept = str(node.args[1]), node.meta.get("module")
    lost = count(path) > 0 or not isinstance(kept, nn.Module) or path in state.taken
    row = Leaf(lambda _: None, ("x",))
    match = Match(node, row, arguments(node), {}, frozenset(), own, kind)
    return Placed(None if lost else kept, path, match)


def _follows(node: fx.Node, state: State) -> bool:
    """Tell a call whose flag, False in evaluation, would be another in training."""
    flag = FLAGS.get(node.target)
    if flag is None:
        return False
    args = arguments(node)
    if args[flag]:
        return False
    if "running_mean" not in args:
        return bool(args.get("p", args.get("dropout", 1.0)))
    # A norm whose scale is a buffer is frozen, and keeps its statistics in training.
    name = str(args["weight"].target) if isinstance(args["weight"], fx.Node) else ""
    scale = state.tensors.get(name)
    return args["running_mean"] is not None and (scale is None or isinstance(scale, nn.Parameter))


# ---- the graph -----------------------------------------------------------------------------------


def rewritten(
    module: fx.GraphModule, placed: Mapping[fx.Node, Placed], modes: Mapping[fx.Node, str]
) -> fx.Graph:
    """Return the graph with modules called in place of their operators."""
    graph, twins = fx.Graph(), dict[fx.Node, Any]()

    def twin(old: fx.Node) -> Any:
        if old not in twins:  # a tensor that is read
            twins[old] = _copied(graph, old, twin)
        return twins[old]

    for old in module.graph.nodes:
        if old in placed:
            _call(graph, old, placed[old], twins, twin)
        elif old.op == "output":
            graph.output(fx.map_arg(old.args[0], twin))
        elif old.op != "get_attr" and old not in twins:
            twins[old] = _copied(graph, old, twin)
    _flag(graph, {twins[old]: path for old, path in modes.items()})
    for node in reversed(graph.nodes):
        if not node.users and (node.op == "get_attr" or node.target in MADE_FOR_STATE):
            graph.erase_node(node)
    publish(graph)
    codegen = module.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        graph._codegen = _PyTreeCodeGen(_PyTreeInfo(*codegen.pytree_info))
    return graph


def _flag(graph: fx.Graph, modes: Mapping[fx.Node, str]) -> None:
    """Let calls of operators that depend on the mode ask a module for it."""
    if not modes:
        return
    first = next(node for node in graph.nodes if node.op != "placeholder")
    with graph.inserting_before(first):
        asked = {path: graph.call_module(path) for path in dict.fromkeys(modes.values())}
    for node, path in modes.items():
        args = arguments(node) | {FLAGS[node.target]: asked[path]}
        required = node.target._schema.arguments  # type: ignore[union-attr]
        node.args = tuple(args[one.name] for one in required if not one.kwarg_only)


def _meta(node: fx.Node) -> dict[str, Any]:
    """Return what of a node's metadata is true of the result, and pickles."""
    meta = {key: node.meta[key] for key in KEPT_META if node.meta.get(key)}
    if "nn_module_stack" in meta:
        stack = meta["nn_module_stack"].items()
        meta["nn_module_stack"] = {
            k: (str(path), kind if isinstance(kind, str) else full_name(kind))
            for k, (path, kind) in stack
        }
    if node.op == "placeholder" and "val" in node.meta:
        value = node.meta["val"]
        if value is None or isinstance(value, (bool, int, float, str)):
            meta["constant"] = value
    return meta


def _copied(graph: fx.Graph, old: fx.Node, twin: Callable[[fx.Node], Any]) -> fx.Node:
    new = twin_of(old, graph, twin)
    new.meta = _meta(old)
    return new


def _call(
    graph: fx.Graph,
    old: fx.Node,
    one: Placed,
    twins: dict[fx.Node, Any],
    twin: Callable[[fx.Node], Any],
) -> None:
    """Call a module in place of an operator, and read its result as the operator's was read."""
    args = arguments(old)
    inputs = [tuple(v) if isinstance(v := args[name], list) else v for name in one.match.fed]
    if "hx" in one.match.fed and full_name(type(one.leaf)) == one.match.kind and _zero(args["hx"]):
        inputs.pop()  # the module makes its own zeros
    if one.leaf is None:
        twins[old] = fx.map_arg(args["x"], twin)
        return
    call = twins[old] = graph.call_module(one.path, fx.map_arg(tuple(inputs), twin))
    call.meta = _meta(old)
    for user in old.users if one.match.row.unpack else ():
        value = call
        for index in one.match.row.unpack[int(str(user.args[1]))]:
            value = graph.call_function(operator.getitem, (value, index))
            value.meta = _meta(user)
        twins[user] = value


def _zero(states: Any) -> bool:
    """Tell initial states that were made as zeros, as the module makes them itself."""
    listed = states if isinstance(states, (list, tuple)) else [states]
    return all(one.target is aten.zeros.default for one in listed)


def _root_name(module: fx.GraphModule) -> str:
    """Return the name of the class that was captured."""
    for node in module.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            if not path:
                return str(kind if isinstance(kind, str) else full_name(kind)).rpartition(".")[2]
    return "SlimModule"
