"""Operators that act on each element alone: every aligned axis of the operands is one axis.

Torch tags most of them (`torch.Tag.pointwise`); in-place forms and the rest are listed by name.
Where zero stays zero is not listed but *tried*: the operator itself is called on a few numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import fx

from fxprune.guards import Ids, true
from fxprune.rules.registry import Rule, couples
from fxprune.rules.site import Site, TensorGuard, hint, shape_of, unbounded

aten = torch.ops.aten

# not tagged as pointwise by torch, and pointwise all the same
UNTAGGED = """
__and_ __or_ __xor_
_conj _conj_physical _to_copy absolute alias alpha_dropout arccos arccosh arcsin arcsinh arctan
arctan2 arctanh bernoulli bfloat16 celu clamp clip clone complex conj contiguous copy detach
detach_copy divide double dropout elu fake_quantize_per_tensor_affine feature_alpha_dropout
feature_dropout fill fix float float_power floor_divide greater greater_equal half hardshrink
hardsigmoid hardswish hardtanh imag isclose isfinite isinf isnan isreal ldexp leaky_relu less
less_equal lift lift_fresh lift_fresh_copy log_sigmoid logical_and logical_not logical_or
logical_xor masked_fill mish multiply native_dropout negative not_equal polar positive real relu6
resolve_conj resolve_neg rrelu rsub selu silu softplus softsign special_entr special_erf
special_erfc special_erfinv special_exp2 special_expit special_expm1 special_gammaln special_log1p
special_logit special_ndtr special_round special_sinc special_xlogy square subtract tanhshrink
threshold to true_divide type_as where xlogy zero
"""
POINTWISE_NAMES = frozenset(UNTAGGED.split())
SAME = {"to", "type_as"}  # of the second tensor operand only the dtype and device matter
NUMBERS = (-2.0, -0.5, 0.0, 0.5, 2.0)  # tried for operands of which nothing is known
REPEATS = 8  # of each trial, for operators that draw random numbers


def name_of(operator: Any) -> str:
    """Return an operator's name without overload and in-place mark: `aten.add_.Tensor` → `add`."""
    return str(operator._schema.name).split("::")[-1].removesuffix("_")


@cache
def is_pointwise(operator: Any) -> bool:
    """Tell whether an operator treats each element alone."""
    if not isinstance(operator, torch._ops.OpOverload) or operator.namespace != "aten":
        return False
    if any(argument.is_out for argument in operator._schema.arguments):
        return False
    if operator is aten.where.default:
        return False  # of a condition alone it is `nonzero`
    if torch.Tag.pointwise in operator.tags or name_of(operator) in POINTWISE_NAMES:
        return True
    functional = getattr(aten, name_of(operator), None)
    overload = getattr(functional, operator._overloadname, None) if functional else None
    return overload is not None and torch.Tag.pointwise in overload.tags


def couple(site: Site) -> TensorGuard | tuple[TensorGuard, ...]:
    """Unify the operands' axes, aligned right; axes of size 1 broadcast."""
    names = [name for name in site.args if site.optional(name) is not None]
    names = names[:1] if name_of(site.node.target) in SAME else names
    out = site.node.meta["val"]
    if isinstance(out, (tuple, list)):
        return tuple(_broadcast(site, names, one, k) for k, one in enumerate(out))
    return _broadcast(site, names, out, 0)


def _broadcast(site: Site, names: Sequence[str], out: torch.Tensor, index: int) -> TensorGuard:
    operands = {name: site.tensor(name) for name in names}
    sizes, dims, zeros = shape_of(out), list[Ids](), list[bool]()
    known: dict[frozenset[str], str] = {}
    for d, (size, fix) in enumerate(zip(sizes, unbounded(out), strict=True)):
        back = d - len(sizes)
        meet = {
            name: value.dims[back]
            for name, value in operands.items()
            if len(value.dims) >= -back and len(value.dims[back]) != 1
        }
        g = next(iter(meet.values()), true(size))
        for other in list(meet.values())[1:]:
            g = site.unify(g, other)
        if fix or len(g) != size:
            site.pin(g, "a size depends on the input")
            g = true(size)
        zero = frozenset(name for name in meet if operands[name].zero[back])
        if g.shape[1] and zero not in known:
            known[zero] = at_zero(site.node, site.args, zero, index)
        if g.shape[1] and known[zero] == "undefined":
            site.approximate(g, f"{site.operator} of zero is not a number")
        dims.append(g)
        zeros.append(bool(g.shape[1]) and known[zero] == "zero")
    return TensorGuard(tuple(dims), tuple(zeros))


