"""Experts score by what they add to the tokens that a router sends to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from fxprune.errors import CalibrationError
from tests.networks.routing import Counted, Dense, GroupLimited, Mixture, Weighed
from tests.support.metrics_of import scores
from tests.support.noise import noise

BATCHES = [noise(3, 6, 5, seed=seed) for seed in range(3)]
Wanted = tuple[Tensor, list[Tensor]]


def by_hand(model: nn.Module, tokens: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the share times the norm of the output of each expert, `[experts]`."""
    found = []
    for number in range(len(model.up)):
        at, slot = (chosen == number).nonzero(as_tuple=True)
        out = expert(model, number, tokens[at]) * shares[at, slot, None]
        found.append(out.norm(dim=-1).mean() if len(at) else torch.zeros(()))
    return torch.stack(found)


def expert(model: nn.Module, number: int, x: Tensor) -> Tensor:
    """Return what one expert makes of tokens."""
    up, down = model.up[number], model.down[number]
    if isinstance(model, Counted):
        gate, value = (x @ up.T).chunk(2, -1)
        return (F.silu(gate) * value) @ down.T
    bias = model.bias[number] if isinstance(model, Dense) else 0.0
    return F.gelu(x @ up + bias) @ down


ROUTES: dict[type[nn.Module], Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    Weighed: lambda logits: logits.softmax(-1).topk(2),
    Counted: lambda logits: logits.sigmoid().topk(2),
    Dense: lambda logits: (logits.topk(2)[0].softmax(-1), logits.topk(2)[1]),
}


@pytest.mark.parametrize("network", ROUTES, ids=lambda network: network.__name__)
def test_it_is_the_formula(network: type[nn.Module]) -> None:
    model = network().eval()
    with torch.no_grad():
        tokens = model.first(torch.cat(BATCHES)).flatten(0, 1)
        wanted = by_hand(model, tokens, *ROUTES[network](model.router(tokens)))
    found = scores(model, "reap", (BATCHES[0],), calibrate=BATCHES, kind="expert")
    np.testing.assert_allclose(*found.values(), wanted.numpy(), rtol=1e-4)


class ByGroups(GroupLimited):
    """Weigh the outputs of experts of the best groups after the last product."""

    def mixed(self, x: Tensor) -> Tensor:
        scores = self.router(x).sigmoid()
        best = scores.view(-1, 3, 2).sum(-1).topk(2)[1]
        allowed = torch.zeros(x.shape[0], 3).scatter(1, best, 1.0)
        allowed = allowed.unsqueeze(-1).expand(-1, 3, 2).flatten(1)
        share, chosen = scores.masked_fill(allowed == 0, -1.0).topk(2)
        hidden = torch.einsum("ti,tkih->tkh", x, self.up[chosen])
        out = torch.einsum("tkh,tkho->tko", hidden, self.down[chosen])
        return (out * share[..., None]).sum(1)


def test_groups_have_the_mean_over_the_tokens_of_all_their_experts() -> None:
    found = scores(ByGroups().eval(), "reap", (BATCHES[0],), calibrate=BATCHES, kind="expert")
    assert sorted(map(len, found.values())) == [2, 3]
    assert all((score > 0).all() for score in found.values())


def test_an_expert_that_no_token_goes_to_leaves_first() -> None:
    model = Weighed().eval()
    with torch.no_grad():
        model.router.bias[2] = -1e4
    spec = {"target": "expert", "metric": "reap", "objective": {"ratio": 0.25}}
    small = fxprune.prune(model, spec, (BATCHES[0],), calibrate=BATCHES)
    assert small.router.bias.min() > -1e4
    torch.testing.assert_close(small(BATCHES[1]), model(BATCHES[1]), rtol=1e-4, atol=1e-5)


def test_what_is_not_seen_by_itself_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"sees none of up:expert by themselves"):
        scores(Mixture().eval(), "reap", (BATCHES[0],), calibrate=BATCHES, kind="expert")
    with pytest.raises(CalibrationError, match="reap scores experts that a router chooses"):
        scores(Weighed().eval(), "reap", (BATCHES[0],), calibrate=BATCHES)
