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

from fxprune.bare_leaves import FUNCTIONAL
from fxprune.calls import arguments
from fxprune.claims import MARKER, Claim, State, census, claim_of, module_of
from fxprune.leaves import Leaf, full_name
from fxprune.planting import planted
from fxprune.program import twin_of
from fxprune.slim import KEPT_META, Mode, SlimModule

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


def restore(module: fx.GraphModule, *, training: bool) -> SlimModule:
    """Return `module` as a module of leaf modules, in training mode or not.

    The graph given stays as it is; its tensors move into the result. A call that no leaf module can
    express stays an ATen call, and follows the mode where its operator depends on it.
    """
    state = State(module)
    placed = leaves_of(state)
    leaves = {one.path: one.leaf for one in placed.values() if one.leaf is not None}
    flagged = [node for node in module.graph.nodes if node not in placed and _follows(node, state)]
    mode = state.free("training_mode") if flagged else ""
    tree = planted(state, {**leaves, mode: Mode()} if mode else leaves)
    graph = rewritten(module, placed, dict.fromkeys(flagged, mode))
    return SlimModule(tree, graph, _root_name(module)).train(training)


@dataclass(frozen=True)
class Placed:
    """Hold the leaf module that takes a call's place, and where it stands.

    Without one the call hands its input on.
    """

    leaf: nn.Module | None
    path: str
    claim: Claim


# ---- which module takes which call ---------------------------------------------------------------


def leaves_of(state: State) -> dict[fx.Node, Placed]:
    """Return for every call that a leaf module can make that module, one for all its calls."""
    calls = [node for node in state.module.graph.nodes if _is_operator(node)]
    claims = [claim for node in calls if (claim := claim_of(node, state))]
    count = census(state.module)
    built: dict[Any, nn.Module] = {}
    placed: dict[fx.Node, Placed] = {}
    for path, group in _by_path(claims, state).items():
        bare = not group[0].reads
        if len({claim.key for claim in group}) > 1 or (bare and count(path) != len(group)):
            continue
        leaf = _leaf(group[0], path, state)
        if leaf is None or (bare and full_name(type(leaf)) != group[0].kind):
            continue
        # modules that own the very same tensors are one module under several paths
        identity = path if bare else (*group[0].key[:2], state.identity(path))
        leaf = built.setdefault(identity, leaf)
        placed |= {claim.node: Placed(leaf, path, claim) for claim in group}
    placed |= _functional([node for node in calls if node not in placed], state)
    return placed | {node: one for node in calls if (one := _marked(node, count, state))}


def _is_operator(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def _by_path(claims: list[Claim], state: State) -> dict[str, list[Claim]]:
    """Return claims by the path of their module: first those that its own forward made.

    A call from elsewhere, such as attention's of its projection, gets a module only where the
    module's own forward makes no call.
    """
    own: dict[str, list[Claim]] = defaultdict(list)
    other: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        if claim.own in claim.paths or (not claim.reads and claim.own not in state.taken):
            own[claim.own].append(claim)
        elif claim.reads:
            read = next(iter(claim.reads.values())).rpartition(".")[0]
            other[read if read in claim.paths else min(claim.paths)].append(claim)
    found = {**other, **own}
    return {path: group for path, group in found.items() if path}


def _leaf(claim: Claim, path: str, state: State) -> nn.Module | None:
    """Build the module of a claim; nothing where it would not fit the tensors at its path."""
    leaf = claim.row.build(claim.call(state, path))
    if leaf is None:
        return None
    owned = state.owned.get(path, {})
    for name, slot in {**leaf._parameters, **leaf._buffers}.items():
        if name in claim.reads:
            if slot is None or slot.shape != owned[name].shape:
                return None
        elif name != "num_batches_tracked" and name in owned:
            return None
        elif name not in owned:
            (leaf._parameters if name in leaf._parameters else leaf._buffers)[name] = None
    return leaf if all(hasattr(leaf, name) for name in claim.reads) else None


def _functional(nodes: list[fx.Node], state: State) -> dict[fx.Node, Placed]:
    """Return a module of its own for every call of a function whose flag follows the mode."""
    placed: dict[fx.Node, Placed] = {}
    for node in nodes:
        row = FUNCTIONAL.get(node.target)
        claim = claim_of(node, state, row) if row and _follows(node, state) else None
        leaf = claim.row.build(claim.call(state, "")) if claim else None
        if claim and leaf is not None:
            path = state.free(f"{claim.own}.{node.name}".removeprefix("."))
            placed[node] = Placed(leaf, path, claim)
    return placed


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
    claim = Claim(node, row, arguments(node), {}, frozenset(), own, kind)
    return Placed(None if lost else kept, path, claim)


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
        mode = graph.call_module(next(iter(modes.values())))
    for node in modes:
        args = arguments(node) | {FLAGS[node.target]: mode}
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
    inputs = [tuple(v) if isinstance(v := args[name], list) else v for name in one.claim.fed]
    if "hx" in one.claim.fed and full_name(type(one.leaf)) == one.claim.kind and _zero(args["hx"]):
        inputs.pop()  # the module makes its own zeros
    if one.leaf is None:
        twins[old] = fx.map_arg(args["x"], twin)
        return
    call = twins[old] = graph.call_module(one.path, fx.map_arg(tuple(inputs), twin))
    call.meta = _meta(old)
    for user in old.users if one.claim.row.unpack else ():
        value = call
        for index in one.claim.row.unpack[int(str(user.args[1]))]:
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
