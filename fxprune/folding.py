"""Fold constants: parameter arithmetic into parameters, dropped units into what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.calls import arguments
from fxprune.constants import MOVES
from fxprune.coupling import changed_later
from fxprune.program import attribute, emptied, set_tensor, tensors_of, used
from fxprune.rules.pointwise import name_of

aten = torch.ops.aten

OPERANDS = ("weight", "bias")  # of a layer: what parameter arithmetic is folded for
PASSIVE = MOVES | {"alias", "clone", "contiguous", "detach", "to", "_to_copy"}

# ---- parameter arithmetic ------------------------------------------------------------------------


def folded(module: fx.GraphModule) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """Return the module with computed weights and biases as plain parameters, and their names.

    Such are the product of `weight_orig` and `weight_mask` that `torch.nn.utils.prune` leaves, or
    the parts of a weight norm, as they are in evaluation mode. What only moves entries stays.
    """
    computed = _computed(module)
    wanted = {
        operand: (node, name)
        for node in module.graph.nodes
        if node.op == "call_function"
        for name, operand in _operands(node).items()
        if operand in computed and _works(operand)
    }
    if not wanted:
        return module, ()
    copy, taken = emptied(module), set(tensors_of(module))
    twins = dict(zip(module.graph.nodes, copy.graph.nodes, strict=True))
    values, names = _evaluated(module, wanted), list[str]()
    for operand, (node, name) in wanted.items():
        names.append(_free(_named(node, name, operand), taken))
        trained = any(tensor.requires_grad for tensor in _sources(module, operand))
        set_tensor(copy, names[-1], nn.Parameter(values[operand], requires_grad=trained))
        with copy.graph.inserting_before(twins[operand]):
            read = copy.graph.get_attr(names[-1])
        read.meta = dict(twins[operand].meta)
        twins[operand].replace_all_uses_with(read)
    for old in reversed(list(module.graph.nodes)):
        if (old in computed or old.op == "get_attr") and old.users and not twins[old].users:
            copy.graph.erase_node(twins[old])
    _fill(module, copy)
    copy.recompile()
    return copy, tuple(names)


def _operands(node: fx.Node) -> dict[str, fx.Node]:
    args = arguments(node)
    return {name: arg for name in OPERANDS if isinstance(arg := args.get(name), fx.Node)}


def _computed(module: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes whose results are made of parameters and buffers alone."""
    found: set[fx.Node] = set()
    changed = changed_later(module.graph)
    for node in module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
            continue
        ins = node.all_input_nodes
        seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        alone = all(one.op == "get_attr" or one in found for one in ins)
        if ins and alone and not seeded and node not in changed:
            found.add(node)
    return found


def _works(node: fx.Node) -> bool:
    """Tell whether anything that leads to a node computes, rather than moves entries."""
    open_ = [node]
    while open_:
        one = open_.pop()
        if one.op != "get_attr":
            if name_of(one.target) not in PASSIVE:
                return True
            open_ += one.all_input_nodes
    return False


def _named(node: fx.Node, name: str, operand: fx.Node) -> str:
    """Return the name for a folded tensor: that of the argument, in the module that uses it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return f"{path}.{name}" if path else f"{operand.name}_{name}"


def _free(path: str, taken: set[str]) -> str:
    while path in taken:
        path += "_"
    taken.add(path)
    return path


def _fill(module: fx.GraphModule, copy: fx.GraphModule) -> None:
    """Give the copy the tensors it still reads, and the buffers that stand beside them."""
    before, after = _read(module), _read(copy)
    persistent = set(module.state_dict())
    for name, tensor in used(module, after).items():
        if name in after or name not in before:
            set_tensor(copy, name, tensor, persistent=name in persistent)


def _read(module: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}


def _evaluated(module: fx.GraphModule, wanted: Mapping[fx.Node, Any]) -> dict[fx.Node, Tensor]:
    values: dict[fx.Node, Any] = {}

    def value(node: fx.Node) -> Any:
        if node not in values and node.op == "get_attr":
            values[node] = attribute(module, str(node.target))
        elif node not in values:
            args, kwargs = fx.map_arg((node.args, node.kwargs), value)
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return values[node]

    with torch.no_grad():
        return {node: value(node).detach().clone().contiguous() for node in wanted}


def _sources(module: fx.GraphModule, node: fx.Node) -> list[Tensor]:
    found: list[Tensor] = []
    open_ = [node]
    while open_:
        one = open_.pop()
        open_ += one.all_input_nodes
        if one.op == "get_attr":
            found.append(attribute(module, str(one.target)))
    return found


# ---- constants of dropped units ------------------------------------------------------------------


def compensate(module: fx.GraphModule, lost: Sequence[tuple[str, Tensor, int]]) -> list[str]:
    """Add back what dropped units gave: `(node, values [outputs], their axis from the right)`.

    It goes into the bias of the node, into the running mean of the batch norm behind it, into a new
    bias, or, where calls share these, into a sum after the node. Return a line for each.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    todo = {nodes[name]: (values, axis) for name, values, axis in lost}
    said: list[str] = []
    done: set[int] = set()
    for node, (values, axis) in todo.items():
        said.append(_added(module, node, values, axis, todo, done))
    module.graph.lint()
    module.recompile()
    return said


