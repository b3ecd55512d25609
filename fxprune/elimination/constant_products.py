"""What is known of products, norms and attention, from what is known of their operands."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from fxprune.elimination.constant_values import Call, ConstantValue, spread

aten = torch.ops.aten

# operator -> the operands that are multiplied, and the one that is added
PRODUCTS: dict[Any, tuple[tuple[str, ...], str | None]] = {
    aten.linear.default: (("input", "weight"), "bias"),
    aten.conv1d.default: (("input", "weight"), "bias"),
    aten.conv2d.default: (("input", "weight"), "bias"),
    aten.conv3d.default: (("input", "weight"), "bias"),
    aten.conv1d.padding: (("input", "weight"), "bias"),
    aten.conv2d.padding: (("input", "weight"), "bias"),
    aten.conv3d.padding: (("input", "weight"), "bias"),
    aten.conv_transpose1d.default: (("input", "weight"), "bias"),
    aten.conv_transpose2d.input: (("input", "weight"), "bias"),
    aten.conv_transpose3d.input: (("input", "weight"), "bias"),
    aten.convolution.default: (("input", "weight"), "bias"),
    aten.bilinear.default: (("input1", "input2", "weight"), "bias"),
    aten.matmul.default: (("self", "other"), None),
    aten.mm.default: (("self", "mat2"), None),
    aten.bmm.default: (("self", "mat2"), None),
    aten.mv.default: (("self", "vec"), None),
    aten.dot.default: (("self", "tensor"), None),
    aten.outer.default: (("self", "vec2"), None),
    aten.addmm.default: (("mat1", "mat2"), "self"),
    aten.baddbmm.default: (("batch1", "batch2"), "self"),
    aten.addmv.default: (("mat", "vec"), "self"),
    aten.einsum.default: (("tensors",), None),
}


def factors(call: Call) -> list[ConstantValue]:
    """Return what is known of the operands that are multiplied."""
    names, _ = PRODUCTS[call.node.target]
    if names == ("tensors",):
        return list(call.args["tensors"])
    return [call.args[name] for name in names]


def computed(call: Call, values: list[Tensor], added: Any = None) -> Tensor:
    """Call the operator on other factors, and on `added` where it adds something."""
    names, extra = PRODUCTS[call.node.target]
    changed: dict[str, Any] = dict(zip(names, values, strict=True)) if len(names) > 1 else {}
    if not changed:
        changed = {"tensors": list(values)}
    if extra is not None:
        known = call.args.get(extra)
        zero = torch.zeros_like(known.value) if known is not None and extra == "self" else None
        addend = zero if added is None else added
        changed[extra] = None if addend is None else addend.to(values[0].dtype)
    plain = {name: 1 for name in ("alpha", "beta") if name in call.args}
    result: Tensor = call.run(changed | ({} if added is not None else plain))
    return result


def product(call: Call) -> Any:
    """Multiply and add: a term is known if all of it is, or if one factor is known to be zero."""
    parts = factors(call)
    name = PRODUCTS[call.node.target][1]
    bias = call.args.get(name) if name is not None else None
    if all(one.whole for one in parts):
        values = computed(call, [one.value for one in parts], bias.kept if bias else None)
        return spread(values, _varying_bias(call, parts, bias, values))
    if all(bool(one.nonzero.all()) and (one.whole or bool(one.varies.all())) for one in parts):
        return call.nothing()
    varies = varying(call, parts)
    if bool(varies.all()):
        return call.nothing()
    values = computed(call, [one.kept for one in parts], bias.kept if bias else None)
    return spread(values, varies | _varying_bias(call, parts, bias, values))


def varying(call: Call, parts: list[ConstantValue]) -> Tensor:
    """Return where some term of the sum varies: one factor does, and no other is known zero.

    One of the factors at least is not known as a whole.
    """

    def by(k: int) -> Tensor:
        marks = [p.varies if i == k else p.nonzero for i, p in enumerate(parts)]
        return computed(call, [mark.float() for mark in marks]) > 0.5

    return reduce(torch.logical_or, (by(k) for k, one in enumerate(parts) if not one.whole))


def _varying_bias(call: Call, parts: list[ConstantValue], bias: Any, values: Tensor) -> Tensor:
    if bias is None or bias.whole:
        return torch.zeros((), dtype=torch.bool).expand(values.shape)
    zeros = [torch.zeros_like(one.value) for one in parts]
    return computed(call, zeros, bias.varies.double()) > 0.5


# ---- norms ---------------------------------------------------------------------------------------


def _along(vector: Tensor, dim: int, rank: int) -> Tensor:
    return vector.reshape([-1 if d == dim else 1 for d in range(rank)])


def batch_norm(call: Call) -> Any:
    """Scale and shift each channel by itself; a channel whose scale is zero is its shift."""
    x: ConstantValue = call.args["input"]
    mean, var = call.args.get("running_mean"), call.args.get("running_var")
    live = call.args.get("training", call.args.get("use_input_stats", False)) or mean is None
    if live or mean is None or var is None or not (mean.whole and var.whole):
        return _tupled(call, scaled(call, x, (1,)))
    rank = x.value.ndim
    values = (x.kept - _along(mean.value, 1, rank)) * _along(
        (var.value + float(call.args["eps"])).rsqrt(), 1, rank
    )
    fixed = scaled(call, x, (1,))
    weight, bias = call.args.get("weight"), call.args.get("bias")
    if weight is not None:
        values = values * _along(weight.value, 1, rank)
    if bias is not None:
        values = values + _along(bias.value, 1, rank)
    open_ = x.varies
    for one in (weight, bias):
        open_ = open_ | _along(one.varies, 1, rank) if one is not None else open_
    known = ConstantValue(torch.where(fixed.varies, values, fixed.value), open_ & fixed.varies)
    return _tupled(call, known)


def _tupled(call: Call, known: ConstantValue) -> Any:
    made = call.node.meta["val"]
    return known if isinstance(made, Tensor) else (known, *call.nothing()[1:])


def scaled(call: Call, x: ConstantValue, dims: tuple[int, ...]) -> ConstantValue:
    """Return a normalised tensor, of which a scale of zero makes the shift known."""
    weight, bias = call.args.get("weight"), call.args.get("bias")
    if weight is None or not weight.whole or not (bias is None or bias.whole):
        return ConstantValue.nothing(x.value.shape)
    shape = [n if d in dims else 1 for d, n in enumerate(x.value.shape)]
    varies = (weight.value != 0).reshape(shape).expand(x.value.shape)
    value = torch.zeros_like(weight.value) if bias is None else bias.value
    return ConstantValue(value.reshape(shape).expand(x.value.shape), varies)


def normalised(call: Call) -> Any:
    """Know of a norm that takes statistics what is known by its scale alone."""
    x = call.args["input"]
    shape = call.args.get("normalized_shape")
    rank = x.value.ndim
    dims = tuple(range(rank - len(shape), rank)) if shape is not None else (1,)
    return _tupled(call, scaled(call, x, dims))


# ---- attention and lookup ------------------------------------------------------------------------


def attention(call: Call) -> Any:
    """Average values that are the same at every key to that value; zeros to zero, masked or not.

    Source: the weights of a softmax add up to one.
    """
    q, v = call.args["query"], call.args["value"]
    if v.unknown or call.args.get("dropout_p"):
        return call.nothing()
    value, varies = v.value, v.varies.any(dim=-2, keepdim=True)
    first = value[..., :1, :]
    varies = varies | (value != first).any(dim=-2, keepdim=True)
    if call.args.get("attn_mask") is not None:
        varies = varies | (first != 0)
    made = call.node.meta["val"]
    shape = call.shape(None if isinstance(made, Tensor) else 0)
    heads = q.value.shape[-3] // first.shape[-3] if call.args.get("enable_gqa") else 1
    if heads > 1:
        first, varies = (t.repeat_interleave(heads, -3) for t in (first, varies))
    return _tupled(call, ConstantValue(first.expand(shape), varies.expand(shape)))


def embedding(call: Call) -> Any:
    """Know the features that are the same for every word."""
    weight = call.args["weight"]
    if not weight.whole or not len(weight.value):
        return call.nothing()
    shape = call.shape()
    same = (weight.value == weight.value[:1]).all(dim=0)
    return ConstantValue(weight.value[0].expand(shape), (~same).expand(shape))


RULES: dict[Any, Callable[[Call], Any]] = dict.fromkeys(PRODUCTS, product) | {
    aten.batch_norm.default: batch_norm,
    aten.instance_norm.default: normalised,
    aten.native_batch_norm.default: batch_norm,
    aten._native_batch_norm_legit_no_training.default: lambda call: batch_norm(call),
    aten.layer_norm.default: normalised,
    aten.native_layer_norm.default: normalised,
    aten.rms_norm.default: normalised,
    aten.group_norm.default: normalised,
    aten.native_group_norm.default: normalised,
    aten.scaled_dot_product_attention.default: attention,
    aten._scaled_dot_product_flash_attention_for_cpu.default: attention,
    aten.embedding.default: embedding,
}
