"""How much errors inside a network matter to what it returns: gradients of random outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils import _pytree as pytree

from fxprune.errors import CalibrationError, first_line
from fxprune.metrics.calibration import detached
from fxprune.metrics.registry import Evidence

Probed = tuple[Tensor, Tensor]  # a value, and the gradient with respect to it


class Probe(fx.Interpreter):
    """Run a graph and differentiate a random sum of what it returns by what some nodes give.

    The sum is `Σ vᵀf/|f|` over the outputs f, v drawn from a normal distribution: the mean of the
    squared gradients is what a small error of that entry costs, squared and relative to |f|².
    """

    def __init__(self, evidence: Evidence, nodes: Collection[fx.Node]) -> None:
        super().__init__(detached(evidence.module, gradients=False), graph=evidence.module.graph)
        self._nodes = set(nodes)
        self._seen: dict[fx.Node, tuple[Tensor, GradientEdge]] = {}
        self._draw = torch.Generator().manual_seed(0)

    def of(self, leaves: Sequence[Any], number: int) -> Mapping[fx.Node, Probed]:
        """Return what nodes give on a batch, with gradients; nothing depends on those left out."""
        self._seen.clear()
        try:
            with torch.enable_grad():
                total = self._drawn(self.run(*leaves, enable_io_processing=False))
                edges = [edge for _, edge in self._seen.values()]
                if total is None or not edges or not total.requires_grad:
                    return {}
                found = torch.autograd.grad(total, edges, allow_unused=True)
        except RuntimeError as error:
            raise CalibrationError(
                f"calibrate: batch {number}: torch cannot differentiate the model: "
                f'{first_line(error)}; set weigh to "relative"'
            ) from error
        pairs = zip(self._seen.items(), found, strict=True)
        return {node: (value, g) for (node, (value, _)), g in pairs if g is not None}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and remember its result where it is looked at."""
        result = super().run_node(n)
        if n in self._nodes and isinstance(result, Tensor) and result.is_floating_point():
            if not result.requires_grad:
                result = result.detach().requires_grad_().clone()
            self._seen[n] = (result.detach().clone(), get_gradient_edge(result))
        return result

    def _drawn(self, outputs: Any) -> Tensor | None:
        total: Tensor | None = None
        for one in pytree.tree_leaves(outputs):
            if not isinstance(one, Tensor) or not one.is_floating_point():
                continue
            size = one.detach().double().square().sum().sqrt().clamp(min=1e-30)
            drawn = torch.randn(one.shape, generator=self._draw).to(one.device, one.dtype)
            part = (one * drawn / size.to(one.dtype)).sum()
            total = part if total is None else total + part
        return total
