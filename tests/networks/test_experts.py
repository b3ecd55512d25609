"""Experts whose matrices torch's own kernel multiplies: in half precision, by whole blocks."""

from __future__ import annotations

import torch

from tests.networks.attention import RoutedExperts
from tests.networks.whole import analyse, obey


class HalfExperts(RoutedExperts):
    """Multiply in half precision, by torch's own kernel."""

    def build(self) -> None:
        super().build()
        self.up = torch.nn.Parameter(torch.randn(3, 48, 16) / 4)
        self.down = torch.nn.Parameter(torch.randn(3, 16, 24) / 4)

    def times(self, x, weight, ends):
        turned = weight.bfloat16().transpose(-2, -1)
        return torch._grouped_mm(x.bfloat16(), turned, offs=ends).float()


def test_features_of_experts_leave_in_blocks_that_the_kernel_reads() -> None:
    model = HalfExperts()
    analysis = analyse(model, model.inputs)
    assert not analysis.coupling.unruled | analysis.coupling.failed
    assert analysis.stays == {place for place in model.stays.split(", ") if place}
    sizes = {target.name: len(target) for target in analysis.discovery.targets}
    assert sizes == {"first:hidden": 2, "up:expert": 3, "up:hidden": 3}
    obey(analysis, (torch.randn(3, 6, 5),), ratio=0.6, exact=False)
