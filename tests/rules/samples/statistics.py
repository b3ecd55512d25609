"""Samples of normalisations, reductions, spatial operators and recurrences."""

from itertools import pairwise

import torch

from tests.rules.operands import f, i, p, s, x

aten = torch.ops.aten
moments = (f(4), p(4))
pair = ([2, 2], [2, 2])
torchvision = torch.ops.torchvision


def _gates(gates: int, *widths: int, bias: bool = True, projected: int = 0) -> list[torch.Tensor]:
    """Return the parameters of recurrent layers: input width, then one hidden width a layer."""
    weights = []
    for into, hidden in pairwise(widths):
        back = projected or hidden
        weights += [f(gates * hidden, into), f(gates * hidden, back)]
        weights += [f(gates * hidden), f(gates * hidden)] if bias else []
        weights += [f(projected, hidden)] if projected else []
    return weights


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


tail = (0.0, False, False, True)  # dropout, training, bidirectional, batch_first

SAMPLES = [
    s(aten.batch_norm.default, f(2, 4, 3, 3), f(4), f(4), *moments, False, 0.1, 1e-5, True),
    s(aten.batch_norm.default, f(2, 4), None, None, *moments, False, 0.1, 1e-5, True),
    s(aten.batch_norm.default, f(2, 4, 3), f(4), f(4), None, None, True, 0.1, 1e-5, True),
    s(aten.instance_norm.default, f(2, 4, 3, 3), f(4), f(4), None, None, True, 0.1, 1e-5, True),
    s(aten.instance_norm.default, f(2, 4, 6), None, None, *moments, False, 0.1, 1e-5, True),
    s(
        aten._native_batch_norm_legit_no_training.default,
        f(2, 4, 3),
        f(4),
        f(4),
        *moments,
        0.1,
        1e-5,
    ),
    s(aten.native_batch_norm.default, f(2, 4, 3), f(4), f(4), *moments, False, 0.1, 1e-5),
    s(aten._native_batch_norm_legit.default, f(3, 4, 3), f(4), f(4), *moments, False, 0.1, 1e-5),
    s(aten._native_batch_norm_legit.no_stats, f(3, 4, 3), f(4), f(4), True, 0.1, 1e-5),
    s(aten.layer_norm.default, f(2, 3, 4), [4], f(4), f(4)),
    s(aten.layer_norm.default, f(2, 3, 4), [3, 4], f(3, 4)),
    s(aten.layer_norm.default, f(2, 4), [4]),
    s(aten.native_layer_norm.default, f(2, 3, 4), [4], f(4), f(4), 1e-5),
    s(aten.rms_norm.default, f(2, 3, 4), [4], f(4)),
    s(aten.rms_norm.default, f(2, 4), [4]),
    s(aten._fused_rms_norm.default, f(2, 4), [4], f(4), 1e-5),
    s(aten.group_norm.default, f(2, 6, 3), 3, f(6), f(6)),
    s(aten.group_norm.default, f(2, 6, 3), 6, f(6), f(6)),
    s(aten.group_norm.default, f(2, 6, 3), 1, f(6), f(6)),
    s(aten.group_norm.default, f(2, 6, 3), 2),
    s(aten.native_group_norm.default, f(2, 6, 3), f(6), f(6), 2, 6, 3, 3, 1e-5),
    s(aten._weight_norm.default, f(4, 3, 2), p(4, 1, 1)),
    s(aten._weight_norm.default, f(4, 3), p(1, 3), 1),
    s(aten.sum.default, f(2, 3)),
    s(aten.sum.dim_IntList, f(2, 3, 4), [1]),
    s(aten.sum.dim_IntList, f(2, 3, 4), [-1, 0], True),
    s(aten.nansum.default, f(2, 3), [1]),
    s(aten.linalg_vector_norm.default, f(2, 3), 2, [1], True),
    s(aten.linalg_vector_norm.default, f(2, 3), -1.0, [1]),
    s(aten.norm.Scalar, f(2, 3)),
    s(aten.norm.ScalarOpt_dim, f(2, 3), 1, [1], True),
    s(aten.norm.ScalarOpt_dtype, f(2, 3), 2, dtype=torch.float32),
    s(aten.norm.ScalarOpt_dim_dtype, f(2, 3), 2, [0], False, dtype=torch.float32),
    s(aten.any.default, f(2, 3)),
    s(aten.any.dim, f(2, 3), 1, True),
    s(aten.any.dims, f(2, 3), [1]),
    s(aten.all.default, f(2, 3)),
    s(aten.all.dim, f(2, 3), 1),
    s(aten.all.dims, f(2, 3), [0]),
    s(aten.count_nonzero.default, f(2, 3), 1),
    s(aten.count_nonzero.dim_IntList, f(2, 3), [1]),
    s(aten.mean.default, f(2, 3)),
    s(aten.mean.dim, f(2, 3, 4), [1], True),
    s(aten.mean.dim, f(2, 3, 4), [-1]),
    s(aten.nanmean.default, f(2, 3), [1]),
    s(aten.amax.default, f(2, 3), [1], True),
    s(aten.amin.default, f(2, 3), [0]),
    s(aten.aminmax.default, f(2, 3), dim=1),
    s(aten.max.default, f(2, 3)),
    s(aten.min.default, f(2, 3)),
    s(aten.max.dim, f(2, 3), 1),
    s(aten.min.dim, f(2, 3), 1, True),
    s(aten.median.default, f(2, 3)),
    s(aten.nanmedian.default, f(2, 3)),
    s(aten.median.dim, f(2, 3), 1),
    s(aten.nanmedian.dim, f(2, 3), 1),
    s(aten.mode.default, f(2, 3)),
    s(aten.kthvalue.default, f(2, 3), 2),
    s(aten.prod.default, f(2, 3)),
    s(aten.prod.dim_int, f(2, 3), 1),
    s(aten.var.default, f(3, 3)),
    s(aten.var.correction, f(3, 4), [1], correction=0),
    s(aten.var.dim, f(3, 4), [1], False, True),
    s(aten.var_mean.default, f(3, 3)),
    s(aten.var_mean.correction, f(3, 4), [1], keepdim=True),
    s(aten.var_mean.dim, f(3, 4), [1]),
    s(aten.std.default, f(3, 3)),
    s(aten.std.correction, f(3, 4), [0]),
    s(aten.std.dim, f(3, 4), [1]),
    s(aten.std_mean.default, f(3, 3)),
    s(aten.std_mean.correction, f(3, 4), [1]),
    s(aten.std_mean.dim, f(3, 4), [1]),
    s(aten.logsumexp.default, f(2, 3), [1]),
    s(aten.softmax.int, f(2, 3, 4, 4), -1),
    s(aten.softmax.int, f(2, 3), 0),
    s(aten._softmax.default, f(2, 3), 1, False),
    s(aten.log_softmax.int, f(2, 3), 1),
    s(aten._log_softmax.default, f(2, 3), 1, False),
    s(aten._safe_softmax.default, f(2, 3), 1),
    s(aten.cumsum.default, f(2, 4), 1),
    s(aten.cumsum.default, x(2, 4), 1),
    s(aten.cumprod.default, f(2, 4), 1),
    s(aten.logcumsumexp.default, f(2, 4), 1),
    s(aten.tril.default, f(2, 4, 4)),
    s(aten.triu.default, f(2, 4, 4), 1),
    s(aten.tril_.default, f(2, 4, 4)),
    s(aten.triu_.default, f(2, 4, 4)),
    s(aten.max_pool1d.default, f(2, 3, 6), [2]),
    s(aten.max_pool2d.default, f(2, 3, 6, 6), *pair, [1, 1]),
    s(aten.max_pool2d.default, f(3, 6, 6), [2, 2]),
    s(aten.max_pool3d.default, f(1, 3, 4, 4, 4), [2]),
    s(aten.max_pool1d_with_indices.default, f(2, 3, 6), [2]),
    s(aten.max_pool2d_with_indices.default, f(2, 3, 6, 6), *pair),
    s(aten.max_pool3d_with_indices.default, f(1, 3, 4, 4, 4), [2]),
    s(aten.max_unpool2d.default, f(2, 3, 2, 2), i(4, 2, 3, 2, 2), [4, 4]),
    s(aten.max_unpool3d.default, f(2, 3, 2, 2, 2), i(4, 2, 3, 2, 2, 2), [4] * 3, [2] * 3, [0] * 3),
    s(aten.avg_pool1d.default, f(2, 3, 6), [2]),
    s(aten.avg_pool2d.default, f(2, 3, 6, 6), *pair, [1, 1]),
    s(aten.avg_pool3d.default, f(1, 3, 4, 4, 4), [2, 2, 2]),
    s(aten.adaptive_avg_pool1d.default, f(2, 3, 6), [2]),
    s(aten.adaptive_avg_pool2d.default, f(2, 3, 6, 6), [1, 1]),
    s(aten.adaptive_avg_pool3d.default, f(1, 3, 4, 4, 4), [2, 2, 2]),
    s(aten._adaptive_avg_pool2d.default, f(2, 3, 6, 6), [1, 1]),
    s(aten._adaptive_avg_pool3d.default, f(1, 3, 4, 4, 4), [2, 2, 2]),
    s(aten.adaptive_max_pool1d.default, f(2, 3, 6), [2]),
    s(aten.adaptive_max_pool2d.default, f(2, 3, 6, 6), [1, 1]),
    s(aten.adaptive_max_pool3d.default, f(1, 3, 4, 4, 4), [2, 2, 2]),
    *(
        s(getattr(getattr(aten, f"{name}{n}d"), overload), f(2, 3, *(4,) * n), [6] * n, *more)
        for name, dims, corners in (
            ("upsample_nearest", (1, 2, 3), False),
            ("_upsample_nearest_exact", (1, 2, 3), False),
            ("upsample_linear", (1,), True),
            ("upsample_bilinear", (2,), True),
            ("upsample_trilinear", (3,), True),
            ("upsample_bicubic", (2,), True),
        )
        for n in dims
        for overload, more in (
            ("default", (False,) * corners),
            ("vec", (*(False,) * corners, None)),
        )
    ),
    s(aten._upsample_bilinear2d_aa.default, f(2, 3, 6, 6), [4, 4], False),
    s(aten._upsample_bilinear2d_aa.vec, f(2, 3, 6, 6), [4, 4], False, None),
    s(aten._upsample_bicubic2d_aa.default, f(2, 3, 6, 6), [4, 4], False),
    s(aten._upsample_bicubic2d_aa.vec, f(2, 3, 6, 6), [4, 4], False, None),
    s(aten.reflection_pad1d.default, f(2, 3, 4), [1, 1]),
    s(aten.reflection_pad2d.default, f(2, 3, 4, 4), [1] * 4),
    s(aten.reflection_pad3d.default, f(2, 3, 4, 4, 4), [1] * 6),
    s(aten.replication_pad1d.default, f(2, 3, 4), [1, 1]),
    s(aten.replication_pad2d.default, f(2, 3, 4, 4), [1] * 4),
    s(aten.replication_pad3d.default, f(2, 3, 4, 4, 4), [1] * 6),
    s(aten.grid_sampler.default, f(2, 3, 4, 4), f(2, 5, 5, 2), 0, 0, False),
    s(aten.grid_sampler_2d.default, f(2, 3, 4, 4), x(2, 5, 5, 2), 0, 0, False),
    s(aten.grid_sampler_3d.default, f(1, 3, 4, 4, 4), x(1, 2, 2, 2, 3), 0, 0, False),
    s(aten.im2col.default, f(2, 3, 5, 5), [3, 3], [1, 1], [0, 0], [1, 1]),
    s(aten.im2col.default, f(3, 5, 5), [2, 2], [1, 1], [0, 0], [2, 2]),
    s(aten.col2im.default, f(2, 12, 4), [4, 4], [2, 2], [1, 1], [0, 0], [2, 2]),
    s(aten.unfold.default, f(2, 3, 8), 2, 4, 2),
    s(
        aten.lstm.input,
        f(2, 5, 3),
        [_zeros(1, 2, 4), _zeros(1, 2, 4)],
        _gates(4, 3, 4),
        True,
        1,
        *tail,
    ),
    s(aten.lstm.input, f(2, 5, 3), [f(2, 2, 4), f(2, 2, 4)], _gates(4, 3, 4, 4), True, 2, *tail),
    s(
        aten.lstm.input,
        *(
            f(5, 2, 3),
            [f(2, 2, 4), f(2, 2, 4)],
            [*_gates(4, 3, 4, bias=False), *_gates(4, 3, 4, bias=False)],
        ),
        *(False, 1, 0.0, False, True, False),
    ),
    s(
        aten.lstm.input,
        *(f(2, 5, 3), [f(1, 2, 3), f(1, 2, 4)], _gates(4, 3, 4, projected=3), True, 1, *tail),
    ),
    s(aten.gru.input, f(2, 5, 3), _zeros(1, 2, 4), _gates(3, 3, 4), True, 1, *tail),
    s(aten.gru.input, x(2, 5, 3), f(2, 2, 4), _gates(3, 3, 4, 4), True, 2, *tail),
    s(aten.rnn_tanh.input, f(2, 5, 3), f(1, 2, 4), _gates(1, 3, 4), True, 1, *tail),
    s(aten.rnn_relu.input, f(2, 5, 3), f(1, 2, 4), _gates(1, 3, 4, bias=False), False, 1, *tail),
    s(aten.lstm_cell.default, f(2, 3), [f(2, 4), f(2, 4)], *_gates(4, 3, 4)),
    s(aten.lstm_cell.default, x(2, 3), [x(2, 4), f(2, 4)], *_gates(4, 3, 4)),
    s(aten.gru_cell.default, f(2, 3), f(2, 4), *_gates(3, 3, 4)),
    s(aten.rnn_tanh_cell.default, f(2, 3), f(2, 4), *_gates(1, 3, 4)),
    s(aten.rnn_relu_cell.default, f(2, 3), f(2, 4), *_gates(1, 3, 4, bias=False)),
    s(aten.topk.default, f(3, 5), 2, 1, False),
    s(aten.argmin.default, f(3, 5), 1),
    s(aten.histc.default, x(7), 4, -1, 1),
]