def _added(
    module: fx.GraphModule,
    node: fx.Node,
    values: Tensor,
    axis: int,
    todo: Mapping[fx.Node, tuple[Tensor, int]],
    done: set[int],
) -> str:
    args = arguments(node)
    slot = "self" if "mat1" in args else "bias" if "bias" in args else ""
    bias = args.get(slot) if slot else None
    own = bias if isinstance(bias, fx.Node) and bias.op == "get_attr" else None
    if own is not None and _alike(module, own, slot, values, todo):
        tensor = attribute(module, str(own.target))
        if id(tensor) not in done and tensor.ndim == 1:
            done.add(id(tensor))
            _shift(tensor, values)
        if tensor.ndim == 1:
            return str(own.target)
    norm = _norm_after(module, node)
    if norm is not None:
        mean = attribute(module, str(norm.target))
        _shift(mean, -values)
        return f"{norm.target}"
    weight = args.get("weight")
    if slot == "bias" and bias is None and isinstance(weight, fx.Node) and _alone(module, weight):
        return _new_bias(module, node, weight, values)
    return _sum_after(module, node, values, axis)


def _shift(tensor: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        shifted = tensor.detach().cpu().double() + values
        tensor.data.copy_(shifted.to(tensor.dtype))


def _readers(module: fx.GraphModule, name: str) -> list[fx.Node]:
    """Return every node that reads a tensor, under whichever of its names."""
    tensor = attribute(module, name)
    places = [n for n in module.graph.nodes if n.op == "get_attr"]
    return [u for n in places if attribute(module, str(n.target)) is tensor for u in n.users]


def _alone(module: fx.GraphModule, read: fx.Node) -> bool:
    return read.op == "get_attr" and len(_readers(module, str(read.target))) == 1


def _alike(
    module: fx.GraphModule,
    bias: fx.Node,
    slot: str,
    values: Tensor,
    todo: Mapping[fx.Node, tuple[Tensor, int]],
) -> bool:
    """Tell whether every reader of a bias adds it, and is to be given the same values."""
    for user in _readers(module, str(bias.target)):
        args = arguments(user)
        if not isinstance(args.get(slot), fx.Node) or args[slot].target != bias.target:
            return False
        if any(args.get(name, 1) != 1 for name in ("alpha", "beta")):
            return False
        if user not in todo or not torch.equal(todo[user][0], values):
            return False
    return True


def _norm_after(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return the running mean of the batch norm that alone reads a node's result."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is None or user.target is not aten.batch_norm.default:
        return None
    args = arguments(user)
    mean = args["running_mean"]
    if args["input"] is not node or args["training"] or not isinstance(mean, fx.Node):
        return None
    return mean if _alone(module, mean) else None


def _new_bias(module: fx.GraphModule, node: fx.Node, weight: fx.Node, values: Tensor) -> str:
    like = attribute(module, str(weight.target))
    path = str(weight.target).rpartition(".")[0]
    name = _free(f"{path}.bias" if path else f"{node.name}_bias", set(tensors_of(module)))
    value = values.to(like.dtype).to(like.device)
    set_tensor(module, name, nn.Parameter(value, requires_grad=like.requires_grad))
    with module.graph.inserting_before(node):
        read = module.graph.get_attr(name)
    read.meta |= {"val": value, "nn_module_stack": node.meta.get("nn_module_stack")}
    schema = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    if schema.index("bias") < len(node.args):
        node.update_arg(schema.index("bias"), read)
    else:
        node.update_kwarg("bias", read)
    return name


def _sum_after(module: fx.GraphModule, node: fx.Node, values: Tensor, axis: int) -> str:
    """Add a buffer to the result of a node that cannot add it by itself."""
    name = _free(f"{node.name}_constant", set(tensors_of(module)))
    made = node.meta["val"]
    value = values.to(made.dtype).to(made.device).view(-1, *(1,) * (-axis - 1))
    set_tensor(module, name, value)
    with module.graph.inserting_after(node):
        read = module.graph.get_attr(name)
    with module.graph.inserting_after(read):
        added = module.graph.call_function(aten.add.Tensor, (node, read))
    read.meta |= {"val": value}
    added.meta = dict(node.meta)
    node.replace_all_uses_with(added, lambda user: user is not added)
    return name
