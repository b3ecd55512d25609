"""onnx_batchnorm: a batch norm behind a linear operator becomes part of its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from fxprune.onnx.program import GraphEdit
from fxprune.onnx.view import Array, View, values_of
from fxprune.pipeline import register


@register("onnx_batchnorm")
@dataclass(frozen=True)
class FoldBatchNorm(GraphEdit):
    """Fold inference batch norms into the Conv, ConvTranspose, Gemm or MatMul before them."""

    def edit(self, view: View) -> int:
        """Put norms into weights; those that other nodes read are left as they are."""
        changed = 0
        for node in view.nodes("BatchNormalization"):
            maker = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
            fold = _FOLDS.get(maker.op) if maker is not None and not maker.domain else None
            affine = _affine(view, node)
            if fold is None or affine is None or not view.private(node.inputs[0]):
                continue
            changed += fold(view, maker, node, *affine)
        return changed


def _affine(view: View, node: gs.Node) -> tuple[Array, Array] | None:
    """Return the scale and shift that a norm applies to each channel, in double precision."""
    # In training mode it takes its statistics from the batch; before opset 14 it said so by
    # having more than one output, and before 9 in other ways.
    used = [out for out in node.outputs if not out.is_empty()]
    if view.opset < 9 or node.attrs.get("training_mode", 0) or len(used) != 1:
        return None
    given = [values_of(one) for one in node.inputs[1:5]]
    if any(one is None or one.dtype.kind != "f" for one in given) or len(given) != 4:
        return None
    scale, bias, mean, var = (np.asarray(one, np.float64) for one in given)
    factor = scale / np.sqrt(var + float(node.attrs.get("epsilon", 1e-5)))
    shift = bias - mean * factor
    return (factor, shift) if np.isfinite(factor).all() and np.isfinite(shift).all() else None


def _weights(view: View, maker: gs.Node) -> tuple[Array, Array | None] | None:
    """Return weight and bias (None: absent), where both are constants and the weight is its own.

    A weight that another node reads would have to be stored twice.
    """
    weight = values_of(maker.inputs[1])
    if weight is None or weight.dtype.kind != "f" or not view.private(maker.inputs[1]):
        return None
    if len(maker.inputs) < 3 or maker.inputs[2].is_empty():
        return weight, None
    bias = values_of(maker.inputs[2])
    return None if bias is None or bias.dtype != weight.dtype else (weight, bias)


def _finish(
    view: View, maker: gs.Node, norm: gs.Node, weight: Array, bias: Array, kind: Any
) -> bool:
    """Write new weights into the operator, and let it make what the norm made."""
    if not view.bypass(norm, norm.inputs[0]):
        return False
    old, biases = maker.inputs[1], list(maker.inputs[2:3])
    maker.inputs[1] = view.renewed(old, weight.astype(kind))
    if biases and not biases[0].is_empty():
        maker.inputs[2] = view.renewed(biases[0], bias.astype(kind))
    else:
        shift = view.constant(f"{old.name}_shift", bias.astype(kind))
        maker.inputs = [*maker.inputs[:2], shift]
    return True


def _conv(view: View, maker: gs.Node, norm: gs.Node, factor: Array, shift: Array) -> bool:
    found = _weights(view, maker)
    if found is None or found[0].shape[0] != len(factor):
        return False
    weight, bias = found
    scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    added = shift if bias is None else bias * factor + shift
    return _finish(view, maker, norm, scaled, added, weight.dtype)


def _conv_transpose(view: View, maker: gs.Node, norm: gs.Node, factor: Array, shift: Array) -> bool:
    found = _weights(view, maker)
    groups = int(maker.attrs.get("group", 1))
    if found is None or found[0].shape[1] * groups != len(factor):
        return False
    weight, bias = found
    # The weight is [in, out / groups, …], and the groups of its outputs follow those of its inputs.
    split = weight.reshape(groups, -1, *weight.shape[1:])
    ones = [1] * (weight.ndim - 2)
    scaled = (split * factor.reshape(groups, 1, weight.shape[1], *ones)).reshape(weight.shape)
    added = shift if bias is None else bias * factor + shift
    return _finish(view, maker, norm, scaled, added, weight.dtype)


def _gemm(view: View, maker: gs.Node, norm: gs.Node, factor: Array, shift: Array) -> bool:
    found = _weights(view, maker)
    across = bool(maker.attrs.get("transB", 0))
    if found is None or found[0].shape[0 if across else 1] != len(factor):
        return False
    weight, bias = found
    if bias is not None and bias.size not in (1, len(factor)):
        return False
    if bias is not None and bias.ndim == 2 and bias.shape[0] != 1:
        return False
    scaled = weight * (factor[:, None] if across else factor[None, :])
    beta = float(maker.attrs.get("beta", 1.0))
    added = shift if bias is None else beta * bias.reshape(-1) * factor + shift
    if not _finish(view, maker, norm, scaled, added, weight.dtype):
        return False
    maker.attrs["beta"] = 1.0
    return True


def _matmul(view: View, maker: gs.Node, norm: gs.Node, factor: Array, shift: Array) -> bool:
    """Scale the columns; the shift becomes the bias of a Gemm, which a matrix times one is."""
    dims, weight = view.dims(maker.inputs[0]), values_of(maker.inputs[1])
    if dims is None or len(dims) != 2 or weight is None or weight.ndim != 2:
        return False  # of more axes, the norm's channels are not the columns
    if not _gemm(view, maker, norm, factor, shift):
        return False
    maker.op = "Gemm"
    return True


_FOLDS: dict[str, Callable[[View, gs.Node, gs.Node, Array, Array], bool]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
