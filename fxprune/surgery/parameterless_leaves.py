"""Which ATen call is which leaf module without weights: activations, pools, dropout, shapes.

These are restored where `nn_module_stack` says that the module was of that very class. A row is the
class, its operators, and how its constructor's arguments are read from the call's: `name`,
`name=argument`, or `-argument` for one that the class itself implies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fxprune.surgery.parameterised_leaves import Build, Call, Leaf, full_name, plain

aten = torch.ops.aten

_POOL = "kernel_size stride padding ceil_mode"
_MAX_POOL = f"{_POOL} dilation"
_AVG_POOL = f"{_POOL} count_include_pad divisor_override"
_RESIZE = "size=output_size scale_factor=scale_factors"
_FIRST: dict[int, tuple[int, ...]] = {0: ()}  # the operator alone returns indices

ROWS: tuple[tuple[Any, tuple[Any, ...], str], ...] = (
    (nn.ReLU, (aten.relu.default, aten.relu_.default), ""),
    (nn.ReLU6, (aten.hardtanh.default, aten.hardtanh_.default), "-min_val -max_val"),
    (nn.ReLU6, (aten.relu6.default, aten.relu6_.default), ""),
    (nn.Hardtanh, (aten.hardtanh.default, aten.hardtanh_.default), "min_val max_val"),
    (nn.GELU, (aten.gelu.default,), "approximate"),
    (nn.SiLU, (aten.silu.default, aten.silu_.default), ""),
    (nn.Mish, (aten.mish.default, aten.mish_.default), ""),
    (nn.Hardswish, (aten.hardswish.default, aten.hardswish_.default), ""),
    (nn.Hardsigmoid, (aten.hardsigmoid.default, aten.hardsigmoid_.default), ""),
    (nn.Sigmoid, (aten.sigmoid.default,), ""),
    (nn.Tanh, (aten.tanh.default,), ""),
    (nn.LogSigmoid, (aten.log_sigmoid.default,), ""),
    (nn.LeakyReLU, (aten.leaky_relu.default, aten.leaky_relu_.default), "negative_slope"),
    (nn.ELU, (aten.elu.default, aten.elu_.default), "alpha"),
    (nn.SELU, (aten.selu.default, aten.selu_.default), ""),
    (nn.CELU, (aten.celu.default, aten.celu_.default), "alpha"),
    (nn.Softplus, (aten.softplus.default,), "beta threshold"),
    (nn.Threshold, (aten.threshold.default, aten.threshold_.default), "threshold value"),
    (nn.Hardshrink, (aten.hardshrink.default,), "lambd"),
    (nn.Softshrink, (aten.softshrink.default,), "lambd"),
    (nn.RReLU, (aten.rrelu.default, aten.rrelu_.default), "lower upper"),
    (nn.GLU, (aten.glu.default,), "dim"),
    (nn.Softmax, (aten.softmax.int,), "dim"),
    (nn.LogSoftmax, (aten.log_softmax.int,), "dim"),
    (nn.Softmax2d, (aten.softmax.int,), "-dim"),
    (nn.Dropout, (aten.dropout.default, aten.dropout_.default), "p"),
    (nn.Dropout1d, (aten.feature_dropout.default, aten.feature_dropout_.default), "p"),
    (nn.Dropout2d, (aten.feature_dropout.default, aten.feature_dropout_.default), "p"),
    (nn.Dropout3d, (aten.feature_dropout.default, aten.feature_dropout_.default), "p"),
    (nn.AlphaDropout, (aten.alpha_dropout.default, aten.alpha_dropout_.default), "p"),
    (
        nn.FeatureAlphaDropout,
        (aten.feature_alpha_dropout.default, aten.feature_alpha_dropout_.default),
        "p",
    ),
    (nn.MaxPool1d, (aten.max_pool1d.default,), _MAX_POOL),
    (nn.MaxPool2d, (aten.max_pool2d.default,), _MAX_POOL),
    (nn.MaxPool3d, (aten.max_pool3d.default,), _MAX_POOL),
    (nn.MaxPool1d, (aten.max_pool1d_with_indices.default,), f"{_MAX_POOL} +return_indices"),
    (nn.MaxPool2d, (aten.max_pool2d_with_indices.default,), f"{_MAX_POOL} +return_indices"),
    (nn.MaxPool3d, (aten.max_pool3d_with_indices.default,), f"{_MAX_POOL} +return_indices"),
    (nn.AvgPool1d, (aten.avg_pool1d.default,), f"{_POOL} count_include_pad"),
    (nn.AvgPool2d, (aten.avg_pool2d.default,), _AVG_POOL),
    (nn.AvgPool3d, (aten.avg_pool3d.default,), _AVG_POOL),
    (nn.AdaptiveAvgPool1d, (aten.adaptive_avg_pool1d.default,), "output_size"),
    (nn.AdaptiveAvgPool2d, (aten.adaptive_avg_pool2d.default,), "output_size"),
    (nn.AdaptiveAvgPool3d, (aten.adaptive_avg_pool3d.default,), "output_size"),
    (nn.AdaptiveMaxPool1d, (aten.adaptive_max_pool1d.default,), "output_size"),
    (nn.AdaptiveMaxPool2d, (aten.adaptive_max_pool2d.default,), "output_size"),
    (nn.AdaptiveMaxPool3d, (aten.adaptive_max_pool3d.default,), "output_size"),
    (nn.Upsample, (aten.upsample_nearest1d.vec,), f"{_RESIZE} mode:nearest"),
    (nn.Upsample, (aten.upsample_nearest2d.vec,), f"{_RESIZE} mode:nearest"),
    (nn.Upsample, (aten.upsample_nearest3d.vec,), f"{_RESIZE} mode:nearest"),
    (nn.Upsample, (aten.upsample_linear1d.vec,), f"{_RESIZE} align_corners mode:linear"),
    (nn.Upsample, (aten.upsample_bilinear2d.vec,), f"{_RESIZE} align_corners mode:bilinear"),
    (nn.Upsample, (aten.upsample_bicubic2d.vec,), f"{_RESIZE} align_corners mode:bicubic"),
    (nn.Upsample, (aten.upsample_trilinear3d.vec,), f"{_RESIZE} align_corners mode:trilinear"),
    (nn.UpsamplingNearest2d, (aten.upsample_nearest2d.vec,), _RESIZE),
    (nn.UpsamplingBilinear2d, (aten.upsample_bilinear2d.vec,), f"{_RESIZE} -align_corners"),
    (nn.PixelShuffle, (aten.pixel_shuffle.default,), "upscale_factor"),
    (nn.PixelUnshuffle, (aten.pixel_unshuffle.default,), "downscale_factor"),
    (nn.ChannelShuffle, (aten.channel_shuffle.default,), "groups"),
    (nn.Flatten, (aten.flatten.using_ints,), "start_dim end_dim"),
    (nn.Unflatten, (aten.unflatten.int,), "dim unflattened_size=sizes"),
    (nn.Unfold, (aten.im2col.default,), "kernel_size dilation padding stride"),
    (nn.Fold, (aten.col2im.default,), "output_size kernel_size dilation padding stride"),
    *(
        (getattr(nn, f"{name}Pad{rank}d"), (aten.pad.default,), how)
        for rank in (1, 2, 3)
        for name, how in {
            "Zero": "padding=pad -mode -value",
            "Constant": "padding=pad value -mode",
            "Reflection": "padding=pad -mode",
            "Replication": "padding=pad -mode",
            "Circular": "padding=pad -mode",
        }.items()
    ),
)


def _keywords(call: Call, how: str) -> dict[str, Any] | None:
    """Read the constructor's keywords off a call, or nothing where it says more than they can."""
    said, keywords = set[str](), dict[str, Any]()
    for word in how.split():
        if word[0] in "-+":
            said.add(word[1:])
            keywords |= {word[1:]: True} if word[0] == "+" else {}
        elif ":" in word:
            name, _, value = word.partition(":")
            keywords[name] = value
        else:
            name, _, source = word.partition("=")
            said.add(source or name)
            keywords[name] = plain(call.args[source or name])
    for argument in call.node.target._schema.arguments[1:]:  # type: ignore[union-attr]
        default = argument.default_value if argument.has_default_value() else False
        if argument.name not in said and call.args[argument.name] != default:
            return None
    return keywords


