"""Structures on which other pruners break: what stays is what must, and the rest obeys the law."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from tests.networks import (
    attention,
    blocks,
    merged,
    movements,
    routing,
    shuffles,
    spectral,
    writes,
)
from tests.networks.structures import Structure
from tests.networks.whole import analyse, obey

NETWORKS = [
    network
    for module in (movements, blocks, attention, routing, writes, spectral, merged, shuffles)
    for _, network in inspect.getmembers(module, inspect.isclass)
    if issubclass(network, Structure) and network.__module__ == module.__name__
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_prunes_what_it_can_exactly(network: Any) -> None:
    model = network()
    analysis = analyse(model, model.inputs)
    assert analysis.stays == {place for place in model.stays.split(", ") if place}
    assert not analysis.coupling.unruled | analysis.coupling.failed
    assert model.approximate or any(target.exact for target in analysis.discovery.targets)
    another = tuple(torch.cat([x, x[:1]]) for x in model.inputs)
    obey(analysis, another)
    obey(analysis, another, ratio=0.8, seed=1)
    obey(analysis, another, exact=False)
