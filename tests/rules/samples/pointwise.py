"""Samples of operators that act on each element alone."""

import torch

from tests.rules.operands import b, f, i, p, r, s, x
from tests.support.noise import noise

aten = torch.ops.aten

UNARY = """
abs acos acosh asin asinh atan atanh ceil cos cosh deg2rad digamma erf erfc erfinv exp exp2
expm1 floor frac gelu hardshrink hardsigmoid hardswish hardtanh i0 isfinite isinf isnan
leaky_relu lgamma log log10 log1p log2 log_sigmoid logit logical_not mish nan_to_num neg
positive rad2deg reciprocal relu relu6 round rsqrt selu sgn sigmoid sign signbit silu sin sinc
sinh softplus softshrink sqrt square tan tanh trunc celu elu clone contiguous alias detach
lift_fresh_copy isposinf special_erfcx
"""
IN_PLACE = """
abs_ ceil_ clamp_ cos_ erf_ exp_ floor_ gelu_ hardsigmoid_ hardswish_ hardtanh_ leaky_relu_ neg_
reciprocal_ relu_ relu6_ round_ rsqrt_ selu_ sigmoid_ silu_ sin_ sqrt_ square_ tanh_ celu_ elu_
mish_ zero_
"""
BINARY = """
add.Tensor sub.Tensor mul.Tensor div.Tensor atan2 maximum minimum fmax fmin fmod.Tensor
remainder.Tensor floor_divide true_divide.Tensor pow.Tensor_Tensor eq.Tensor ne.Tensor lt.Tensor
le.Tensor gt.Tensor ge.Tensor logical_and logical_or logical_xor hypot copysign.Tensor
xlogy.Tensor logaddexp multiply.Tensor subtract.Tensor divide.Tensor float_power.Tensor_Tensor
heaviside isclose max.other min.other rsub.Tensor nextafter
"""
SCALAR = """
add.Scalar sub.Scalar mul.Scalar div.Scalar pow.Tensor_Scalar eq.Scalar ne.Scalar lt.Scalar
gt.Scalar rsub.Scalar fmod.Scalar remainder.Scalar xlogy.Scalar_Other floor_divide.Scalar
"""


def _op(name: str) -> object:
    packet, _, overload = name.partition(".")
    return getattr(getattr(aten, packet), overload or "default")


SAMPLES = [
    *(s(_op(name), f(3, 4)) for name in UNARY.split()),
    *(s(_op(name), f(3, 4), *([0.0] if name == "clamp_" else [])) for name in IN_PLACE.split()),
    s(aten.bitwise_not.default, b(3, 4)),
    *(s(_op(name), p(3, 4), p(3, 4)) for name in BINARY.split()),
    *(s(_op(name), p(2, 1, 4), p(3, 1)) for name in BINARY.split()),
    *(s(_op(name), f(3, 4), 2.0) for name in SCALAR.split()),
    *(s(_op(name), f(3, 4), 0.0) for name in SCALAR.split() if "div" not in name),
    s(aten.add.Tensor, f(3, 4), f(4), alpha=2),
    s(aten.add.Tensor, f(3, 4), x(4)),
    s(aten.mul.Tensor, x(3, 4), f(4)),
    s(aten.mul.Tensor, f(2, 3, 4, 4), f(2, 3, 1, 1)),
    s(aten.add_.Tensor, f(3, 4), f(4)),
    s(aten.sub_.Tensor, f(3, 4), f(3, 1)),
    s(aten.mul_.Tensor, f(3, 4), f(3, 4)),
    s(aten.div_.Tensor, f(3, 4), p(3, 4)),
    s(aten.mul_.Scalar, f(3, 4), 2.0),
    s(aten.div.Tensor_mode, f(3, 4), p(4), rounding_mode="floor"),
    s(aten.copy_.default, f(3, 4), f(4)),
    s(aten.copy.default, f(3, 4), f(3, 4)),
    s(aten.fill_.Scalar, f(3, 4), 1.0),
    s(aten.fill.Tensor, f(3, 4), f()),
    s(aten.pow.Scalar, 2.0, f(3)),
    s(aten.pow.Tensor_Scalar, p(3), -0.5),
    s(aten.where.self, b(3, 4), f(3, 4), f(4)),
    s(aten.where.self, b(3, 1), f(3, 4), f()),
    s(aten.where.ScalarOther, b(3, 4), f(3, 4), 0.0),
    s(aten.where.ScalarSelf, b(3, 4), 1.0, f(3, 4)),
    s(aten.masked_fill.Scalar, f(2, 3, 4), b(3, 4), 0.0),
    s(aten.masked_fill.Scalar, f(2, 3, 4), b(3, 1), -1e9),
    s(aten.masked_fill.Tensor, f(3, 4), b(3, 4), f()),
    s(aten.masked_fill_.Scalar, f(3, 4), b(4), 0.0),
    s(aten.clamp.default, f(3), -1.0, 1.0),
    s(aten.clamp.default, f(3), 0.5),
    s(aten.clamp.Tensor, f(3, 4), f(4), p(3, 1)),
    s(aten.clamp_min.default, f(3), 0.0),
    s(aten.clamp_max.default, f(3), -0.5),
    s(aten.hardtanh.default, f(3), 0.5, 2.0),
    s(aten.threshold.default, f(3), 0.1, 0.0),
    s(aten.threshold.default, f(3), 0.1, 3.0),
    s(aten.addcmul.default, f(3, 4), f(4), f(3, 1)),
    s(aten.addcdiv.default, f(3, 4), f(4), p(3, 1), value=0.5),
    s(aten.lerp.Tensor, f(3, 4), f(3, 4), f(4)),
    s(aten.lerp.Scalar, f(3, 4), f(3, 4), 0.3),
    s(aten.to.dtype, f(3, 4), torch.float64),
    s(aten.to.other, f(3, 4), f(2)),
    s(aten.to.dtype_layout, f(3), dtype=torch.float64, device=torch.device("cpu")),
    s(aten._to_copy.default, f(3), dtype=torch.float64),
    s(aten.type_as.default, f(3, 4), f(2, 5)),
    s(aten.dropout.default, f(3, 4), 0.5, False),
    r(aten.dropout.default, f(3, 4), 0.5, True),
    s(aten.feature_dropout.default, f(2, 3, 4), 0.5, False),
    r(aten.alpha_dropout.default, f(3, 4), 0.5, True),
    r(aten.native_dropout.default, f(3, 4), 0.5, True),
    s(aten.rrelu.default, f(3, 4)),
    r(aten.rrelu.default, f(3, 4), 0.1, 0.3, True),
    r(aten.bernoulli.default, noise(3, 4).sigmoid()),
    r(aten.bernoulli.p, f(3, 4), 0.5),
    s(aten.frexp.Tensor, f(3)),
    s(aten.bitwise_and.Tensor, i(8, 3, 4), i(8, 4)),
    s(aten.logical_and.default, b(3, 4), b(4)),
    s(aten.prelu.default, f(2, 3, 4), p(3)),
    s(aten.prelu.default, f(2, 3), p(1)),
    s(aten.prelu.default, f(3), p(1)),
    s(aten.glu.default, f(2, 6), 1),
    s(aten.glu.default, f(6, 4), 0),
    s(aten.glu.default, f(2, 6)),
    s(torch.ops.fxprune.handed_on.default, f(2, 3), ""),
    s(torch.ops.fxprune.differentiated.default, f(2, 3), [f(2, 3)], [], ""),
]
