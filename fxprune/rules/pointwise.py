"""Operators that act on each element alone: every aligned axis of the operands is one axis.

Torch tags most of them (`torch.Tag.pointwise`); in-place forms and the rest are listed by name.
What matters beyond the coupling is where zero stays zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fxprune.guards import Ids, true
from fxprune.rules.registry import Rule, couples
from fxprune.rules.site import Site, TensorGuard, shape_of, symbolic

aten = torch.ops.aten

# f(0) = 0 in every tensor operand at once
KEEP_ZERO = set(
    """
    relu relu6 gelu silu mish hardswish leaky_relu elu celu selu tanh tanhshrink hardshrink
    softshrink softsign rrelu abs neg negative sign sgn sqrt square sin sinh tan asin asinh atan
    atanh erf erfinv expm1 log1p floor ceil round trunc frac nan_to_num positive
    maximum minimum fmax fmin logical_or logical_and logical_xor bitwise_or bitwise_and bitwise_xor
    clone contiguous alias detach detach_copy lift lift_fresh lift_fresh_copy to _to_copy type_as
    dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout conj resolve_conj
    resolve_neg real imag float half bfloat16 double deg2rad rad2deg fix _conj fake_quantize
    """.split()
)
# zero where any operand is zero
ANY_ZERO = {"mul", "multiply", "logical_and", "bitwise_and"}
# zero where the first operand is zero
FIRST_ZERO = {"div", "divide", "true_divide", "floor_divide", "fmod", "remainder", "copysign"}
# not tagged as pointwise by torch, and pointwise all the same
UNTAGGED = set(
    """
    dropout feature_dropout alpha_dropout feature_alpha_dropout contiguous clone alias detach lift
    lift_fresh lift_fresh_copy to _to_copy type_as relu6 selu hardswish zero fill copy masked_fill
    bernoulli float half double bfloat16 conj real imag rrelu mish silu softmin where multiply
    divide subtract negative square celu logsigmoid log_sigmoid hardtanh hardsigmoid elu
    leaky_relu native_dropout positive rsub clamp clip floor_divide true_divide
    expand_as_none hardshrink threshold softplus softsign tanhshrink absolute is_nonzero
    isfinite isinf isnan special_expit special_erf special_gelu tensor scalar_tensor_none
    """.split()
)


def name_of(operator: Any) -> str:
    """Return an operator's name without overload and in-place mark: `aten.add_.Tensor` → `add`."""
    return str(operator._schema.name).split("::")[-1].removesuffix("_")


def is_pointwise(operator: Any) -> bool:
    """Tell whether an operator treats each element alone."""
    if not isinstance(operator, torch._ops.OpOverload) or operator.namespace != "aten":
        return False
    if torch.Tag.pointwise in operator.tags or name_of(operator) in UNTAGGED:
        return True
    functional = getattr(aten, name_of(operator), None)
    overload = getattr(functional, operator._overloadname, None) if functional else None
    return overload is not None and torch.Tag.pointwise in overload.tags


def couple(site: Site) -> TensorGuard | tuple[TensorGuard, ...]:
    """Unify the operands' axes, aligned right; axes of size 1 broadcast."""
    operands = [value for arg in site.args.values() if (value := site.of(arg)) is not None]
    out = site.node.meta["val"]
    if isinstance(out, (tuple, list)):
        return tuple(_broadcast(site, operands, one) for one in out)
    return _broadcast(site, operands, out)


def _broadcast(site: Site, operands: list[TensorGuard], out: torch.Tensor) -> TensorGuard:
    sizes, dims = shape_of(out), list[Ids]()
    for d, (size, fix) in enumerate(zip(sizes, symbolic(out), strict=True)):
        back = d - len(sizes)
        meet = [v.dims[back] for v in operands if len(v.dims) >= -back and len(v.dims[back]) != 1]
        g = meet[0] if meet else true(size)
        for other in meet[1:]:
            g = site.unify(g, other)
        if fix or len(g) != size:
            site.pin(g, "a size depends on the input")
            g = true(size)
        dims.append(g)
    zeros = tuple(_zero(site, operands, d - len(sizes), len(dims[d])) for d in range(len(sizes)))
    return TensorGuard(tuple(dims), zeros)


def _zero(site: Site, operands: list[TensorGuard], back: int, size: int) -> bool:
    def at(value: TensorGuard) -> bool:
        reaches = len(value.dims) >= -back and len(value.dims[back]) == size
        return reaches and value.zero[back]

    name = name_of(site.node.target)
    first = site.of(next(iter(site.args.values())))
    if name in ANY_ZERO:
        return any(map(at, operands))
    if name in FIRST_ZERO:
        return first is not None and at(first)
    if name in KEEP_ZERO:
        return bool(operands) and all(map(at, operands))
    test = CONDITIONAL.get(name)
    return test is not None and bool(operands) and test(site, at)


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


At = Callable[[TensorGuard], bool]


def _sum(site: Site, at: At) -> bool:
    other = site.args["other"]
    values = [site.of(arg) for arg in (site.args["self"], other)]
    return all(at(v) if v else other == 0 for v in values)


def _self(site: Site, at: At) -> bool:
    value = site.of(site.args.get("self"))
    return value is not None and at(value)


def _clamped(low: str, high: str) -> Callable[[Site, At], bool]:
    def test(site: Site, at: At) -> bool:
        bounds = site.args.get(low), site.args.get(high)
        if any(isinstance(bound, torch.fx.Node) for bound in bounds):
            return False
        return _self(site, at) and _number(bounds[0], -1) <= 0 <= _number(bounds[1], 1)

    return test


CONDITIONAL: dict[str, Callable[[Site, At], bool]] = {
    "add": _sum,
    "sub": _sum,
    "subtract": _sum,
    "rsub": _sum,
    "clamp": _clamped("min", "max"),
    "clip": _clamped("min", "max"),
    "clamp_min": _clamped("min", ""),
    "clamp_max": _clamped("", "max"),
    "hardtanh": _clamped("min_val", "max_val"),
    "pow": lambda s, at: _self(s, at) and _number(s.args.get("exponent"), 0) > 0,
    "masked_fill": lambda s, at: _self(s, at) and s.args.get("value") == 0,
    "where": lambda s, at: all(
        at(v) if (v := s.of(s.args.get(k))) else s.args.get(k) == 0 for k in ("self", "other")
    ),
    "copy": lambda s, at: (v := s.of(s.args.get("src"))) is not None and at(v),
    "zero": lambda s, at: True,
    "fill": lambda s, at: s.args.get("value") == 0,
}

POINTWISE = Rule(couple)


@couples(aten.prelu.default)
def prelu(site: Site) -> TensorGuard:
    """Couple `n c *` with a slope a channel, or one for all."""
    x, slope = site.tensor("self"), site.tensor("weight")
    dims = list(x.dims)
    at = min(1, len(dims) - 1)
    if len(slope.dims) and len(slope.dims[0]) > 1:
        dims[at] = site.unify(dims[at], slope.dims[0])
    site.role(dims[at], "channel")
    return TensorGuard(tuple(dims), x.zero)


@couples(aten.glu.default)
def glu(site: Site) -> TensorGuard:
    """Couple the halves of the gated axis: `a · sigmoid(b)`."""
    x, dim = site.tensor("self"), int(site.args["dim"])
    half = len(x.dims[dim]) // 2
    dims = list(x.dims)
    dims[dim] = site.unify(x.dims[dim][:half], x.dims[dim][half:])
    return TensorGuard(tuple(dims), x.zero)
