"""Markers that the capture puts in the graph: they hand their input on."""

from __future__ import annotations

import torch

from fxprune import training_only
from fxprune.rules.registry import couples
from fxprune.rules.site import Site, TensorGuard

assert training_only.NAMESPACE == "fxprune"  # importing it registers the operator


@couples(torch.ops.fxprune.training_only.default)
def marker(site: Site) -> TensorGuard:
    """Pass every axis through."""
    return site.tensor("x")