def _built(kind: Any, how: str) -> Build:
    def build(call: Call) -> nn.Module | None:
        keywords = _keywords(call, how)
        if keywords is None:
            return None
        if str(call.node.target).partition(".")[2].partition(".")[0].endswith("_"):
            keywords["inplace"] = True
        return kind(**keywords)  # type: ignore[no-any-return]

    return build


# (operator, class as nn_module_stack writes it) -> leaf
PARAMETERLESS: dict[tuple[Any, str], Leaf] = {
    (operator, full_name(kind)): Leaf(
        _built(kind, how), unpack=_FIRST if kind.__name__.startswith("AdaptiveMax") else {}
    )
    for kind, operators, how in ROWS
    for operator in operators
}

# What a functional call becomes, since a flag that is False in evaluation follows the mode.
_DROPOUT_OF_RANK = {3: nn.Dropout1d, 4: nn.Dropout2d, 5: nn.Dropout3d}


def _feature_dropout(call: Call) -> nn.Module | None:
    kind = _DROPOUT_OF_RANK.get(call.rank())
    return None if kind is None else _built(kind, "p")(call)


FUNCTIONAL: dict[Any, Leaf] = {
    aten.dropout.default: Leaf(_built(nn.Dropout, "p")),
    aten.dropout_.default: Leaf(_built(nn.Dropout, "p")),
    aten.feature_dropout.default: Leaf(_feature_dropout),
    aten.feature_dropout_.default: Leaf(_feature_dropout),
    aten.alpha_dropout.default: Leaf(_built(nn.AlphaDropout, "p")),
    aten.alpha_dropout_.default: Leaf(_built(nn.AlphaDropout, "p")),
    aten.feature_alpha_dropout.default: Leaf(_built(nn.FeatureAlphaDropout, "p")),
    aten.feature_alpha_dropout_.default: Leaf(_built(nn.FeatureAlphaDropout, "p")),
    aten.rrelu.default: Leaf(_built(nn.RReLU, "lower upper")),
    aten.rrelu_.default: Leaf(_built(nn.RReLU, "lower upper")),
}
