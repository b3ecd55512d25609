"""Weights that lie in files, read one at a time, for a model that has none itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import fx

from fxprune.targets.effective import evaluated


@dataclass(frozen=True, eq=False)
class Stored:
    """Read the weights of a model on the meta device, by their names in it, when they are asked.

    `computed` are those that operators read in place of stored ones, as nodes of `module`.
    """

    read: Callable[[str], torch.Tensor]
    module: fx.GraphModule | None = None
    computed: Mapping[str, fx.Node] = field(default_factory=dict)

    def __call__(self, name: str) -> torch.Tensor:
        """Return a weight; nothing holds it but the caller."""
        node = self.computed.get(name)
        if node is None or self.module is None:
            return self.read(name)
        return evaluated(self.module, [node], self.read)[node]

    def reading(self, module: fx.GraphModule, names: Mapping[fx.Node, str]) -> Stored:
        """Return the same for a graph that reads computed weights under these names."""
        return Stored(self.read, module, {name: node for node, name in names.items()})
