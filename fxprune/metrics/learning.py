"""What metrics that learn during fine-tuning share: which parameters, and when a step begins."""

from __future__ import annotations

import torch
from torch import fx

from fxprune.graphs import attribute


def trained(module: fx.GraphModule) -> list[str]:
    """Return the names of the floating-point parameters that a graph reads, each once."""
    names, seen = list[str](), set[int]()
    for node in module.graph.find_nodes(op="get_attr"):
        tensor = attribute(module, str(node.target))
        if isinstance(tensor, torch.nn.Parameter) and id(tensor) not in seen:
            seen.add(id(tensor))
            if tensor.is_floating_point():
                names.append(str(node.target))
    return names


def begins(parameter: torch.nn.Parameter) -> bool:
    """Tell whether nothing has been accumulated since gradients were set to zero or to none.

    A penalty belongs to a step of the optimizer, not to each of the backward passes whose gradients
    the caller accumulates for it.
    """
    return parameter.grad is None or not bool(parameter.grad.any())
