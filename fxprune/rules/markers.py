"""Markers that the capture puts in the graph: they hand their input on."""

from __future__ import annotations

import torch

from fxprune.capture import marker as marking
from fxprune.capture.own_backward import differentiated as own
from fxprune.rules.registry import couples
from fxprune.rules.site import Site, TensorGuard

assert marking.NAMESPACE == "fxprune"  # importing it registers the operator


@couples(torch.ops.fxprune.handed_on.default)
def marker(site: Site) -> TensorGuard:
    """Pass every axis through."""
    return site.tensor("x")


@couples(own)
def differentiated(site: Site) -> TensorGuard:
    """Pass every axis of the result through: the arguments are for gradients alone."""
    return site.tensor("y")
