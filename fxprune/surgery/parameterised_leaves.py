"""Which ATen call is which leaf module with weights: one table from operator to builder.

A leaf is built from the call's own arguments and the shapes its weights have now, on the meta
device; the tensors are put in afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten
META = torch.device("meta")
TENSORS = ("weight", "bias", "running_mean", "running_var")  # arguments that are the leaf's own

Build = Callable[["Call"], nn.Module | None]


@dataclass(frozen=True)
class Call:
    """Hold one ATen call: `args` by name, with the leaf's own tensors in place of their nodes."""

    node: fx.Node
    args: dict[str, Any]
    kind: str  # the torch.nn class whose forward made the call, or ""
    owned: Mapping[str, torch.Tensor]  # what stands beside the call's tensors, by attribute name
    shape: Callable[[fx.Node], tuple[int, ...] | None]

    def rank(self) -> int:
        """Return the number of axes of the input."""
        value = next(iter(self.args.values())).meta.get("val")
        return value.ndim if isinstance(value, torch.Tensor) else 0


@dataclass(frozen=True)
class Leaf:
    """Hold how a call becomes a module: what is built, what it is fed, and what it returns.

    `unpack` maps an index of the ATen result to the way into the module's result; empty where both
    return the same.
    """

    build: Build
    inputs: tuple[str, ...] = ()  # the schema's first argument where none is named
    unpack: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def full_name(kind: type) -> str:
    """Return a class as `nn_module_stack` writes it."""
    return f"{kind.__module__}.{kind.__qualname__}"


def plain(value: Any) -> Any:
    """Return a literal as a constructor takes it: lists as tuples, an empty one as absent."""
    if isinstance(value, (list, tuple)):
        return tuple(value) or None
    return value


def made(kind: Any, *args: Any, **options: Any) -> nn.Module:
    """Return a new module on the meta device: a copy, where one was made alike before.

    To initialise a module takes much longer than to copy it, and its tensors are put in later.
    """
    first = _first(kind, args, tuple(options.items()))
    leaf: nn.Module = kind.__new__(kind)
    vars(leaf).update(
        (k, v.copy() if isinstance(v, (dict, list, set)) else v) for k, v in vars(first).items()
    )
    return leaf


@lru_cache(maxsize=256)
def _first(kind: Any, args: tuple[Any, ...], options: tuple[tuple[str, Any], ...]) -> nn.Module:
    leaf: nn.Module = kind(*args, **dict(options), device=META)
    return leaf


# ---- with weights: any call that reads them by their standard names ------------------------------


def _conv(kind: Any) -> Build:
    def build(call: Call) -> nn.Module:
        a, (out, grouped, *kernel) = call.args, call.args["weight"].shape
        return made(
            kind,
            grouped * a["groups"],
            out,
            tuple(kernel),
            plain(a["stride"]),
            plain(a["padding"]),
            plain(a["dilation"]),
            a["groups"],
            a["bias"] is not None,
        )

    return build


def _conv_transpose(kind: Any) -> Build:
    def build(call: Call) -> nn.Module:
        a, (into, grouped, *kernel) = call.args, call.args["weight"].shape
        return kind(  # type: ignore[no-any-return]
            into,
            grouped * a["groups"],
            tuple(kernel),
            plain(a["stride"]),
            plain(a["padding"]),
            plain(a["output_padding"]),
            a["groups"],
            a["bias"] is not None,
            plain(a["dilation"]),
            device=META,
        )

    return build


def _linear(call: Call) -> nn.Module | None:
    weight = call.args["weight"]
    if weight.ndim != 2:
        return None
    return made(nn.Linear, weight.shape[1], weight.shape[0], call.args["bias"] is not None)


def _bilinear(call: Call) -> nn.Module:
    out, left, right = call.args["weight"].shape
    return nn.Bilinear(left, right, out, call.args["bias"] is not None, device=META)


def _embedding(call: Call) -> nn.Module:
    a, (count, width) = call.args, call.args["weight"].shape
    padding = None if a["padding_idx"] == -1 else a["padding_idx"]
    return nn.Embedding(
        count,
        width,
        padding,
        scale_grad_by_freq=a["scale_grad_by_freq"],
        sparse=a["sparse"],
        device=META,
    )


def _channels(call: Call, *names: str) -> int | None:
    """Return the number of channels, read off a tensor of the call or else its input."""
    for name in names:
        if call.args[name] is not None:
            return int(call.args[name].shape[0])
    shape = call.shape(call.args["input"])
    if shape is None:
        return None
    return shape[1] if len(shape) > 1 else None


BATCH_NORMS = {
    full_name(kind): kind
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
}
BATCH_NORM_OF_RANK = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _batch_norm(call: Call) -> nn.Module | None:
    a, tracked = call.args, call.args["running_mean"] is not None
    kind: Any = BATCH_NORMS.get(call.kind) or BATCH_NORM_OF_RANK.get(call.rank())
    channels = _channels(call, *TENSORS)
    if kind is None or channels is None or frozen(a) or a["training"] is tracked:
        return None
    if tracked and "num_batches_tracked" not in call.owned:
        return None
    # Evaluation passes 0.0 for momentum=None, the cumulative average.
    momentum = a["momentum"] or None if tracked else 0.1
    affine = a["weight"] is not None or a["bias"] is not None
    return made(kind, channels, a["eps"], momentum, affine, tracked, bias=a["bias"] is not None)


