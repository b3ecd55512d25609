"""Samples of fake quantization, its grids fixed or learned, one for all or one a channel."""

import torch

from tests.rules.operands import f, held, p, r, s, x

aten = torch.ops.aten


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def _observed(observes: int, channels: int) -> tuple[object, ...]:
    """Return the switches, ranges and grids of an observer."""
    switches = [torch.tensor([observes]), torch.tensor([1])]
    ranges = [held(-p(channels)), held(p(channels)), held(p(channels) / 64)]
    return *switches, *ranges, _zeros(channels), 0.01, -128, 127


_FUNCTIONAL = aten._fused_moving_avg_obs_fq_helper_functional.default

SAMPLES = [
    s(aten.fake_quantize_per_tensor_affine.default, f(3, 4), 0.05, 0, -128, 127),
    s(aten.fake_quantize_per_tensor_affine.default, f(3, 4), 0.05, 7, 0, 255),
    s(aten.fake_quantize_per_tensor_affine.tensor_qparams, f(3, 4), held(p(1)), _zeros(1), 0, 9),
    s(aten.fake_quantize_per_tensor_affine.tensor_qparams, x(3, 4), held(p(1)), _zeros(1), 0, 9),
    s(aten.fake_quantize_per_tensor_affine_cachemask.default, f(3, 4), 0.05, 0, -128, 127),
    s(
        aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default,
        *(f(3, 4), held(p(1)), _zeros(1), torch.ones(1, dtype=torch.int64), -9, 9),
    ),
    s(aten.fake_quantize_per_channel_affine.default, f(4, 3), held(p(4)), _zeros(4), 0, -9, 9),
    s(aten.fake_quantize_per_channel_affine.default, f(2, 4, 3), held(p(4)), _zeros(4), 1, -9, 9),
    s(aten.fake_quantize_per_channel_affine.default, f(4, 3), p(4), _zeros(4), 0, -9, 9),
    s(
        aten.fake_quantize_per_channel_affine_cachemask.default,
        f(4, 3),
        held(p(4)),
        _zeros(4),
        0,
        -9,
        9,
    ),
    s(
        aten._fake_quantize_learnable_per_tensor_affine.default,
        f(3, 4),
        p(1),
        held(f(1) * 0),
        -9,
        9,
    ),
    s(
        aten._fake_quantize_learnable_per_channel_affine.default,
        *(f(4, 3), held(p(4)), held(torch.zeros(4)), 0, -9, 9),
    ),
    s(_FUNCTIONAL, f(3, 4), *_observed(0, 1), -1),
    s(_FUNCTIONAL, f(4, 3), *_observed(0, 4), 0, True, True),
    s(_FUNCTIONAL, f(5, 3), *_observed(1, 5), 0, True, True),
    r(aten.fused_moving_avg_obs_fake_quant.default, f(3, 4), *_observed(0, 1), -1),
    r(aten.fused_moving_avg_obs_fake_quant.default, f(4, 3), *_observed(1, 4), 0, True, True),
    r(aten._fused_moving_avg_obs_fq_helper.default, f(4, 3), *_observed(1, 4), 0, True, True),
]
