"""Prune with other tools to a share of latency: Torch-Pruning and onnxsim, told what they ask for.

Neither knows a latency: their ratio is bisected until what comes out, written as ONNX, takes the
share that was asked of the original's time, in turn with it. See equal_latency.py.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

import fashion
import fxprune
from fxprune.errors import FxpruneError
from fxprune.onnx.bench import bench

TOLERANCE = 0.03
TRIES = 8
ROUNDINGS = (8, 4, None)  # of widths; the first at which the goal is met counts, as with ours
Array = NDArray[Any]


@dataclass(frozen=True)
class Pruned:
    """Hold what a tool made: an ONNX file, and the module it comes from, if there is one."""

    path: Path
    module: nn.Module | None
    note: str = ""


@dataclass(frozen=True)
class Clock:
    """Time ONNX files in turn with the original, one thread, one example."""

    original: Path
    seconds: float

    def ratio(self, path: Path, times: float = 1.0) -> tuple[float, float, float]:
        """Return the ratio to the original and the middle half of it."""
        found = bench([self.original, path], batch=1, seconds=self.seconds * times)[1]
        return found.ratio, found.ratio_low, found.ratio_high


def bisected(make: Callable[[float], Pruned], clock: Clock, goal: float) -> tuple[Pruned, float]:
    """Return what comes nearest to a share of the latency, and how far off it is, relatively."""
    low, high, best = 0.0, 1.0, None
    for _ in range(TRIES):
        ratio = (low + high) / 2
        made = make(ratio)
        share = clock.ratio(made.path)[0]
        off = abs(share / goal - 1.0)
        if off <= TOLERANCE:  # look again, for longer, before it is believed
            share = clock.ratio(made.path, times=3.0)[0]
            off = abs(share / goal - 1.0)
        if best is None or off < best[1]:
            best = (made, off)
        if off <= TOLERANCE:
            break
        low, high = (ratio, high) if share > goal else (low, ratio)
    assert best is not None
    return best


# ---- Torch-Pruning -------------------------------------------------------------------------------


def torch_pruning(
    model: nn.Module, inputs: tuple[Any, ...], goal: float, clock: Clock, folder: Path, whole: bool
) -> Pruned:
    """Return the coarsest rounding that meets the goal, pruned globally (`whole`) or uniformly."""
    nearest: tuple[Pruned, float] | None = None
    for rounding in ROUNDINGS:
        made = partial(_cut, model, inputs, folder, whole, rounding)
        found = bisected(made, clock, goal)
        if nearest is None or found[1] < nearest[1]:
            nearest = found
        if found[1] <= TOLERANCE:
            break
    assert nearest is not None
    return nearest[0]


def _cut(
    model: nn.Module,
    inputs: tuple[Any, ...],
    folder: Path,
    whole: bool,
    rounding: int | None,
    ratio: float,
) -> Pruned:
    model = narrowed_by_ratio(model, inputs, whole, rounding, ratio)
    path = folder / f"{ratio:.6f}-{rounding}-{whole}.onnx"
    fxprune.export_onnx(model.eval(), path, inputs)
    return Pruned(path, model, f"ratio {ratio:.3f}, widths by {rounding or 1}")


def narrowed_by_ratio(
    model: nn.Module, inputs: tuple[Any, ...], whole: bool, rounding: int | None, ratio: float
) -> nn.Module:
    """Return a copy of which Torch-Pruning has removed a share, globally (`whole`) or uniformly."""
    import torch_pruning as tp

    model = copy.deepcopy(model)
    attentions = [one for one in model.modules() if isinstance(one, fashion.Attention)]
    linear = [one for one in model.modules() if isinstance(one, nn.Linear)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.MagnitudePruner(
            model,
            example_inputs=inputs[0][:1],
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=whole,
            pruning_ratio=ratio,
            round_to=rounding,
            ignored_layers=linear[-1:],
            num_heads={one.qkv: one.num_heads for one in attentions},
        )
        pruner.step()
    for one in attentions:  # what it leaves to the user
        one.num_heads = pruner.num_heads[one.qkv]
        one.head_dim = one.qkv.out_features // (3 * one.num_heads)
    return model.eval()


# ---- onnxsim -------------------------------------------------------------------------------------


def onnxsim(
    model: nn.Module, inputs: tuple[Any, ...], goal: float, clock: Clock, folder: Path
) -> Pruned:
    """Return the file that `apply_structured_pruning` and head pruning make of the original's."""
    found, off = bisected(partial(_simplified, clock.original, folder), clock, goal)
    if off > 0.5:
        raise FxpruneError(f"onnxsim: the nearest is {1 + off:.2f} of what was asked")
    module, note = model, found.note
    try:
        module = narrowed(model, inputs, onnx.load(clock.original), onnx.load(found.path))
        agreeing(module, inputs, found.path)
    except FxpruneError as error:
        return Pruned(found.path, None, f"{note}; {error}")
    return Pruned(found.path, module, note)