def frozen(args: Mapping[str, Any]) -> bool:
    """Tell a norm whose scale is a buffer: it is frozen, and keeps its statistics in training."""
    weight = args["weight"]
    return weight is not None and not isinstance(weight, nn.Parameter)


INSTANCE_NORM_OF_RANK = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def _instance_norm(call: Call) -> nn.Module | None:
    a, tracked = call.args, call.args["running_mean"] is not None
    kind = INSTANCE_NORM_OF_RANK.get(call.rank())
    channels = _channels(call, *TENSORS)
    if kind is None or channels is None or a["use_input_stats"] is tracked:
        return None
    affine, bias = a["weight"] is not None, a["bias"] is not None
    return kind(channels, a["eps"], a["momentum"], affine, tracked, bias=bias, device=META)


def _layer_norm(call: Call) -> nn.Module | None:
    a = call.args
    if a["weight"] is None and a["bias"] is not None:
        return None
    shape, affine = tuple(a["normalized_shape"]), a["weight"] is not None
    return made(nn.LayerNorm, shape, a["eps"], affine, a["bias"] is not None)


def _rms_norm(call: Call) -> nn.Module:
    a = call.args
    return nn.RMSNorm(list(a["normalized_shape"]), a["eps"], a["weight"] is not None, device=META)


def _group_norm(call: Call) -> nn.Module | None:
    a = call.args
    channels = _channels(call, "weight", "bias")
    if channels is None or channels % a["num_groups"]:
        return None
    affine, bias = a["weight"] is not None, a["bias"] is not None
    return nn.GroupNorm(a["num_groups"], channels, a["eps"], affine, bias=bias, device=META)


def _prelu(call: Call) -> nn.Module:
    return nn.PReLU(call.args["weight"].numel(), device=META)


def recurrent_names(args: Mapping[str, Any]) -> list[str]:
    """Return the attribute names of `params`, in the order in which nn.LSTM passes them."""
    sides = ("", "_reverse") if args["bidirectional"] else ("",)
    kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if args["has_biases"] else [])]
    if len(args["params"]) > args["num_layers"] * len(sides) * len(kinds):
        kinds.append("weight_hr")
    layers = range(args["num_layers"])
    return [f"{kind}_l{layer}{side}" for layer in layers for side in sides for kind in kinds]


def _recurrent(kind: Any, gates: int, **options: Any) -> Build:
    def build(call: Call) -> nn.Module | None:
        a = call.args
        tensors = dict(zip(recurrent_names(a), a["params"], strict=True))
        if a["train"]:
            return None
        projection = tensors.get("weight_hr_l0")
        sizes = {"proj_size": len(projection)} if projection is not None else {}
        return kind(  # type: ignore[no-any-return]
            tensors["weight_ih_l0"].shape[1],
            tensors["weight_ih_l0"].shape[0] // gates,
            num_layers=a["num_layers"],
            bias=a["has_biases"],
            batch_first=a["batch_first"],
            dropout=a["dropout"],
            bidirectional=a["bidirectional"],
            device=META,
            **sizes,
            **options,
        )

    return build


_ONE_STATE = {0: (0,), 1: (1,)}

PARAMETERISED: dict[Any, Leaf] = {
    aten.conv1d.default: Leaf(_conv(nn.Conv1d)),
    aten.conv1d.padding: Leaf(_conv(nn.Conv1d)),
    aten.conv2d.default: Leaf(_conv(nn.Conv2d)),
    aten.conv2d.padding: Leaf(_conv(nn.Conv2d)),
    aten.conv3d.default: Leaf(_conv(nn.Conv3d)),
    aten.conv3d.padding: Leaf(_conv(nn.Conv3d)),
    aten.conv_transpose1d.default: Leaf(_conv_transpose(nn.ConvTranspose1d)),
    aten.conv_transpose2d.input: Leaf(_conv_transpose(nn.ConvTranspose2d)),
    aten.conv_transpose3d.input: Leaf(_conv_transpose(nn.ConvTranspose3d)),
    aten.linear.default: Leaf(_linear),
    aten.bilinear.default: Leaf(_bilinear, ("input1", "input2")),
    aten.embedding.default: Leaf(_embedding, ("indices",)),
    aten.batch_norm.default: Leaf(_batch_norm),
    aten.instance_norm.default: Leaf(_instance_norm),
    aten.layer_norm.default: Leaf(_layer_norm),
    aten.rms_norm.default: Leaf(_rms_norm),
    aten.group_norm.default: Leaf(_group_norm),
    aten.prelu.default: Leaf(_prelu),
    aten.lstm.input: Leaf(_recurrent(nn.LSTM, 4), ("input", "hx"), {0: (0,), 1: (1, 0), 2: (1, 1)}),
    aten.gru.input: Leaf(_recurrent(nn.GRU, 3), ("input", "hx"), _ONE_STATE),
    aten.rnn_tanh.input: Leaf(_recurrent(nn.RNN, 1), ("input", "hx"), _ONE_STATE),
    aten.rnn_relu.input: Leaf(
        _recurrent(nn.RNN, 1, nonlinearity="relu"), ("input", "hx"), _ONE_STATE
    ),
}
