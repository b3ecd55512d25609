"""Random chains with units killed by hand: everything dead is gone, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fxprune
from tests.networks.killed import STAGES, Stage, expected, killed
from tests.support.noise import noise

X = (noise(2, 3, 12, 12),)


@settings(max_examples=30, deadline=None)
@given(st.lists(STAGES, min_size=1, max_size=3), st.integers(0, 999))
def test_exactly_what_is_dead_is_gone(stages: Sequence[Stage], seed: int) -> None:
    model = killed(stages, seed)
    wanted = expected(model)
    fast = fxprune.speedup(model, X).eval()
    found = [fast.get_parameter(f"conv.{k}.weight").shape[0] for k in range(len(stages))]
    assert found == wanted, fast.report.notes
    x = torch.randn(3, 3, 12, 12)
    with torch.no_grad():
        ours, theirs = model(x), fast(x)
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, float(ours.abs().max()))
