"""Write fake quantization as ONNX knows it: rounded to eight bits and back, by grids at rest.

What observes and rounds at once, as in quantization-aware training, becomes what only rounds. A
range that is a part of that of eight bits is cut out of it by clamping first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxprune.errors import ExportError
from fxprune.graphs import arguments

aten = torch.ops.aten
PER_TENSOR = aten.fake_quantize_per_tensor_affine
PER_CHANNEL = aten.fake_quantize_per_channel_affine
SIGNED, UNSIGNED = (-128, 127), (0, 255)
KNOWN = (SIGNED, UNSIGNED, (0, 127))


def with_known_grids(program: torch.export.ExportedProgram) -> None:
    """Rewrite the quantizers of a program in place.

    Raises ExportError where one still observes, and where its range is larger than eight bits.
    """
    for node in list(program.graph.nodes):
        if node.target is aten.fused_moving_avg_obs_fake_quant.default:
            _settled(program, node)
        if getattr(node.target, "overloadpacket", None) in (PER_TENSOR, PER_CHANNEL):
            _fitted(program.graph, node)
    program.graph_module.recompile()


def _settled(program: torch.export.ExportedProgram, node: fx.Node) -> None:
    """Replace what observes and rounds by what rounds only, or by what it is given."""
    args = arguments(node)
    observer, quantizer = (
        _buffer(program, args[name]) for name in ("observer_on", "fake_quant_on")
    )
    if _on(program, observer):
        raise ExportError(
            f"{node.name}: its observer adapts the grid at every call, which a file cannot; set "
            f"the buffer {observer} to 0 first"
        )
    if not _on(program, quantizer):
        node.replace_all_uses_with(args["self"])
        program.graph.erase_node(node)
        return
    grid = (args["self"], args["scale"], args["zero_point"])
    bounds = (args["quant_min"], args["quant_max"])
    per_channel = args["per_row_fake_quant"]
    node.target = PER_CHANNEL.default if per_channel else PER_TENSOR.tensor_qparams
    node.args = (*grid, args["ch_axis"], *bounds) if per_channel else (*grid, *bounds)
    node.kwargs = {}


def _buffer(program: torch.export.ExportedProgram, switch: fx.Node) -> str:
    buffers: dict[str, str] = program.graph_signature.inputs_to_buffers
    return buffers[str(switch.target)]


def _on(program: torch.export.ExportedProgram, name: str) -> bool:
    held = program.state_dict.get(name, program.constants.get(name))
    return bool(held.any()) if isinstance(held, torch.Tensor) else True


def _fitted(graph: fx.Graph, node: fx.Node) -> None:
    """Give a quantizer the range of eight bits, its operand clamped to the range that it had."""
    args = arguments(node)
    low, high = args["quant_min"], args["quant_max"]
    if (low, high) in KNOWN:
        return
    wide = UNSIGNED if low >= 0 else SIGNED
    if low < wide[0] or high > wide[1]:
        raise ExportError(f"{node.name}: a grid from {low} to {high} has more than eight bits")
    with graph.inserting_before(node):
        x, scale, zero = args["self"], args["scale"], args["zero_point"]
        if "axis" in args:
            rank = x.meta["val"].ndim
            sizes = [-1 if dim == args["axis"] % rank else 1 for dim in range(rank)]
            scale, zero = (_call(graph, aten.view.default, one, sizes) for one in (scale, zero))
        bounds = [_bound(graph, bound, scale, zero) for bound in (low, high)]
        tensors = any(isinstance(bound, fx.Node) for bound in bounds)
        clamp = aten.clamp.Tensor if tensors else aten.clamp.default
        clamped = _call(graph, clamp, x, *bounds)
    fitted = args | {"self": clamped, "quant_min": wide[0], "quant_max": wide[1]}
    node.args, node.kwargs = tuple(fitted.values()), {}


def _bound(graph: fx.Graph, bound: int, scale: Any, zero: Any) -> Any:
    """Return the number that is rounded to an end of the range: (bound − zero point) · scale."""
    if not isinstance(scale, fx.Node):
        return (bound - zero) * scale
    steps = _call(graph, aten.rsub.Scalar, zero, bound)
    return _call(graph, aten.mul.Tensor, steps, scale)


def _call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    node = graph.call_function(target, args)
    given = fx.map_arg(args, lambda one: one.meta["val"])
    fakes = [one.meta["val"] for one in node.all_input_nodes]
    with fakes[0].fake_mode:
        node.meta["val"] = target(*given)
    return node
