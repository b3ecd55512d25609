"""Fold constants: parameter arithmetic into parameters, dropped units into their consumers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from fxprune.graphs import (
    arguments,
    attribute,
    emptied,
    free_name,
    set_tensor,
    tensors_of,
    used,
)
from fxprune.targets.effective import computed, evaluated, works, writes

aten = torch.ops.aten

OPERANDS = ("weight", "bias")  # of a layer: what parameter arithmetic is folded for

# ---- parameter arithmetic ------------------------------------------------------------------------


def folded(module: fx.GraphModule) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """Return the module with computed weights and biases as plain parameters, and their names.

    Such are the product of `weight_orig` and `weight_mask` that `torch.nn.utils.prune` makes, or
    the parts of a weight norm, as they are in evaluation mode. What only moves entries is kept,
    and so is what writes to buffers, such as the observers of a quantization.
    """
    reads = computed(module.graph)
    taken, names = set(tensors_of(module)), dict[fx.Node, str]()
    for node in module.graph.nodes:
        for name, operand in _operands(node).items() if node.op == "call_function" else ():
            if operand not in names and operand in reads and works(operand) and not writes(operand):
                names[operand] = free_name(_named(node, name, operand), taken)
    if not names:
        return module, ()
    return replaced(module, names)[0], tuple(names.values())


def replaced(
    module: fx.GraphModule, names: Mapping[fx.Node, str]
) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """Return a copy that reads computed nodes as parameters of these names, and its nodes by ours.

    The values are those of now; tensors that are read by nothing else are left out.
    """
    reads, copy = computed(module.graph), emptied(module)
    own = dict(zip(module.graph.nodes, copy.graph.nodes, strict=True))
    twins, values = dict(own), evaluated(module, names)
    for operand, name in names.items():
        trained = any(attribute(module, str(one.target)).requires_grad for one in reads[operand])
        set_tensor(copy, name, nn.Parameter(values[operand], requires_grad=trained))
        with copy.graph.inserting_before(own[operand]):
            twins[operand] = copy.graph.get_attr(name)
        twins[operand].meta = dict(own[operand].meta)
        own[operand].replace_all_uses_with(twins[operand])
    for old in reversed(list(module.graph.nodes)):
        if (old in reads or old.op == "get_attr") and old.users and not own[old].users:
            copy.graph.erase_node(own[old])
            if twins[old] is own[old]:
                del twins[old]
    _fill(module, copy, set(names.values()))
    copy.recompile()
    return copy, twins


def _operands(node: fx.Node) -> dict[str, fx.Node]:
    args = arguments(node)
    return {name: arg for name in OPERANDS if isinstance(arg := args.get(name), fx.Node)}


def _named(node: fx.Node, name: str, operand: fx.Node) -> str:
    """Return the name for a folded tensor: that of the argument, in the module that uses it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return f"{path}.{name}" if path else f"{operand.name}_{name}"


def _fill(module: fx.GraphModule, copy: fx.GraphModule, new: set[str]) -> None:
    """Give the copy the tensors it still reads, and the buffers that stand beside them."""
    before, after = _read(module), _read(copy)
    persistent = set(module.state_dict())
    for name, tensor in used(module, after).items():
        if name not in new and (name in after or name not in before):
            set_tensor(copy, name, tensor, persistent=name in persistent)


def _read(module: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}


# ---- constants of dropped units ------------------------------------------------------------------


def compensate(
    module: fx.GraphModule, lost: Sequence[tuple[str, Tensor, int]], *, grow: bool = True
) -> list[str]:
    """Add back what dropped units gave: `(node, values [outputs], their axis from the right)`.

    It goes into the bias of the node, into the running mean of the batch norm behind it, into a new
    bias, or, where calls share these, into a sum after the node. Return a line for each. With
    `grow=False` nothing new is made, and the line of what has no place is empty.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    todo = {nodes[name]: (values, axis) for name, values, axis in lost}
    said: list[str] = []
    done: set[int] = set()
    for node, (values, axis) in todo.items():
        place = _into_own(module, node, values, todo, done)
        if not place and grow:
            place = _into_new(module, node, values, axis)
        said.append(place)
    module.graph.lint()
    module.recompile()
    return said


def _into_own(
    module: fx.GraphModule,
    node: fx.Node,
    values: Tensor,
    todo: Mapping[fx.Node, tuple[Tensor, int]],
    done: set[int],
) -> str:
    """Add values to a bias or a running mean that is there; return its name, empty for none."""
    slot, bias = _bias(node)
    if bias is not None and bias.op == "get_attr" and _alike(module, bias, slot, values, todo):
        tensor = attribute(module, str(bias.target))
        if id(tensor) not in done and tensor.ndim == 1:
            done.add(id(tensor))
            _shift(tensor, values)
        if tensor.ndim == 1:
            return str(bias.target)
    norm = norm_after(module, node)
    if norm is None:
        return ""
    _shift(attribute(module, str(norm.target)), -values)
    return str(norm.target)


def _into_new(module: fx.GraphModule, node: fx.Node, values: Tensor, axis: int) -> str:
    """Add values by a new bias, or by a sum after the node; return the name of the tensor."""
    slot, bias = _bias(node)
    weight = arguments(node).get("weight")
    if slot == "bias" and bias is None and isinstance(weight, fx.Node) and _alone(module, weight):
        return _new_bias(module, node, weight, values)
    return _sum_after(module, node, values, axis)


def _bias(node: fx.Node) -> tuple[str, fx.Node | None]:
    """Return the argument that a node adds, empty if it has none, and what is given there."""
    args = arguments(node)
    slot = "self" if "mat1" in args else "bias" if "bias" in args else ""
    bias = args.get(slot) if slot else None
    return slot, bias if isinstance(bias, fx.Node) else None


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


def norm_after(
    module: fx.GraphModule, node: fx.Node, which: str = "running_mean"
) -> fx.Node | None:
    """Return the running mean, or variance, of the batch norm that alone reads a node's result."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    if user is None or user.target is not aten.batch_norm.default:
        return None
    args = arguments(user)
    mean = args[which]
    if args["input"] is not node or args["training"] or not isinstance(mean, fx.Node):
        return None
    return mean if _alone(module, mean) else None


def _new_bias(module: fx.GraphModule, node: fx.Node, weight: fx.Node, values: Tensor) -> str:
    like = attribute(module, str(weight.target))
    path = str(weight.target).rpartition(".")[0]
    name = free_name(f"{path}.bias" if path else f"{node.name}_bias", set(tensors_of(module)))
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
    name = free_name(f"{node.name}_constant", set(tensors_of(module)))
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
