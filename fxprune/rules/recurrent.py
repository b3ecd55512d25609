"""LSTM, GRU and plain RNN: the hidden axis, gate by gate; layers and directions share a width."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from fxprune.guards import Ids, concat, outer, true
from fxprune.rules.registry import Shapes, couples
from fxprune.rules.site import Site, TensorGuard

aten = torch.ops.aten

GATES: dict[Any, int] = {
    aten.lstm.input: 4,
    aten.gru.input: 3,
    aten.rnn_tanh.input: 1,
    aten.rnn_relu.input: 1,
}


def _macs(shape: Shapes, args: dict[str, Any]) -> int:
    steps, batch = shape("input")[:2]
    weights = [shape(f"params.{k}") for k in range(len(args["params"]))]
    return steps * batch * sum(w[0] * w[1] for w in weights if len(w) == 2)


CELLS: dict[Any, int] = {
    aten.lstm_cell.default: 4,
    aten.gru_cell.default: 3,
    aten.rnn_tanh_cell.default: 1,
    aten.rnn_relu_cell.default: 1,
}


def _cell_macs(shape: Shapes, args: dict[str, Any]) -> int:
    return shape("input")[0] * (prod(shape("w_ih")) + prod(shape("w_hh")))


@couples(*CELLS, macs=_cell_macs)
def cell(site: Site) -> TensorGuard | tuple[TensorGuard, ...]:
    """Couple one step: `b i, b h, (g h) i, (g h) h, (g h)?, (g h)? -> b h`; gates are pinned."""
    x, given = site.tensor("input"), site.args["hx"]
    states = [
        s for arg in (given if isinstance(given, (list, tuple)) else [given]) if (s := site.of(arg))
    ]
    hidden, rows = states[0].dims[-1], x.dims[:-1]
    for state in states:
        hidden = site.unify(hidden, state.dims[-1])
        rows = tuple(site.unify(a, b) for a, b in zip(rows, state.dims[:-1], strict=True))
    site.role(hidden, "hidden")
    weights = [v for name in ("w_ih", "w_hh", "b_ih", "b_hh") if (v := site.optional(name))]
    _layer(site, weights, CELLS[site.operator], (x.dims[-1], x.zero[-1]), hidden, hidden)
    result = TensorGuard((*rows, hidden), (*(False for _ in rows), _starts_zero(states)))
    return result if len(states) == 1 else (result, result)


@couples(*GATES, macs=_macs)
def recurrent(site: Site) -> tuple[TensorGuard, ...]:
    """Couple `(g h) i` and `(g h) h` weights over layers and directions; gates are pinned."""
    x = site.tensor("input")
    hx = site.args["hx"]
    states = [s for arg in (hx if isinstance(hx, (list, tuple)) else [hx]) if (s := site.of(arg))]
    for g in x.dims[:-1]:
        site.pin(g, "each step depends on those before, and the batch keeps its size")
    params = site.many("params")
    gates, directions = GATES[site.operator], 2 if site.args["bidirectional"] else 1
    per = (4 if site.args["has_biases"] else 2) + _projected(site, params)
    hidden, out = _state(site, states)
    feed, zero = x.dims[-1], x.zero[-1]
    layer_out: list[Ids] = []
    for layer in range(int(site.args["num_layers"])):
        layer_out = []
        for side in range(directions):
            start = (layer * directions + side) * per
            weights = params[start : start + per]
            _layer(site, weights, gates, (feed, zero), hidden, out)
            layer_out.append(out)
        feed, zero = concat(layer_out), True
    shown = (*x.dims[:-1], concat(layer_out))
    first = TensorGuard(shown, (False, False, _starts_zero(states)))
    return (first, *states)


def _projected(site: Site, params: list[TensorGuard]) -> int:
    layers = int(site.args["num_layers"]) * (2 if site.args["bidirectional"] else 1)
    return int(len(params) == layers * (5 if site.args["has_biases"] else 3))


def _state(site: Site, states: list[TensorGuard]) -> tuple[Ids, Ids]:
    """Return the guards of the hidden axis and of the output (a projection makes them two)."""
    for state in states:
        site.pin(state.dims[0], "layers and directions are kept")
        for g in state.dims[1:-1]:
            site.pin(g, "the batch keeps its size")
    out, hidden = states[0].dims[-1], states[-1].dims[-1]
    if len(states) == 2 and len(out) == len(hidden):
        out = hidden = site.unify(out, hidden)
    elif len(states) == 2:
        site.pin(hidden, "a projection stays narrower than what it projects")
    site.role(hidden, "hidden")
    site.role(out, "hidden")
    return hidden, out


def _layer(
    site: Site,
    weights: list[TensorGuard],
    gates: int,
    feed: tuple[Ids, bool],
    hidden: Ids,
    out: Ids,
) -> None:
    rows = outer([true(gates), hidden])
    w_ih, w_hh = weights[:2]
    site.unify(w_ih.dims[0], rows)
    site.unify(w_hh.dims[0], rows)
    if len(feed[0]) == len(w_ih.dims[1]):
        site.unify(w_ih.dims[1], feed[0])
    site.unify(w_hh.dims[1], out)
    for bias in (w for w in weights[2:] if len(w.dims) == 1):
        site.unify(bias.dims[0], rows)
    if len(weights) % 2:  # the projection of an LSTM with proj_size
        site.unify(weights[-1].dims[0], out)
        site.unify(weights[-1].dims[1], hidden)


def _starts_zero(states: list[TensorGuard]) -> bool:
    return all(state.zero[-1] for state in states)