def _simplified(original: Path, folder: Path, ratio: float) -> Pruned:
    import onnxsim as sim

    model = onnx.load(original)
    model = sim.apply_structured_pruning(model, sparsity=ratio)
    heads = sim.apply_attention_head_pruning(model, sparsity=ratio)
    path = folder / f"onnxsim-{ratio:.6f}.onnx"
    onnx.save(heads, path)
    return Pruned(path, None, f"sparsity {ratio:.3f}")


def narrowed(
    model: nn.Module, inputs: tuple[Any, ...], before: onnx.ModelProto, after: onnx.ModelProto
) -> nn.Module:
    """Return the module whose layers keep what those of a pruned file keep, batch norms included.

    The file has its batch norms folded into convolutions, so that their statistics could not be
    estimated anew. Which outputs of a layer stayed is told by its folded biases, which inputs by
    the columns of its weights. Raises FxpruneError where that tells nothing.
    """
    small = copy.deepcopy(model)
    norms, old, new = _norms(small, inputs), _weights(before), _weights(after)
    for name, layer in small.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        if name not in old or name not in new:
            raise FxpruneError(f"{name} is not found in the file, so that it stays as it is")
        (w0, b0), (w1, b1) = old[name], new[name]
        rows = _found(b0, b1) if len(b1) < len(b0) else np.arange(len(b0))
        kept = w0[rows]
        columns = np.arange(kept.shape[1])
        if w1.shape[1] < kept.shape[1]:
            columns = _found(kept.swapaxes(0, 1), w1.swapaxes(0, 1))
        _narrow(layer, torch.from_numpy(rows), torch.from_numpy(columns))
        if (norm := norms.get(layer)) is not None:
            _narrow_norm(norm, torch.from_numpy(rows))
    return small


def _norms(model: nn.Module, inputs: tuple[Any, ...]) -> dict[nn.Module, nn.Module]:
    """Return the batch norm that runs right after each layer."""
    seen: list[nn.Module] = []
    hooks = [
        one.register_forward_hook(lambda module, *_: seen.append(module))
        for one in model.modules()
        if isinstance(one, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))
    ]
    with torch.no_grad():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    return {a: b for a, b in pairwise(seen) if isinstance(b, nn.BatchNorm2d)}


def _weights(model: onnx.ModelProto) -> dict[str, tuple[Array, Array]]:
    """Return weight [out, in, …] and bias [out] of the file's layers, by the module's name."""
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    found: dict[str, tuple[Array, Array]] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        name = node.input[1].removesuffix(".weight")
        if {*node.input[1:3]} <= arrays.keys() and name != node.input[1]:
            found[name] = arrays[node.input[1]], arrays[node.input[2]]
    return found


def _found(whole: Array, part: Array) -> Array:
    """Return where each entry of `part` stands in `whole`; raises FxpruneError where in doubt."""
    places: dict[bytes, list[int]] = {}
    for k, one in enumerate(whole):
        places.setdefault(np.ascontiguousarray(one).tobytes(), []).append(k)
    told = [places.get(np.ascontiguousarray(one).tobytes(), []) for one in part]
    if any(len(one) != 1 for one in told):
        raise FxpruneError("the channels that stayed cannot be told, so that it stays as it is")
    return np.array([one[0] for one in told])


def _narrow(layer: nn.Module, rows: torch.Tensor, columns: torch.Tensor) -> None:
    weight, bias = layer.weight, layer.bias
    layer.weight = nn.Parameter(weight.detach()[rows][:, columns].clone())  # type: ignore[index]
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach()[rows].clone())  # type: ignore[index,operator]
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = len(rows), len(columns)
        return
    assert isinstance(layer, nn.Conv2d)
    if layer.groups == layer.in_channels == layer.out_channels:
        layer.groups = len(rows)
    layer.out_channels, layer.in_channels = len(rows), len(columns) * layer.groups


def _narrow_norm(norm: nn.Module, rows: torch.Tensor) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    norm.num_features = len(rows)
    norm.weight, norm.bias = (
        nn.Parameter(one.detach()[rows].clone()) for one in (norm.weight, norm.bias)
    )
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean, norm.running_var = norm.running_mean[rows], norm.running_var[rows]


def agreeing(module: nn.Module, inputs: Sequence[Any], path: Path) -> None:
    """Raise FxpruneError where a module and a file give different numbers."""
    from fxprune.onnx.sessions import open_session

    session = open_session(path)
    feeds = {one.name: x.numpy() for one, x in zip(session.get_inputs(), inputs, strict=True)}
    with torch.no_grad():
        wanted = module(*inputs).numpy()
    found = session.run(None, feeds)[0]
    error = float(np.abs(found - wanted).max() / max(1e-6, np.abs(wanted).max()))
    if not error < 1e-3:
        raise FxpruneError(f"its module and its file differ by {error:.1e}")
