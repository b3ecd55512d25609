"""Random networks obey the law of the whole."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks.growing import Network, networks
from tests.networks.whole import analyse, obey


@settings(max_examples=60)
@given(networks(), st.floats(0.1, 0.9), st.integers(0, 99))
def test_zeroed_equals_shrunk(network: Network, ratio: float, seed: int) -> None:
    analysis = analyse(network, (torch.randn(2, 3, 4, 4), torch.randn(2, 5)))
    assert not analysis.coupling.unruled | analysis.coupling.failed
    another = (torch.randn(3, 3, 4, 4), torch.randn(3, 5))
    obey(analysis, another, ratio=ratio, seed=seed)
    obey(analysis, another, ratio=ratio, seed=seed, exact=False)