def at_zero(node: fx.Node, args: dict[str, Any], zero: frozenset[str], index: int = 0) -> str:
    """Return what the result is where the operands `zero` are zero, by trying the operator.

    It is "zero", "undefined" (the zeros alone decide, and it is no finite number) or "unknown". The
    other operands take every combination of a few numbers. Where one of them is zero, a result
    that is not a number does not count: there the model itself divides by zero.
    """
    given: list[tuple[str, Any]] = []
    for name, arg in args.items():
        value = arg.meta.get("val") if isinstance(arg, fx.Node) else arg
        if isinstance(value, torch.Tensor):
            value = Operand(value.dtype)
        given.append((name, hint(value) if isinstance(value, torch.SymInt) else value))
    key = (node.target, repr(given), zero, index)  # repr tells 1 from True and 1.0
    if key not in TRIED:
        TRIED[key] = _tried(node.target, dict(given), zero, index)
    return TRIED[key]


@dataclass(frozen=True)
class Operand:
    """Stand for a tensor operand of an operator that is tried."""

    dtype: torch.dtype


TRIED: dict[tuple[Any, str, frozenset[str], int], str] = {}  # what came of it, for good


def _tried(operator: Any, given: dict[str, Any], zero: frozenset[str], index: int) -> str:
    tried = dict(given)
    tensors = [name for name, value in given.items() if isinstance(value, Operand)]
    unknown = [name for name in tensors if name not in zero]
    tried |= {name: None for name in ("device", "layout", "pin_memory") if name in tried}
    grids = list(product(*(_numbers(tried[name].dtype) for name in unknown)))
    columns = torch.tensor(grids, dtype=torch.float32).reshape(len(grids), -1).repeat(REPEATS, 1)
    for k, name in enumerate(unknown):
        tried[name] = columns[:, k].to(tried[name].dtype)
    for name in zero:
        tried[name] = torch.zeros(len(columns), dtype=tried[name].dtype)
    divides = (columns == 0).any(dim=1)
    result = _called(operator, tried, index)
    if result is None:
        return "unknown"
    if zero and not unknown and not bool(result.isfinite().all()):
        return "undefined"
    off = (result != 0).logical_and(~(result.isnan() & divides))
    return "unknown" if bool(off.any()) else "zero"


def _numbers(dtype: torch.dtype) -> tuple[float, ...]:
    if dtype == torch.bool:
        return (0.0, 1.0)
    return NUMBERS if dtype.is_floating_point or dtype.is_complex else (-2.0, -1.0, 0.0, 1.0, 2.0)


def _called(operator: Any, arguments: dict[str, Any], index: int) -> torch.Tensor | None:
    """Return what the operator makes of the arguments, or None where it refuses them."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
            result: Any = operator(**arguments)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, IndexError):
        return None
    chosen: torch.Tensor = result[index] if isinstance(result, (tuple, list)) else result
    return chosen


POINTWISE = Rule(couple)


@couples(aten.prelu.default)
def prelu(site: Site) -> TensorGuard:
    """Couple `n c *` with a slope a channel, or one for all."""
    x, slope = site.tensor("self"), site.tensor("weight")
    dims = list(x.dims)
    at = min(1, len(dims) - 1)
    if len(slope.dims) and len(slope.dims[0]) > 1:
        dims[at] = site.unify(dims[at], slope.dims[0])
    if dims:
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
